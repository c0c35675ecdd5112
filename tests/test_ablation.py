"""Cross-modal ablation: a part of each pair is spoilt, the rest and what is masked stays."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from renaissance.processing.collators import PretrainingCollator
from renaissance.tasks.ablation import ABLATIONS
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.fingerprint import fingerprint
from renaissance.tasks.data.shapes import DATA_SETS
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")

ROWS, SIZE = 10, 32
#: The mean of the image processor, 0.5, in 8 bits.
GREY = 128


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    write(folder, list(DATA_SETS["refcoco"].rows("validation", ROWS, 0, SIZE)))
    return folder


def write(folder, rows: list[dict]) -> None:
    made = Dataset.from_list(rows, features=DATA_SETS["refcoco"].features)
    made.to_parquet(str(folder / "validation-00000-of-00001.parquet"))


def argv_of(options: list[str], folder, *more: str) -> list[str]:
    data = ["--eval_datasets", str(folder), "--captions_column", "text", "--do_eval"]
    return [*TWO_TOWER, *options, *data, "--initializer_range", "0.3", "--per_device_eval_batch_size", "10", *more]


def batch_of(argv: list[str]) -> dict[str, torch.Tensor]:
    trainer, *_ = prepare(Pretraining, "", argv)
    (batch,) = trainer.get_eval_dataloader()
    return batch


def pixels_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The image of each row (B, 3, H, W), as numbers from 0 to 255."""
    pixels = batch["pixel_values"]
    return (pixels[batch["image_index"]] if "image_index" in batch else pixels).int()


def test_what_is_spoilt_and_what_stays(references, options):
    """Images, objects or words; masked words are those of the evaluation without an ablation."""
    trainer, _, data, _ = prepare(Pretraining, "", argv_of(options, references, "--ablation", "object_masked"))
    rows = [data["validation"][number] for number in range(ROWS)]
    collator = PretrainingCollator(trainer.processing_class, seed=1)
    plain = collator(rows)
    found = {
        name: replace(trainer.data_collator, collator=collator, ablation=name)([dict(row) for row in rows])
        for name in ABLATIONS
    }
    masked = trainer.data_collator(rows)
    assert torch.equal(pixels_of(masked), pixels_of(found["object_masked"]))
    assert not any(name.startswith("itm_") for name in masked)
    images = pixels_of(plain)
    for name, batch in found.items():
        if name != "text_shuffled":
            assert torch.equal(batch["mlm_input_ids"], plain["mlm_input_ids"])
            assert torch.equal(batch["mlm_labels"], plain["mlm_labels"])
    assert (pixels_of(found["image_removed"]) == GREY).all()

    replaced = pixels_of(found["image_replaced"])
    same = [[bool((one == other).all()) for other in images] for one in replaced]
    assert not any(same[row][row] for row in range(ROWS)) and all(map(any, same))

    masked = pixels_of(found["object_masked"])
    for row, before, after in zip(rows, images, masked, strict=True):
        left, top, width, height = row["boxes"][row["label"]]
        inside = np.zeros((SIZE, SIZE), dtype=bool)
        inside[int(top) : int(np.ceil(top + height)), int(left) : int(np.ceil(left + width))] = True
        assert (after[:, inside] == GREY).all() and not (before[:, inside] == GREY).all()
        assert torch.equal(after[:, ~inside], before[:, ~inside]) and inside.sum() < SIZE * SIZE / 2

    shuffled = found["text_shuffled"]
    assert torch.equal(pixels_of(shuffled), images) and torch.equal(shuffled["itm_labels"], plain["itm_labels"])
    assert torch.equal(shuffled["input_ids"].sort()[0], plain["input_ids"].sort()[0])
    changed = (shuffled["input_ids"] != plain["input_ids"]).any(dim=1)
    assert changed.any() and not changed[plain["attention_mask"].sum(dim=1) == 3].any()


def test_rows_of_which_more_is_read_are_the_same_rows(references):
    """So that a table does not warn of other data."""
    rows = Dataset.from_list(
        list(DATA_SETS["refcoco"].rows("validation", ROWS, 0, SIZE)), features=DATA_SETS["refcoco"].features
    )
    rows = rows.rename_column("text", "captions").cast_column("image", ImageFeature(decode=False))
    plain = CaptionedImages(rows.select_columns(["image", "captions"]), "x")
    more = CaptionedImages(rows.select_columns(["image", "captions", "boxes", "label"]), "x", None, ("boxes", "label"))
    assert fingerprint(plain) != fingerprint(more)
    assert (
        fingerprint(plain)
        == fingerprint(more, ("boxes", "label"))
        != fingerprint(CaptionedImages(rows.select_columns(["image", "captions"]), "x", 5))
    )


def test_two_expressions_of_one_image_have_objects_of_their_own(references, options, tmp_path):
    """Rows with one image are one image elsewhere; here each has another object covered."""
    (row, *_) = [row for row in DATA_SETS["refcoco"].rows("validation", ROWS, 0, SIZE) if len(row["boxes"]) > 1]
    write(tmp_path, [row | {"label": label, "id": str(label)} for label in (0, 1)])
    assert len(batch_of(argv_of(options, tmp_path, "--objectives", "mlm"))["pixel_values"]) == 1
    one, other = pixels_of(batch_of(argv_of(options, tmp_path, "--ablation", "object_masked")))
    assert not torch.equal(one, other)


def plain_image(name: str) -> dict:
    """An image of one colour, in a file of its own: files of the same bytes are one image."""
    (info := PngInfo()).add_text("name", name)
    Image.new("RGB", (SIZE, SIZE), (GREY,) * 3).save(buffer := io.BytesIO(), format="PNG", pnginfo=info)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.slow
def test_a_plain_image_says_what_no_image_says(references, options, tmp_path):
    """The loss with the image removed is that of pairs whose images are plain, and another than that of the images."""
    write(
        tmp_path,
        [row | {"image": plain_image(row["id"])} for row in DATA_SETS["refcoco"].rows("validation", ROWS, 0, SIZE)],
    )
    losses = [
        run_task(Pretraining, "", argv_of([*options, "--output_dir", str(tmp_path / f"run{number}")], *rest))
        for number, rest in enumerate([[references], [references, "--ablation", "image_removed"], [tmp_path]])
    ]
    seen, removed, plain = (each["eval_mlm_loss"] for each in losses)
    assert removed == pytest.approx(plain, rel=1e-5) and removed != pytest.approx(seen, rel=1e-3)
    assert losses[1]["eval_loss"] == pytest.approx(removed) and "eval_itm_loss" not in losses[1]
    assert losses[1]["eval_mlm_labels"] == losses[0]["eval_mlm_labels"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ablation", "image_remove"], "image_remove"),
        (["--ablation", "image_removed", "--do_train", "--max_steps", "1"], "ablation: image_removed is of the evaluation"),
        (["--ablation", "image_removed", "--objectives", "itm"], "image_removed is of the objective mlm, the model has itm"),
        (["--ablation", "text_shuffled", "--objectives", "mlm"], "text_shuffled is of the objective itm, the model has mlm"),
        (["--ablation", "text_shuffled", "--itm_text", "masked"], "itm_text: masked needs the objective mlm too"),
        (["--ablation", "image_replaced", "--freeze", "vision", "--cache_frozen_features", "x"], "ablation: without effect on images that are cached"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_runs(references, options, refused, more, message):
    argv = argv_of(options, references, "--train_datasets", str(references), *more)
    assert message in refused(run_task, Pretraining, "", argv)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 9}, "row 0: expected the number of one of"),
        ({"boxes": [[1.0, 1.0, 0.0, 5.0]], "label": 0}, "a width and a height above 0"),
        ({"boxes": [[1.0, 1.0, 90.0, 5.0]], "label": 0}, "expected a box inside the image"),
    ],
)
def test_boxes_that_cannot_be_covered(options, tmp_path, refused, row, message):
    (first, second) = DATA_SETS["refcoco"].rows("validation", 2, 0, SIZE)
    write(tmp_path, [first | row, second])
    argv = argv_of(options, tmp_path, "--ablation", "object_masked")
    assert message in refused(run_task, Pretraining, "", argv)


def test_data_without_boxes(shapes, options, refused):
    argv = [
        *TWO_TOWER,
        *options,
        "--eval_datasets",
        str(shapes / "captions"),
        "--do_eval",
        "--ablation",
        "object_masked",
    ]
    assert "ablation: object_masked needs the columns boxes and label" in refused(run_task, Pretraining, "", argv)
