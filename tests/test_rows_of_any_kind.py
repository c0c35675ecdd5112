"""Batches of pretraining whose rows lack images or texts, or serve some of the objectives: nothing else changes for any row."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from PIL import Image
from test_step import Refuse

from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import ContrastiveData, MaskedTextData, MatchingData


TEXTS = ["a red circle", "two green squares and a yellow star", "blue", "a large star left of a circle", "xylophone"]


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def captions(count: int, first: int = 0, **more) -> list[dict]:
    """Rows with a text and an image."""
    return [
        row | {"image": picture(row["sample_id"]), "image_id": str(row["sample_id"])}
        for row in documents(count, first, **more)
    ]


def documents(count: int, first: int = 0, **more) -> list[dict]:
    """Rows without an image."""
    return [
        {"text": TEXTS[number % len(TEXTS)], "sample_id": number, "epoch": 0} | more
        for number in range(first, first + count)
    ]


def fitting_model(architecture: str, processor, objectives: list[str], **kwargs):
    """A tiny model with a row for each of the processor's word pieces."""
    sizes = {} if architecture == "two-tower" else {"vocab_size": len(processor.tokenizer)}
    return tiny_model(architecture, "ForPreTraining", objectives=objectives, **sizes, **kwargs)


def exact_model(*args, **kwargs):
    """The same in double precision, for comparisons."""
    return fitting_model(*args, **kwargs).double()


def weighed(model, batches: list[dict]) -> tuple[dict[str, float], dict[str, int]]:
    """The losses of several batches as those of one step, and what they count."""
    totals, counts = {}, {}
    for batch in batches:
        losses = model(**batch).losses
        for name, count in model.loss_counts(batch).items():
            totals[name] = totals.get(name, 0.0) + losses[name].item() * int(count)
            counts[name] = counts.get(name, 0) + int(count)
    return {name: total / counts[name] for name, total in totals.items()}, counts


def shuffled(*kinds: list[dict]) -> list[dict]:
    """The rows of all kinds in one list, those of a kind in their order."""
    rng = np.random.default_rng(0)
    order = rng.permutation([kind for kind, rows in enumerate(kinds) for _ in rows])
    left = [iter(rows) for rows in kinds]
    return [next(left[kind]) for kind in order]


@pytest.fixture(params=["masked", *(pytest.param(name, marks=pytest.mark.slow) for name in ("clean", "counted"))])
def data(request) -> list:
    matching = {
        "clean": MatchingData(),
        "masked": MatchingData(itm_text="masked"),
        "counted": MatchingData(itm_false_images=1, itm_false_texts=2),
    }[request.param]
    return [MaskedTextData(), matching, ContrastiveData()]


@pytest.fixture
def kinds(data) -> tuple[list[dict], ...]:
    """Rows that serve all objectives, documents, and rows with an image that serve some."""
    some = ("contrastive",) if data[1].itm_text == "masked" else ("mlm", "contrastive")
    return captions(6), documents(4, 20), captions(3, 40, objectives=some)


def test_a_mixed_batch_has_the_losses_of_its_parts(processor, quick_architecture, data, kinds):
    """Of masked words and pairs; those of contrastive are among all images of a batch."""
    collator = PretrainingCollator(processor, data, seed=3)
    model = exact_model(quick_architecture, processor, ["mlm", "itm", "contrastive"])
    mixed, counts = weighed(model, [collator(shuffled(*kinds))])
    parts, of_parts = weighed(model, [collator(rows) for rows in kinds])
    assert counts == of_parts and counts["contrastive"] == 9
    for name in ("mlm", "itm"):
        assert mixed[name] == pytest.approx(parts[name], abs=1e-6), name
    together, _ = weighed(model, [collator([*kinds[0], *kinds[2]])])
    assert mixed["contrastive"] == pytest.approx(together["contrastive"], abs=1e-6)


def test_metrics_of_a_mixed_batch_are_of_the_rows_that_serve(processor, data, kinds):
    collator = PretrainingCollator(processor, data, seed=3)
    model = exact_model("two-tower", processor, ["mlm", "itm", "contrastive"])
    rows = shuffled(*kinds)
    batches = [collator(rows), *map(collator, kinds)]
    logits = [model(**batch).logits for batch in batches]
    served = [row.get("objectives", ("mlm", "itm") if "image" in row else ("mlm",)) for row in rows]
    for each in data[:2]:
        found = [each.collected(given.get(each.name), batch) for given, batch in zip(logits, batches, strict=True)]
        totals = [(sums.sum(dim=0), int((labels != -100).sum())) for sums, labels in found]
        torch.testing.assert_close(totals[0][0], sum(sums for sums, _ in totals[1:]))
        assert totals[0][1] == sum(count for _, count in totals[1:])
        for (sums, labels), batch in zip(found, batches, strict=True):
            assert len(sums) == len(labels) == len(batch["attention_mask"])
        sums = found[0][0]
        assert sums[:, -1].bool().tolist() == [each.name in names for names in served]
        assert (sums[sums[:, -1] == 0] == 0).all()


def test_a_step_encodes_what_is_read_and_looks_at_no_value(processor, quick_architecture, data, kinds):
    batch = PretrainingCollator(processor, data)(shuffled(*kinds))
    model = fitting_model(quick_architecture, processor, ["mlm", "itm", "contrastive"])
    texts, fused = [], []
    encode_text, fuse = model.model.encode_text, model.model.fuse
    model.model.encode_text = lambda ids, mask: texts.append(len(ids)) or encode_text(ids, mask)
    model.model.fuse = lambda text, image, *args, **kwargs: (
        fused.append((text, image)) or fuse(text, image, *args, **kwargs)
    )
    model(**batch)
    del model.model.encode_text, model.model.fuse
    # Masked texts of all rows, and of three less if those serve contrastive alone; clean texts of rows with an image.
    assert texts == [(10 if data[1].itm_text == "masked" else 13) + 9]
    alone = 2 * (quick_architecture != "two-tower")
    assert len(fused) == 2 + alone
    assert [(text is not None, image is not None) for text, image in fused[:2]] == [(True, True), (True, False)]
    with Refuse():
        output = model.train().to("meta")(**{name: value.to("meta") for name, value in batch.items()})
        output.loss.backward()
    assert all((value.grad is not None) == value.requires_grad for value in model.parameters())


def test_documents_alone_need_no_image(processor, quick_architecture):
    """Neither in the batch nor in the model, whose vision encoder gets no gradient from them."""
    batch = PretrainingCollator(processor, [MaskedTextData(), MatchingData()])(documents(5))
    assert set(batch) == {"attention_mask", "mlm_input_ids", "mlm_labels", "mlm_positions", "mlm_alone_index"}
    model = exact_model(quick_architecture, processor, ["mlm", "itm"])
    output = model(**batch)
    assert output.losses.keys() == {"mlm"}
    output.loss.backward()
    vision = [value for module in model.model.parts()["vision"] for value in module.parameters()]
    assert all(value.grad is None for value in vision)
    assert model.mlm_head.decoder.weight.grad is not None and model.itm_head.weight.grad is None
    logits = output.logits["mlm"]
    other = model(
        **{name: value.flip(0) for name, value in batch.items() if value.ndim == 2 and name != "mlm_positions"}
        | {"mlm_alone_index": torch.arange(5)}
    )
    assert (
        other.loss.item() == pytest.approx(output.loss.item(), abs=1e-6) and other.logits["mlm"].shape == logits.shape
    )


def test_shapes_of_a_fixed_composition_repeat(processor, repeating, data, kinds):
    """Whatever is drawn."""
    collator = PretrainingCollator(repeating, data)
    found = {
        tuple(
            (name, *value.shape)
            for name, value in collator([row | {"epoch": epoch} for row in shuffled(*kinds)]).items()
        )
        for epoch in range(10)
    }
    assert len(found) == 1


def test_rows_that_serve_all_objectives_are_batched_as_ever(processor):
    """Names of all objectives change nothing."""
    data = [MaskedTextData(), MatchingData(), ContrastiveData()]
    plain, named = (
        PretrainingCollator(processor, data)(captions(4, **more))
        for more in ({}, {"objectives": ("contrastive", "mlm", "itm")})
    )
    assert list(plain) == list(named) and all(torch.equal(plain[name], named[name]) for name in plain)
    assert not any(name.endswith("_rows") or name in ("mlm_text_index", "image_index") for name in plain)


@pytest.mark.parametrize(
    ("rows", "data", "message"),
    [
        (documents(2), [MatchingData()], "rows lack image, they have text, sample_id, epoch"),
        (captions(2, 7, objectives=("vqa",)), [MaskedTextData()], r"row 7: serves vqa, expected at least one .* \(mlm\)"),
        (documents(2, 5, objectives=("mlm", "itm")), [MaskedTextData(), MatchingData()], "row 5: serves the objective itm, .* lacks image"),
        (captions(2, objectives=("mlm",)), [MaskedTextData(), MatchingData(itm_text="masked")], "itm_text: .* got row 0 that serve mlm; choose clean"),
        (captions(2, objectives=()), [MaskedTextData()], "row 0: serves nothing, expected"),
        ([captions(1)[0] | {"text": ["a", "b"]}], [MaskedTextData()], r"^row 0: text: expected a string, got \['a', 'b'\]; of several captions"),
        (captions(2), [], "^objectives: expected at least one"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_the_objectives(processor, rows, data, message):
    with pytest.raises(ValueError, match=message):
        PretrainingCollator(processor, data)(rows)


def test_a_column_without_a_value_is_none(processor):
    """As in tables of several kinds that `datasets` has joined."""
    rows = [*captions(3), *documents(2, 20)]
    joined = [row | {"image": row.get("image"), "image_id": row.get("image_id"), "objectives": None} for row in rows]
    collator = PretrainingCollator(processor, [MaskedTextData(), MatchingData()])
    expected, batch = collator(rows), collator(joined)
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name
    with pytest.raises(ValueError, match=r"^row 20: serves the objective itm, .* lacks image"):
        collator([row | {"objectives": ("itm",)} for row in joined])
