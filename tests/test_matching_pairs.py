"""Numbers of false images and of false texts in image-text matching: the pairs of a batch, the step, and the metrics."""

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER, tiny_model
from PIL import Image

from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import MaskedTextData, MatchingData
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


def make_rows(count: int, images_of: int = 1, training: bool = False) -> list[dict]:
    """Rows, `images_of` of which share an image, each image of another colour."""
    rows = []
    for number in range(count):
        image = number // images_of
        rows.append(
            {"image": Image.new("RGB", (32, 32), (20 * image, 255 - 20 * image, 0)), "text": f"a red circle {number}"}
            | {"image_id": str(image), "sample_id": number, "epoch": 0, "training": training}
        )
    return rows


def collate(processor, rows: list[dict], masked: bool = False, draw=None, **counts) -> dict[str, torch.Tensor]:
    matching = MatchingData(**counts, itm_text="masked" if masked else "clean")
    return PretrainingCollator(processor, [MaskedTextData(), matching], draw)(rows)


@pytest.mark.parametrize(
    ("counts", "images", "texts"),
    [
        ({"itm_false_images": 3}, 3, 0),
        ({"itm_false_texts": 2}, 0, 2),
        ({"itm_false_images": 2, "itm_false_texts": 1}, 2, 1),
        ({"itm_false_images": 0, "itm_false_texts": 1}, 0, 1),
    ],
)
@pytest.mark.parametrize("images_of", [1, 2])
def test_each_row_has_its_true_pair_and_all_false_ones(processor, counts, images, texts, images_of):
    rows = make_rows(12, images_of)
    batch = collate(processor, rows, **counts)
    own = torch.arange(12) // images_of
    shown, said, labels = (batch[f"itm_{name}"] for name in ("image_index", "text_index", "labels"))
    assert shown.shape == said.shape == labels.shape == (12, 1 + images + texts)
    assert batch["pixel_values"].shape[0] == 12 // images_of and batch["input_ids"].shape[0] == 12
    # Right: the label says whether the image is that of the text.
    assert torch.equal((own[said] == shown).long(), labels) and labels.sum() == 12
    assert torch.equal(said[:, : 1 + images], torch.arange(12)[:, None].expand(12, 1 + images))
    assert torch.equal(shown[:, 1 + images :], own[:, None].expand(12, texts))
    for row in range(12):
        assert len(set(shown[row, : 1 + images].tolist())) == 1 + images
        assert len({row, *said[row, 1 + images :].tolist()}) == 1 + texts
    again = collate(processor, rows, **counts)
    assert all(torch.equal(value, again[name]) for name, value in batch.items())


def test_false_ones_are_drawn_uniformly(processor):
    """Over the other images, however many captions each has, and over the other images' texts."""
    seen, said = np.zeros(4), np.zeros(10)
    rows = make_rows(10, 1)
    for row, image in zip(rows, "0111111233", strict=True):
        row["image_id"], row["image"] = image, Image.new("RGB", (32, 32), (20 * int(image), 0, 0))
    for epoch in range(300):
        data = MatchingData(itm_false_images=1, itm_false_texts=1)
        batch = PretrainingCollator(processor, [data])([row | {"epoch": epoch} for row in rows])
        seen[batch["itm_image_index"][0, 1]] += 1
        said[batch["itm_text_index"][0, 2]] += 1
    assert seen[0] == said[0] == 0 and np.all(abs(seen[1:] - 100) < 35) and np.all(abs(said[1:] - 300 / 9) < 22)


def test_pairs_that_the_batch_lacks_do_not_count(processor):
    """A last batch of evaluation may have too few images, or one."""
    model = tiny_model("two-tower", "ForPreTraining").eval()
    for masked in (False, True):
        batch = collate(processor, make_rows(3), masked, itm_false_images=3, itm_false_texts=1)
        assert (batch["itm_labels"] == 0).sum(dim=1).tolist() == [3, 3, 3]
        assert (batch["itm_labels"] == -100).sum(dim=1).tolist() == [1, 1, 1]
        single = collate(processor, make_rows(2, images_of=2), masked, itm_false_images=1, itm_false_texts=1)
        assert single["itm_labels"].tolist() == [[1, -100, -100]] * 2
        for each, count in ((batch, 12), (single, 2)):
            output = model(**each)
            truth = each["itm_labels"].flatten()
            expected = torch.nn.functional.cross_entropy(output.logits["itm"], truth)
            torch.testing.assert_close(output.losses["itm"], expected)
            sums = MatchingData(itm_false_images=3).row_sums(output.logits["itm"], each).sum(dim=0)
            assert sums[2] == count and sums[0].item() / count == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("architecture", ["two-tower", "one-tower"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("images_of", [1, 2])
def test_a_step_scores_each_pair_as_it_does_alone(processor, architecture, masked, images_of):
    """Each image and each text is encoded once, and nothing on the device is looked at."""
    model = tiny_model(architecture, "ForPreTraining").eval()
    batch = collate(processor, make_rows(8, images_of), masked, itm_false_images=2, itm_false_texts=1)
    sizes = {"text": [], "image": []}
    base = model.base_model
    encode_text, encode_image = base.encode_text, base.encode_image
    base.encode_text = lambda ids, *args, **kwargs: (
        sizes["text"].append(len(ids)),
        encode_text(ids, *args, **kwargs),
    )[1]
    base.encode_image = lambda pixels, *args, **kwargs: (
        sizes["image"].append(len(pixels)),
        encode_image(pixels, *args, **kwargs),
    )[1]
    with torch.no_grad():
        output = model(**batch)
        assert sizes == {"text": [8 if masked else 16], "image": [8 // images_of]}
        ids = batch["mlm_input_ids" if masked else "input_ids"]
        text = encode_text(ids, batch["attention_mask"]).rows(batch["itm_text_index"].flatten())
        image = encode_image(batch["pixel_values"]).rows(batch["itm_image_index"].flatten())
        alone = model.itm_head(base.fuse(text, image).pooled)
    torch.testing.assert_close(output.logits["itm"], alone, atol=1e-5, rtol=1e-4)
    expected = torch.nn.functional.cross_entropy(alone, batch["itm_labels"].flatten())
    torch.testing.assert_close(output.losses["itm"], expected, atol=1e-5, rtol=1e-4)
    meta = tiny_model(architecture, "ForPreTraining").to("meta")
    assert meta(**{name: value.to("meta") for name, value in batch.items()}).logits["itm"].shape == (32, 2)


def test_false_images_of_all_data_and_texts_of_the_batch(processor):
    rows, others = make_rows(4, training=True), make_rows(12, training=True)[4:]

    def draw(row, rng):
        return others[rng.integers(len(others))]

    counts = {"itm_negatives": "random", "itm_false_images": 2, "itm_false_texts": 1}
    batch = collate(processor, rows, draw=draw, **counts)
    shown = batch["itm_image_index"][:, 1:3]
    assert (shown >= 4).all() and len(batch["pixel_values"]) == 4 + len(shown.unique())
    assert (batch["itm_text_index"][:, 3] != torch.arange(4)).all() and batch["itm_labels"].sum() == 4
    in_evaluation = collate(processor, [row | {"training": False} for row in rows], draw=draw, **counts)
    assert len(in_evaluation["pixel_values"]) == 4


@pytest.mark.slow
def test_metrics_of_another_share_of_true_pairs(shapes, options, capsys):
    """Accuracy and loss are means over pairs, and the baseline answers what most pairs are: that they do not match."""
    argv = [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_train", "--do_eval"]
    argv += ["--max_steps", "2", "--itm_false_images", "2", "--itm_false_texts", "1", "--max_eval_samples", "30"]
    metrics = run_task(Pretraining, "", argv)
    rows = metrics["eval_rows"]
    # Batches of 4, the last one of 2: there each row lacks a second false image.
    assert metrics["eval_itm_labels"] == 4 * rows - 2
    assert metrics["eval_itm_majority_accuracy"] == pytest.approx(1 - rows / (4 * rows - 2))
    assert metrics["eval_itm_accuracy"] == pytest.approx(metrics["eval_itm_majority_accuracy"], abs=0.3)
    assert 0.3 < metrics["eval_itm_loss"] < 1.5


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"itm_false_images": 0}, "without false pairs there is nothing to tell apart"),
        ({"itm_false_images": -1}, "itm_false_images: expected from 0 to 64, got -1"),
        ({"itm_false_texts": 65}, "itm_false_texts: expected from 0 to 64, got 65"),
        ({"itm_false_texts": 1, "itm_negatives": "random"}, "itm_negatives: random is of false images"),
    ],
)
def test_numbers_that_make_no_pairs(counts, message):
    with pytest.raises(ValueError, match=message):
        MatchingData(**counts)


def test_batches_too_small_for_the_numbers():
    for data, captions in ((MatchingData(itm_false_images=4), 1), (MatchingData(itm_false_texts=2), 2)):
        with pytest.raises(
            ValueError, match=r"per_device_train_batch_size: .* lower itm_false_images or itm_false_texts"
        ):
            data.check_rows("per_device_train_batch_size", 4, captions)
        data.check_rows("per_device_train_batch_size", 5, captions)
    MatchingData(itm_false_images=9, itm_negatives="random").check_rows("per_device_train_batch_size", 4, 1)
