"""How transformers makes attention masks, changed inside of contexts: without looking at values, or under observation."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MAKERS


#: Functions that get a mask maker of transformers and return another, those of the contexts that this thread is in.
WRAPPERS: ContextVar[tuple[Callable, ...]] = ContextVar("WRAPPERS", default=())


def dispatcher(maker: Callable) -> Callable:
    """Return a mask maker that is `maker`, but for the wrappers of the contexts that it is called in."""

    def dispatch(*args, **arguments) -> torch.Tensor | None:
        made_by = maker
        # In a graph transformers looks at no values anyway, and a compiler cannot follow contexts.
        for wrapper in () if torch.compiler.is_compiling() else WRAPPERS.get():
            made_by = wrapper(made_by)
        return made_by(*args, **arguments)

    return dispatch


# Flash attention unpads by values itself.
for name in ("eager", "sdpa"):
    MAKERS[name] = dispatcher(MAKERS[name])


@contextlib.contextmanager
def wrapped(wrapper: Callable) -> Iterator[None]:
    """Let `wrapper` change the masks of encoders that run in this context. Other threads and other models are not affected."""
    token = WRAPPERS.set((*WRAPPERS.get(), wrapper))
    try:
        yield
    finally:
        WRAPPERS.reset(token)


def without_values(maker: Callable) -> Callable:
    """Return a mask maker that does not look whether a mask could be left out, which stops a GPU: it depends on shapes alone."""

    def make(*args, **arguments) -> torch.Tensor | None:
        if arguments.get("attention_mask") is not None:
            arguments |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return maker(*args, **arguments)

    return make


def without_padding(length: int, maker: Callable) -> Callable:
    """
    Return a mask maker for inputs of `length` without padding: it makes no mask if none of another kind is needed, and looks at no
    values. The mask of an encoder that pads its inputs itself (Longformer) is longer, and stays.
    """

    def make(*args, **arguments) -> torch.Tensor | None:
        padding = arguments.get("attention_mask")
        if padding is not None and padding.shape[-1] != length:
            return without_values(maker)(*args, **arguments)
        return maker(*args, **arguments | {"attention_mask": None})

    return make


def masks_by_shape(length: int | None = None) -> contextlib.AbstractContextManager:
    """
    Return a context in which transformers makes an attention mask whenever it is given a padding mask. By itself it looks at the
    values of the padding mask first, to leave out a mask that hides nothing, and a GPU has to finish all its work before that. For
    inputs of `length` that have no padding, it makes none, so that the fastest kernels can be used.
    """
    wrapper = without_values if length is None else functools.partial(without_padding, length)
    return contextlib.nullcontext() if torch.compiler.is_compiling() else wrapped(wrapper)


@contextlib.contextmanager
def causal_masks() -> Iterator[list[bool]]:
    """Run encoders in this context to get a list of their masks: whether each hides a token from the one before it."""
    found = []

    def observed(maker: Callable) -> Callable:
        def make(*args, **arguments) -> torch.Tensor | None:
            first, second = torch.arange(2, device="cpu")
            found.append(not arguments["mask_function"](first, first, first, second))
            return maker(*args, **arguments)

        return make

    with wrapped(observed):
        yield found
