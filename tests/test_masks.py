"""Attention masks are made without looking at values, and they are the masks that encoders make otherwise."""

import contextlib
import threading
from collections.abc import Iterator

import pytest
import torch
from conftest import ARCHITECTURES, IMAGE_SIZE, tiny_batch, tiny_bert, tiny_model
from families import TEXT, tiny_config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertModel, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask

from renaissance.modeling.encoder_embeddings import give_embeddings
from renaissance.modeling.encoder_forward import EncoderInterface, run_layers, run_text_tower, run_vision_tower
from renaissance.modeling.encoder_traits import REFUSED, inspect_layers
from renaissance.modeling.encoders import build_encoder
from renaissance.modeling.layers import CrossModalMasks
from renaissance.modeling.masks import masks_by_shape


aten = torch.ops.aten

#: Families that look at values themselves, and why.
LOOKING = {
    "diffllama": "copies a scalar to the CPU in its backward pass on meta tensors",
    "flaubert": "asserts that no text is longer than the batch",
    "ibert": "asks whether its activations are quantised",
    "jamba": "asks whether its recurrent layers have padding to leave out",
    "lfm2": "asks whether its convolutions have padding to leave out",
    "longformer": "asks whether any token has global attention",
    "mamba2": "asks whether its recurrent layers have padding to leave out",
    "xlm": "asserts that no text is longer than the batch",
    "xmod": "picks the rows of each language",
}


def config_of(family: str) -> PreTrainedConfig:
    config = tiny_config(family, text=True)
    return getattr(config, "text_config", None) or config


FAMILIES = [family for family in TEXT if family not in (*REFUSED, "perceiver")]


def masked_encoder(family: str, device: str = "cpu") -> torch.nn.Module:
    """An encoder of the family; those that take no mask have no tests here."""
    with torch.device(device):
        encoder = build_encoder(config_of(family))
    if not EncoderInterface.of(encoder).masked:
        pytest.skip("its encoder takes no attention mask")
    return encoder


class NoValues(TorchDispatchMode):
    """Raises if the value of a tensor is asked for: a GPU would have to finish its work first."""

    LOOKS = (aten._local_scalar_dense, aten.nonzero, aten.is_nonzero, aten.masked_select, aten.equal, aten._unique2)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or func.overloadpacket in self.LOOKS:
            raise AssertionError(f"{func} looks at values")
        return func(*args, **(kwargs or {}))


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of three rows and their mask, two of them padded."""
    ids = torch.randint(5, 100, (3, 8), generator=torch.Generator().manual_seed(0))
    return ids, (torch.arange(8) < torch.tensor([[8], [5], [3]])).long()


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_that_the_encoder_computes_by_itself(family):
    torch.manual_seed(0)
    encoder = masked_encoder(family).eval()
    ids, mask = rows()
    interface = EncoderInterface.of(encoder)
    kwargs = {"use_cache": False} if "use_cache" in interface.arguments else {}
    if family == "longformer":
        kwargs["global_attention_mask"] = (torch.arange(8) == 0).expand(3, 8)
    with torch.no_grad():
        for given in (mask, torch.ones_like(mask), None):
            read = torch.ones_like(mask) if given is None else given
            plain = encoder(input_ids=ids, attention_mask=read, **kwargs).last_hidden_state
            found = run_text_tower(encoder, interface, ids, given).last_hidden_state
            torch.testing.assert_close(found[read.bool()], plain[read.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [3, 4, 5, 7])
def test_an_encoder_keeps_the_mask_of_padding_of_its_own(length):
    """Longformer pads texts to whole windows, here of 4 tokens, and must not attend to that."""
    torch.manual_seed(0)
    encoder = build_encoder(config_of("longformer")).eval()
    ids, interface = rows()[0][:, :length], EncoderInterface.of(encoder)
    first = (torch.arange(length) == 0).expand(3, length)
    with torch.no_grad():
        plain = encoder(input_ids=ids, attention_mask=torch.ones_like(ids), global_attention_mask=first)
        found = run_text_tower(encoder, interface, ids, None)
    torch.testing.assert_close(found.last_hidden_state, plain.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_tower_looks_at_no_value(family):
    encoder = masked_encoder(family, "meta").train().bfloat16()  # experts multiply in nothing else there
    ids, mask = (tensor.to("meta") for tensor in rows())
    looks = pytest.raises((AssertionError, NotImplementedError)) if family in LOOKING else contextlib.nullcontext()
    for given in (mask, None):
        with looks, NoValues():
            run_text_tower(encoder, EncoderInterface.of(encoder), ids, given).last_hidden_state.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_without_their_embeddings_look_at_no_value(family):
    try:
        traits = inspect_layers(config_of(family))
    except ValueError as error:
        pytest.skip(str(error))
    with torch.device("meta"):
        encoder = masked_encoder(family, "meta").train().bfloat16()  # experts multiply in nothing else there
        give_embeddings(encoder)
        states = torch.zeros(3, 8, traits.input_size, dtype=torch.bfloat16)
    looks = pytest.raises((AssertionError, NotImplementedError)) if family in LOOKING else contextlib.nullcontext()
    for mask in (rows()[1].to("meta"), None):
        with looks, NoValues():
            run_layers(encoder, traits, states, mask).last_hidden_state.sum().backward()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_looks_at_no_value(architecture, attention):
    """Pixels come as uint8, and are normalised on the device."""
    with torch.device("meta"):
        model = tiny_model(architecture, attn_implementation=attention).train()
        pixels = torch.zeros(3, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
        ids, mask = (tensor.to("meta") for tensor in rows())
    model.config.pixel_mean, model.config.pixel_deviation = [127.5] * 3, [127.5] * 3
    for given in (mask, None):
        with NoValues():
            model(input_ids=ids[:, :7], attention_mask=given if given is None else given[:, :7], pixel_values=pixels)
            model(input_ids=ids, attention_mask=given, pixel_values=pixels).pooled.sum().backward()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mask_of_ones_is_no_mask(architecture):
    """Streams that cannot be padded get no attention mask; the result is that of a mask which hides nothing."""
    model, batch = tiny_model(architecture), tiny_batch()
    batch = {"input_ids": batch["input_ids"], "pixel_values": batch["pixel_values"]}
    ones = torch.ones_like(batch["input_ids"])
    assert not model.encode_text(batch["input_ids"]).padded and model.encode_text(batch["input_ids"], ones).padded
    assert not model.encode_image(batch["pixel_values"]).padded
    with torch.no_grad():
        plain, masked = model(**batch), model(**batch, attention_mask=ones)
    torch.testing.assert_close(plain.pooled, masked.pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.text_states, masked.text_states, atol=1e-5, rtol=1e-5)


@contextlib.contextmanager
def masks_given() -> Iterator[list[bool]]:
    """Yield a list of whether each call of torch's attention gets a mask."""
    found, attention = [], torch.nn.functional.scaled_dot_product_attention

    class Observed(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is attention:
                found.append(len(args) > 3 or (kwargs or {}).get("attn_mask") is not None)
            return func(*args, **(kwargs or {}))

    with Observed():
        yield found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_gets_no_mask_where_nothing_is_padded(architecture):
    """In towers and in layers across, in training, of texts without a mask and of all images: flash attention takes none."""
    model = tiny_model(architecture).train().to("meta")
    pixels, (ids, mask) = (
        torch.zeros(3, 3, IMAGE_SIZE, IMAGE_SIZE, device="meta"),
        (each.to("meta") for each in rows()),
    )
    with NoValues(), masks_given() as found:
        model(input_ids=ids, pixel_values=pixels)
        model(input_ids=ids)
        model(pixel_values=pixels)
    assert len(found) > 5 and not any(found)
    with NoValues(), masks_given() as found:
        model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    text, vision, layers = 2, 2, 2
    # Text in its tower, and what sees text in each layer across; or all, if both are in one sequence.
    assert found == (
        [True] * text + [False] * vision + [False, True, True, False] * layers
        if architecture == "two-tower"
        else [True] * 2
    )


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_masks_between_streams_are_those_of_transformers(kind):
    """Also of a row that is hidden as a whole: the states are the same, forward and backward."""
    model = tiny_model("two-tower", attn_implementation=kind)
    layer, config = model.cross_modal_layers[0], model.config
    generator = torch.Generator().manual_seed(0)
    text, image = (torch.randn(3, length, 16, generator=generator) for length in (8, 5))
    hidden = rows()[1]
    hidden[2] = 0
    ours = CrossModalMasks(config, text, image, hidden, None)
    theirs = CrossModalMasks(config, text, image, None, None)
    with masks_by_shape():
        theirs.text = create_bidirectional_mask(config, text, hidden)
        theirs.image_to_text = create_bidirectional_mask(config, image, hidden, encoder_hidden_states=text)
    for found, expected in zip(layer(text, image, ours)[:2], layer(text, image, theirs)[:2], strict=True):
        assert expected.isfinite().all()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_masks_between_streams_have_the_type_of_attention():
    """Else it would be cast in each layer."""
    model, (_, mask) = tiny_model("two-tower"), rows()
    states = torch.zeros(3, 8, 16)
    for dtype in (torch.float32, torch.bfloat16):
        assert CrossModalMasks(model.config, states.to(dtype), None, mask, None).text.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert CrossModalMasks(model.config, states, None, mask, None).text.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["bert", "electra", "roberta", "distilbert"])
def test_text_towers_get_no_mask_where_nothing_is_padded(family):
    with torch.device("meta"):
        encoder = build_encoder(config_of(family)).train()
    ids, mask = (tensor.to("meta") for tensor in rows())
    for given in (None, mask):
        with NoValues(), masks_given() as found:
            run_text_tower(encoder, EncoderInterface.of(encoder), ids, given)
        assert found and set(found) == {given is not None}


@pytest.mark.parametrize("family", ["vit", "deit", "clip_vision_model", "siglip_vision_model", "dinov2"])
def test_vision_towers_get_no_mask(family):
    with torch.device("meta"):
        encoder = build_encoder(tiny_config(family, text=False)).train()
    size = getattr(encoder.config, "image_size", None) or 32
    with NoValues(), masks_given() as found:
        run_vision_tower(encoder, EncoderInterface.of(encoder), torch.zeros(2, 3, size, size, device="meta"))
    assert found and not any(found)


def mask_of_ones() -> torch.Tensor | None:
    """The attention mask that transformers makes for a text without padding."""
    config = BertModel(tiny_bert()).config
    return create_bidirectional_mask(config, torch.zeros(2, 4, 8), torch.ones(2, 4))


def test_the_context_ends_with_its_block():
    assert mask_of_ones() is None
    with pytest.raises(KeyError), masks_by_shape():
        with masks_by_shape():
            assert mask_of_ones() is not None
        assert mask_of_ones() is not None
        raise KeyError
    assert mask_of_ones() is None


def test_the_context_is_that_of_its_thread():
    """Threads enter and leave in any order, and one that is outside makes its masks as ever."""
    inside, leave, found = threading.Event(), threading.Event(), []

    def run():
        with masks_by_shape():
            inside.set()
            leave.wait()
            found.append(mask_of_ones())

    thread = threading.Thread(target=run)
    with masks_by_shape():
        thread.start()
        inside.wait()
    assert mask_of_ones() is None
    leave.set()
    thread.join()
    assert found[0] is not None
