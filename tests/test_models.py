"""The architectures: invariances, attention, masks of images, options, compiling."""

import pytest
import torch
from conftest import (
    IMAGE_SIZE,
    PATCH_SIZE,
    padded,
    pretraining_batch,
    rows_of,
    tiny_batch,
    tiny_model,
)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_does_not_change_a_row(architecture, attention):
    model = tiny_model(architecture, attn_implementation=attention)
    batch = tiny_batch()
    with torch.no_grad():
        plain, long = model(**batch), model(**padded(batch, 5))
    tokens = batch["input_ids"].shape[1]
    torch.testing.assert_close(long.pooled, plain.pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(long.image_states, plain.image_states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(long.text_states[:, :tokens], plain.text_states, atol=1e-5, rtol=1e-5)


def test_the_mask_is_what_hides_padding(architecture):
    """The test above would also pass if text were never read: without the mask the same tokens do change the outputs."""
    model = tiny_model(architecture)
    batch = padded(tiny_batch(), 5)
    with torch.no_grad():
        masked = model(**batch)
        seen = model(**(batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}))
    assert (masked.pooled - seen.pooled).abs().max() > 1e-3


def test_neighbours_and_place_do_not_change_a_row(architecture):
    model = tiny_model(architecture)
    batch = padded(tiny_batch(batch=4), 3)
    batch["attention_mask"][1, 4:] = 0
    with torch.no_grad():
        together = model(**batch)
        alone = model(**rows_of(batch, [1]))
        shuffled = model(**rows_of(batch, [3, 1, 0, 2]))
    torch.testing.assert_close(alone.pooled[0], together.pooled[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled.pooled, together.pooled[[3, 1, 0, 2]], atol=1e-5, rtol=1e-5)


def test_forward_is_encode_then_fuse(architecture):
    model = tiny_model(architecture)
    batch = tiny_batch()
    with torch.no_grad():
        whole = model(**batch)
        text = model.encode_text(batch["input_ids"], batch["attention_mask"])
        image = model.encode_image(batch["pixel_values"])
        fused = model.fuse(text, image)
    assert torch.equal(whole.pooled, fused.pooled)
    assert text.states.shape[:2] == text.mask.shape == batch["input_ids"].shape
    assert image.states.shape[:2] == image.mask.shape == (3, 1 + (IMAGE_SIZE // PATCH_SIZE) ** 2)
    assert whole.pooled.shape == (3, model.config.pooled_size)


def test_text_and_image_reach_both_streams(architecture):
    model = tiny_model(architecture)
    batch, other = tiny_batch(), tiny_batch(seed=1)
    with torch.no_grad():
        plain = model(**batch)
        other_image = model(**(batch | {"pixel_values": other["pixel_values"]}))
        other_text = model(**(batch | {"input_ids": other["input_ids"]}))
    assert (plain.text_states - other_image.text_states).abs().max() > 1e-4
    assert (plain.image_states - other_text.image_states).abs().max() > 1e-4


def test_text_alone_and_image_alone(architecture):
    model = tiny_model(architecture)
    batch = tiny_batch()
    with torch.no_grad():
        text = model(input_ids=batch["input_ids"])
        image = model(pixel_values=batch["pixel_values"])
    assert text.image_states is None and image.text_states is None
    for pooler, states, pooled in (
        ("text", text.text_states, text.pooled),
        ("image", image.image_states, image.pooled),
    ):
        expected = torch.tanh(getattr(model, f"{pooler}_pooler").dense(states[:, 0]))
        torch.testing.assert_close(pooled, expected)
    with pytest.raises(ValueError, match="got neither"):
        model()


@pytest.mark.parametrize("size", [(48, 48), (16, 40)])
def test_other_image_sizes(architecture, size):
    model = tiny_model(architecture)
    with torch.no_grad():
        states = model(pixel_values=torch.randn(2, 3, *size)).image_states
    assert states.shape[1] == 1 + size[0] * size[1] // PATCH_SIZE**2


def test_inputs_that_do_not_fit(architecture):
    model = tiny_model(architecture)
    with pytest.raises(ValueError, match=r"41 tokens.*positions for 40"):
        model(input_ids=torch.ones(1, 41, dtype=torch.long))
    if architecture != "one-tower-grid":
        with pytest.raises(ValueError, match="30x32 pixels cannot be cut into patches of 8x8"):
            model(pixel_values=torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match="several images"):
        model(pixel_values=torch.zeros(1, 2, 3, 32, 32))


def padded_images() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Images of three sizes: in one frame of 40x48 pixels, with noise for padding; their mask; and each alone."""
    generator = torch.Generator().manual_seed(0)
    frame = torch.randn(3, 3, 40, 48, generator=generator)
    mask = torch.zeros(3, 40, 48, dtype=torch.long)
    sizes = [(40, 16), (32, 32), (8, 48)]
    for row, (height, width) in enumerate(sizes):
        mask[row, :height, :width] = 1
    return frame, mask, [frame[row : row + 1, :, :height, :width] for row, (height, width) in enumerate(sizes)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("architecture", ["one-tower-text", "one-tower-vision", "one-tower-grid"])
def test_padding_of_images_does_not_change_a_row(architecture, interpolation):
    model = tiny_model(architecture, position_interpolation=interpolation)
    batch = padded(tiny_batch(), 2)
    frame, mask, images = padded_images()
    with torch.no_grad():
        together = model(**(batch | {"pixel_values": frame, "pixel_mask": mask}))
        unmasked = model(**(batch | {"pixel_values": frame}))
        for row, image in enumerate(images):
            alone = model(**(rows_of(batch, [row]) | {"pixel_values": image}))
            torch.testing.assert_close(together.pooled[row], alone.pooled[0], atol=1e-5, rtol=1e-5)
            shown = torch.cat(
                [torch.ones(1, dtype=torch.bool), mask[row, ::PATCH_SIZE, ::PATCH_SIZE].flatten().bool()]
            )
            torch.testing.assert_close(together.image_states[row, shown], alone.image_states[0], atol=1e-5, rtol=1e-5)
    assert (together.pooled - unmasked.pooled).abs().max() > 1e-3


def test_image_masks_that_do_not_fit():
    frame, mask, _ = padded_images()
    for architecture in ("one-tower-text", "two-tower"):
        expected = r"batch, height, width\) \(3, 40, 48\)" if architecture == "one-tower-text" else "sees whole images"
        with pytest.raises(ValueError, match=f"pixel_mask.*{expected}"):
            tiny_model(architecture)(pixel_values=frame, pixel_mask=mask[:, :32])
    for broken in (mask.flip(1), mask.flip(2), mask * 0, mask.clone()):
        broken[2, 0, 24] = 0
        with pytest.raises(ValueError, match="upper left corner"):
            tiny_model("one-tower-text")(pixel_values=frame, pixel_mask=broken)


@pytest.mark.parametrize(
    "kind", ["ForPreTraining", "ForMaskedLM", "ForImageTextRetrieval", "ForVisualQuestionAnswering"]
)
def test_heads_pass_the_image_mask_on(kind):
    model = tiny_model("one-tower-vision", kind, num_labels=3)
    frame, mask, _ = padded_images()
    batch = tiny_batch() | {"pixel_values": frame, "pixel_mask": mask}
    with torch.no_grad():
        noise = model(**batch)
        zeros = model(**(batch | {"pixel_values": frame * mask.unsqueeze(1)}))
    scores = [output.logits["itm"] if kind == "ForPreTraining" else output.logits for output in (noise, zeros)]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)


def test_the_nlvr2_head_passes_image_masks_on():
    model = tiny_model("one-tower-vision", "ForImagesAndTextClassification")
    frame, mask, _ = padded_images()
    frames, masks = torch.stack([frame, frame.flip(0)], dim=1), torch.stack([mask, mask.flip(0)], dim=1)
    batch = tiny_batch() | {"pixel_values": frames, "pixel_mask": masks}
    with torch.no_grad():
        noise = model(**batch).logits
        zeros = model(**(batch | {"pixel_values": frames * masks.unsqueeze(2)})).logits
    torch.testing.assert_close(noise, zeros, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooler", ["single", "double"])
def test_poolers(architecture, pooler):
    """The first state of the text, and beside it, if there are two poolers, that of the image."""
    model = tiny_model(architecture, pooler=pooler)
    with torch.no_grad():
        fused = model(**tiny_batch())
    streams = [("text_pooler", fused.text_states), ("image_pooler", fused.image_states)][: 1 + (pooler == "double")]
    expected = [torch.tanh(getattr(model, name).dense(states[:, 0])) for name, states in streams]
    torch.testing.assert_close(fused.pooled, torch.cat(expected, dim=-1))
    assert fused.pooled.shape == (3, model.config.pooled_size)


def test_attention_maps(architecture):
    model = tiny_model(architecture, attn_implementation="eager")
    batch = padded(tiny_batch(), 2)
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    tokens, patches = 9, 17
    assert len(output.attentions) == 2 and len(output.hidden_states) == 3
    assert output.hidden_states[0].shape[1] == tokens + patches
    for maps in output.attentions:
        assert maps.shape[-2:] == (tokens + patches, tokens + patches)
        assert maps[..., patches + 7 :].max() < 1e-6  # nobody looks at padding
        blocks = [maps[..., :patches].sum(-1), maps[..., patches:].sum(-1)]
        total = sum(blocks)
        torch.testing.assert_close(total, torch.full_like(total, 2.0 if architecture == "two-tower" else 1.0))
    with pytest.raises(ValueError, match="eager"):
        tiny_model(architecture, attn_implementation="sdpa")(**batch, output_attentions=True)


def test_sdpa_equals_eager(architecture):
    batch = padded(tiny_batch(), 4)
    with torch.no_grad():
        eager = tiny_model(architecture, attn_implementation="eager")(**batch)
        sdpa = tiny_model(architecture, attn_implementation="sdpa")(**batch)
    torch.testing.assert_close(sdpa.pooled, eager.pooled, atol=1e-5, rtol=1e-5)


def test_bf16(architecture):
    model = tiny_model(architecture, "ForPreTraining")
    batch = pretraining_batch()
    with torch.no_grad():
        reference = model(**batch)
        model = model.to(torch.bfloat16)
        output = model(**(batch | {"pixel_values": batch["pixel_values"].to(torch.bfloat16)}))
    assert output.logits["itm"].dtype == torch.float32
    torch.testing.assert_close(output.loss.float(), reference.loss, atol=0.1, rtol=0.05)


@pytest.mark.slow
def test_torch_compile(architecture):
    model = tiny_model(architecture)
    batch = padded(tiny_batch(), 3)
    with torch.no_grad():
        plain = model(**batch)
        compiled = torch.compile(model)(**batch)
    torch.testing.assert_close(compiled.pooled, plain.pooled, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_torch_compile_trains(architecture):
    model = tiny_model(architecture, "ForPreTraining").train()
    loss = torch.compile(model)(**pretraining_batch()).loss
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cross_modal_heads": 3}, r"cross_modal_hidden_size \(16\) is not a multiple of cross_modal_heads \(3\)"),
        ({"pooler": "mean"}, '"single" or "double"'),
        ({"objectives": {"mlm": -1}}, "objectives: expected a weight of at least 0 for mlm, got -1"),
        ({"cross_modal_dropout": 1.5}, "cross_modal_dropout: expected from 0 to below 1"),
        ({"cross_modal_act": "gulu"}, r"cross_modal_act: expected one of .*gelu.*, got gulu"),
        ({"cross_modal_mlp_ratio": 0}, "cross_modal_mlp_ratio"),
        ({"initializer_range": 0}, "initializer_range"),
        ({"num_images": 0}, "num_images"),
        ({"classifier_hidden_size": 0}, "classifier_hidden_size"),
        ({"contrastive_size": 0}, "contrastive_size"),
        ({"frozen": ["tower"]}, "frozen: expected text, vision, cross_modal"),
    ],
)
def test_bad_configurations(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_model("two-tower", **fields)
