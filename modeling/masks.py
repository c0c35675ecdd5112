"""How transformers makes attention masks, changed for the time of a call: without looking at values, or under observation."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MAKERS


#: The attention implementations that models here can have.
IMPLEMENTATIONS = ("eager", "sdpa")

#: The wrappers that are active in this thread, outermost first. A wrapper gets a mask maker and its keyword arguments.
WRAPPERS: ContextVar[tuple[Callable, ...]] = ContextVar("WRAPPERS", default=())


class Installation:
    """Puts dispatchers in the place of the mask makers as long as any thread is inside a context that wraps them."""

    def __init__(self):
        self.lock, self.users, self.local = threading.Lock(), 0, {}

    def __enter__(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                # Only what was set locally is set again: the others stay those that are registered.
                self.local = {name: MAKERS._local_mapping.get(name) for name in IMPLEMENTATIONS}
                for name in IMPLEMENTATIONS:
                    MAKERS[name] = dispatcher(MAKERS[name])

    def __exit__(self, *_) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                for name, maker in self.local.items():
                    del MAKERS[name]
                    if maker is not None:
                        MAKERS[name] = maker


INSTALLATION = Installation()


def dispatcher(maker: Callable) -> Callable:
    """Return a mask maker that calls `maker` through the wrappers of the thread that it runs in."""

    def dispatch(**arguments) -> torch.Tensor | None:
        made_by = maker
        for wrapper in WRAPPERS.get():
            made_by = wrapper(made_by)
        return made_by(**arguments)

    return dispatch


@contextlib.contextmanager
def wrapped(wrapper: Callable) -> Iterator[None]:
    """Let `wrapper`, which gets a mask maker and returns another, make the masks of encoders that run in this context."""
    token = WRAPPERS.set((*WRAPPERS.get(), wrapper))
    try:
        with INSTALLATION:
            yield
    finally:
        WRAPPERS.reset(token)


def without_values(maker: Callable) -> Callable:
    """Return a mask maker that does not look whether a mask could be left out, which stops a GPU: it depends on shapes alone."""

    def make(**arguments) -> torch.Tensor | None:
        if arguments.get("attention_mask") is not None:
            arguments |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return maker(**arguments)

    return make


def masks_by_shape() -> contextlib.AbstractContextManager:
    """
    Return a context in which transformers makes an attention mask whenever it is given a padding mask, and none otherwise. By
    itself it looks at the values of the padding mask first, to leave out a mask that hides nothing, and a GPU has to finish
    all its work before that. Nested contexts, other threads and other models are not affected.
    """
    # In a graph transformers looks at no values anyway, and a compiler cannot follow what is done here.
    return contextlib.nullcontext() if torch.compiler.is_compiling() else wrapped(without_values)


@contextlib.contextmanager
def causal_masks() -> Iterator[list[bool]]:
    """Run encoders in this context to get a list of their masks: whether each hides a token from the one before it."""
    found = []

    def observed(maker: Callable) -> Callable:
        def make(**arguments) -> torch.Tensor | None:
            first, second = torch.arange(2, device="cpu")
            found.append(not arguments["mask_function"](first, first, first, second))
            return maker(**arguments)

        return make

    with wrapped(observed):
        yield found
