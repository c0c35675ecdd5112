"""Texts or images that are removed (`remove_input`): nothing of them is left in a batch, everything else is, and runs say so."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TWO_TOWER
from PIL import Image
from task_runs import TASKS, run_argv
from transformers import BertTokenizerFast, ViTImageProcessorPil

from renaissance import RenaissanceProcessor
from renaissance.processing.collators import RemovingCollator, RowCollator
from renaissance.processing.transforms import TRANSFORMS
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task


#: The tasks with both inputs, and what they may do without.
CAN_REMOVE = [(name, "text") for name in ("nlvr2", "snli_ve", "image_text", "vqav2", "refcoco")]
CAN_REMOVE += [(name, "image") for name in ("nlvr2", "snli_ve", "image_text", "vqav2")]
INPUTS = {"text": {"input_ids", "attention_mask"}, "image": {"pixel_values", "image_features", "pixel_mask"}}


def batches_of(
    name: str, removed: str, scenes: Path, processor: RenaissanceProcessor, order: list[int]
) -> tuple[dict, dict]:
    """A batch of rows as they are, and one without an input, which comes from the rows in another order."""
    task_class = TASKS[name].task
    options = {"dataset": str(scenes / name)} | ({"min_answer_count": 1} if name == "vqav2" else {})
    options |= {"use_premise": True} if name == "snli_ve" else {}
    task = task_class(task_class.argument_class()(**options, remove_input=removed))
    assert task.removed_input == removed
    data = task.load("train")
    columns = {"text": ["text", "text_pair"], "image": ["image", "images"]}[removed]
    rows = [KeyedRows(data, False)[number] for number in range(len(order))]
    moved = [
        row | {key: rows[other][key] for key in columns if key in row} for row, other in zip(rows, order, strict=True)
    ]
    collator = task.collator(processor, None, 0)
    return collator(rows), RemovingCollator(collator, processor, removed)(moved)


@pytest.mark.parametrize(("name", "removed"), CAN_REMOVE)
def test_nothing_of_a_removed_input_is_in_a_batch_and_the_other_is_as_it_was(name, removed, scenes, processor):
    whole, blind = batches_of(name, removed, scenes, processor, [3, 0, 4, 1, 2])
    assert whole.keys() == blind.keys()
    for key, value in blind.items():
        if key not in INPUTS[removed]:
            assert torch.equal(value, whole[key]), key
        else:
            assert (value == value[:1]).all(), key
    if removed == "text":
        # The special tokens of an empty text, or of a pair of them.
        assert blind["input_ids"].shape[1] == (3 if name == "snli_ve" else 2) and blind["attention_mask"].all()
    else:
        assert (blind["pixel_values"] == 128).all()


@pytest.mark.parametrize("transform", [None, *TRANSFORMS])
def test_removed_images_have_the_colour_that_becomes_zero_and_tell_no_size(transform, tokenizer_folder):
    """Also by processors whose pixels are as long as the image, which would tell its aspect ratio."""
    processor = RenaissanceProcessor.from_encoders(str(tokenizer_folder), image_size=64, image_transform=transform)
    sizes = [(40, 30), (30, 90), (64, 64)]
    rows = [{"image": Image.new("RGB", size, "red"), "text": "a red circle", "sample_id": 0} for size in sizes]
    collate = RemovingCollator(RowCollator(processor), processor, "image")
    found = [collate([row])["pixel_values"] for row in rows]
    assert all(torch.equal(each, found[0]) for each in found)
    mean, std = processor.pixel_statistics or ([0.0] * 3, [1.0] * 3)
    normalised = (found[0].float() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    # Colours are whole numbers of 255.
    assert normalised.abs().max() <= 0.5 / 255 / 0.22
    assert (rows[0]["image"].size, rows[0]["text"]) == ((40, 30), "a red circle")


def test_images_of_processors_that_do_not_normalise_become_grey(tokenizer_folder):
    processor = RenaissanceProcessor(
        ViTImageProcessorPil(do_normalize=False, size={"height": 16, "width": 24}),
        BertTokenizerFast.from_pretrained(tokenizer_folder),
    )
    assert processor.mean_image().size == (24, 16)
    assert set(np.unique(np.asarray(processor.mean_image()))) == {128}


def test_a_tokenizer_without_special_tokens_has_one_token_of_padding(tokenizer_folder):
    processor = RenaissanceProcessor.from_encoders(str(tokenizer_folder), image_size=32)
    processor.tokenizer.backend_tokenizer.post_processor = None
    collator = RowCollator(processor)
    rows = [{"text": "a red circle", "text_pair": "it is blue"}, {"text": "a star", "text_pair": "x"}]
    with pytest.raises(ValueError, match="no tokens"):
        collator([{"text": ""}])
    batch = RemovingCollator(collator, processor, "text")(rows)
    assert (batch["input_ids"] == processor.tokenizer.pad_token_id).all() and batch["attention_mask"].all()


def test_other_words_than_the_two_inputs_are_no_input(processor):
    with pytest.raises(ValueError, match="removed: expected text or image, got 'images'"):
        RemovingCollator(RowCollator(processor), processor, "images")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("glue", "image", "no option --remove_input"),
        ("glue", "text", "no option --remove_input"),
        ("cifar10", "text", "no option --remove_input"),
        ("retrieval", "image", "no option --remove_input"),
        ("pretraining", "text", "no option --remove_input"),
        ("refcoco", "image", "remove_input: images of this task are what it chooses from"),
        ("vqav2", "audio", "invalid choice: 'audio'"),
    ],
)
def test_tasks_refuse_what_they_cannot_do_without(name, value, message, refused, scenes, tokenizer_folder, tmp_path):
    if name == "pretraining":
        argv = [*TWO_TOWER, "--train_datasets", "x", "--output_dir", str(tmp_path / "run")]
    else:
        argv = run_argv(name, scenes, tokenizer_folder, tmp_path / "run")
    task = Pretraining if name == "pretraining" else TASKS[name].task
    assert message in refused(run_task, task, "", [*argv, "--remove_input", value])
    assert not (tmp_path / "run").exists()


def shuffled(folder: Path, scenes: Path, column: str) -> Path:
    """The data of a task with the cells of a column in another order of rows."""
    folder.mkdir()
    for path in scenes.glob("*.parquet"):
        table = pq.read_table(path)
        cells = table[column].take([*range(1, len(table)), 0])
        pq.write_table(table.set_column(table.column_names.index(column), column, cells), folder / path.name)
    return folder


def test_a_run_without_images_says_so_in_its_record_and_mixes_with_no_other(
    scenes, tokenizer_folder, tmp_path, caplog, capsys, refused
):
    """It is trained blind by a recipe with augmentation and a cache. Evaluated on other images, it answers the same."""
    out, again, cache = tmp_path / "run", tmp_path / "again", tmp_path / "cache"
    usual = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--seed", "1", "--do_eval", "--do_predict"]
    usual += ["--per_device_eval_batch_size", "4", "--per_device_train_batch_size", "4"]
    training = [*TWO_TOWER, "--tokenizer", str(tokenizer_folder), "--initializer_range", "0.3", *usual, "--do_train"]
    training += ["--dataset", str(scenes / "image_text"), "--augmentation", "randaugment"]
    training += ["--max_steps", "2", "--save_steps", "1", "--output_dir", str(out)]
    with caplog.at_level("INFO"):
        first = run_task(ImageTextClassification, "", [*training, "--remove_input", "image"])
    assert "augmentation: without effect, for remove_input removes the images" in caplog.text
    assert RunRecord.read(out).options["remove_input"] == "image"
    assert "remove_input: image" in (out / "run.yaml").read_text()
    assert "| input removed from all rows | image |" in (out / "README.md").read_text()
    assert re.search("removed: +the image of all rows", capsys.readouterr().out)
    other = ["--dataset", str(shuffled(tmp_path / "other", scenes / "image_text", "image")), *usual]
    other += ["--model_name_or_path", str(out)]
    blind = [*other, "--output_dir", str(again), "--remove_input", "image", "--cache_pixels", str(cache)]
    second = run_task(ImageTextClassification, "", blind)
    assert not cache.exists()
    for name in ("eval_loss", "eval_accuracy", "test_loss", "test_accuracy"):
        assert second[name] == first[name]
    assert (again / "predictions.csv").read_text() == (out / "predictions.csv").read_text()
    # With images it is another thing, which must not replace these metrics.
    for folder in (out, again):
        before = (folder / "run.json").read_text()
        told = refused(run_task, ImageTextClassification, "", [*other, "--output_dir", str(folder)])
        assert (
            f"remove_input: output_dir {folder} has metrics of the texts alone, which those of the whole rows" in told
        )
        assert (folder / "run.json").read_text() == before
    changed = [*training, "--max_steps", "3", "--remove_input", "text"]
    assert "remove_input" in refused(run_task, ImageTextClassification, "", changed)
