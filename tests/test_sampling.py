"""The order of the rows of a training, and whole runs with the options that make a step cheaper."""

import json
import re
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from conftest import TWO_TOWER
from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainerState

from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.mixing import MixedRows
from renaissance.tasks.data.sampling import GroupedSampler
from renaissance.tasks.epochs import EpochCallback
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.pretraining_data import image_numbers
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


LENGTHS = np.random.default_rng(0).integers(5, 51, 1003)


IMAGES = np.random.default_rng(1).integers(0, 300, 1003)


def batches(order: list[int], size: int = 8) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def sampler(per_image: int, by_length: bool, seed: int = 0) -> GroupedSampler:
    lengths = (lambda epoch: LENGTHS) if by_length else None
    return GroupedSampler(1003, 8, 2, seed, lengths, lambda epoch: IMAGES, per_image)


@pytest.mark.parametrize("per_image", [1, 2])
@pytest.mark.parametrize("by_length", [True, False])
def test_the_sampler_has_every_row_once_in_an_order_of_seed_and_epoch(per_image, by_length):
    first, order = sampler(per_image, by_length), list(sampler(per_image, by_length))
    assert sorted(order) == list(range(1003)) and len(first) == 1003
    assert list(first) == order
    first.set_epoch(1)
    assert list(first) != order != list(sampler(per_image, by_length, seed=1))
    assert sorted(first) == sorted(order)


@pytest.mark.parametrize(("per_image", "share"), [(1, 0.65), (2, 0.8)])
def test_the_sampler_brings_texts_of_one_length_together(per_image, share):
    order, random = list(sampler(per_image, True)), np.random.default_rng(2).permutation(1003).tolist()
    padded_to, usual = (np.mean([LENGTHS[rows].max() for rows in batches(rows_)]) for rows_ in (order, random))
    assert padded_to < usual * share
    # Batches of all lengths come at all times.
    tenths = np.array([LENGTHS[rows].mean() for rows in batches(order)[:120]]).reshape(10, 12).mean(axis=1)
    assert np.ptp(tenths) < 20


def test_the_batch_that_is_left_over_comes_last():
    """Elsewhere it would shift the batches behind it, whose texts would then be of two lengths."""
    together = [LENGTHS[rows] for rows in batches(list(sampler(1, True)), 16)]
    assert len(together[-1]) == 1003 % 16
    # The 203 rows of the last pool have texts of 5 to 50 characters, in 13 batches.
    assert max(map(np.ptp, together)) < 10


@pytest.mark.parametrize("by_length", [True, False])
def test_the_sampler_brings_rows_of_one_image_together(by_length):
    order = list(sampler(2, by_length))
    assert sum(IMAGES[a] == IMAGES[b] for a, b in pairwise(order)) > 300
    longest_run = max(
        len(run) for run in "".join("1" if IMAGES[a] == IMAGES[b] else " " for a, b in pairwise(order)).split()
    )
    assert longest_run <= 3, "two pairs of one image may meet by chance, no more"


def test_the_processes_of_a_step_have_texts_of_about_one_length():
    order = list(GroupedSampler(960, 8, 4, 0, lambda epoch: LENGTHS[:960]))
    longest = np.array([LENGTHS[rows].max() for rows in batches(order)]).reshape(-1, 4)
    assert np.ptp(longest, axis=1).mean() < np.ptp(longest) / 8


def test_rows_of_a_mixture_are_found_at_once():
    mixed = MixedRows([list(range(7)), list(range(100, 150))], [0.6, 0.4], seed=3)
    for epoch in range(4):
        at_once = [(part, row) for part in (0, 1) for row in mixed.rows_of(part, epoch).tolist()]
        assert at_once == [mixed.locate(index, epoch) for index in range(len(mixed))]


def test_the_sampler_is_told_the_epoch_where_accelerate_does_not_reach_it():
    """As in a run that is resumed inside an epoch on one of two processes."""
    sampler = GroupedSampler(64, 4, 2, 0, lambda epoch: LENGTHS[:64])
    rows = KeyedRows([{"text": "a"}] * 64, training=True)
    rows.begin_epoch(0)
    loader = prepare_data_loader(
        DataLoader(rows, batch_sampler=BatchSampler(sampler, 4, drop_last=False), collate_fn=list),
        num_processes=2,
        process_index=1,
        put_on_device=False,
    )
    loader.set_epoch(1)
    whole = [[row["sample_id"] for row in batch] for batch in loader]
    sampler.set_epoch(0)
    EpochCallback(rows, sampler).on_epoch_begin(None, TrainerState(epoch=1.25), None)
    resumed = [[row["sample_id"] for row in batch] for batch in skip_first_batches(loader, 2)]
    assert len(whole) == 8 and resumed == whole[2:]


def test_captions_of_one_image_id_come_together(shapes, options, tmp_path):
    """Where data has a row a caption, as where it has a row an image."""
    source = CaptionedImages(load_dataset("parquet", data_dir=str(shapes / "captions"), split="train"), "shapes")
    rows = [row | {"captions": row["text"]} for row in (source[index] for index in range(len(source)))]
    features = Features({"image": ImageFeature(), "image_id": Value("string"), "captions": Value("string")})
    (tmp_path / "rows").mkdir()
    table = Dataset.from_list([{name: row[name] for name in features} for row in rows], features=features)
    table.to_parquet(str(tmp_path / "rows" / "train-00000-of-00001.parquet"))
    shares = []
    for folder in (shapes / "captions", tmp_path / "rows"):
        argv = [*TWO_TOWER, *options, "--do_train", "--captions_per_image", "2", "--train_datasets", str(folder)]
        loader = prepare(Pretraining, "", argv)[0].get_train_dataloader()
        shares.append(np.mean([len(batch["pixel_values"]) / len(batch["mlm_labels"]) for batch in loader]))
    assert shares[1] == pytest.approx(shares[0], abs=0.02) and shares[0] < 0.7


CHEAP = ["--captions_per_image", "2", "--train_sampling_strategy", "group_by_length", "--itm_text", "masked"]


def run_options(shapes, options, *extra) -> list[str]:
    return [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_train", *extra]


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_with_all_of_it(shapes, options, mixed):
    data = [str(shapes / "captions"), str(shapes / "captions"), "--train_weights", "0.7", "0.3"] if mixed else []
    argv = [*TWO_TOWER, *options, "--do_train", *CHEAP, "--train_datasets", *(data or [str(shapes / "captions")])]
    trainer, task, data, _ = prepare(Pretraining, "", argv)
    loader = trainer.get_train_dataloader()
    fewest = [len(batch["pixel_values"]) / len(batch["mlm_labels"]) for batch in loader]
    assert np.mean(fewest) < 0.8 and all("input_ids" not in batch for batch in loader)
    rows = data["train"].data
    numbers, lengths = image_numbers(rows, 0), task.text_lengths(rows, 0)
    for index in (0, 5, len(rows) - 1):
        assert len(rows[index]["text"]) == lengths[index]
        assert (rows[index]["image_id"] == rows[0]["image_id"]) == (numbers[index] == numbers[0])


def test_its_resumed_run_repeats_the_order(shapes, options, tmp_path):
    """An epoch of 16 steps; the run is cut off in its second, inside a pool."""
    argv = run_options(shapes, options, *CHEAP, "--max_steps", "20", "--save_steps", "18", "--logging_steps", "1")
    argv += ["--itm_negatives", "random"]
    run_task(Pretraining, "", argv)
    whole = json.loads((tmp_path / "run" / "checkpoint-20" / "trainer_state.json").read_text())["log_history"]
    again = [
        *argv,
        "--output_dir",
        str(tmp_path / "again"),
        "--resume_from_checkpoint",
        str(tmp_path / "run" / "checkpoint-18"),
    ]
    run_task(Pretraining, "", again)
    resumed = json.loads((tmp_path / "again" / "checkpoint-20" / "trainer_state.json").read_text())["log_history"]
    for one, other in zip(whole[18:20], resumed[18:20], strict=True):
        assert one["step"] == other["step"]
        assert one["mlm_loss"] == pytest.approx(other["mlm_loss"], rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_with_false_images_of_all_data(shapes, options, mixed):
    data = [str(shapes / "captions"), str(shapes / "captions"), "--train_weights", "0.7", "0.3"] if mixed else []
    extra = ["--itm_negatives", "random", *(["--train_datasets", *data] if mixed else [])]
    trainer, _, data, _ = prepare(Pretraining, "", run_options(shapes, options, *extra, "--max_steps", "2"))
    foreign = 0
    for batch in trainer.get_train_dataloader():
        own, matched = batch["image_index"], batch["itm_image_index"]
        foreign += len(batch["pixel_values"]) - len(own.unique())
        assert torch.equal(own == matched, batch["itm_labels"].bool())
    # Of the half of the rows that have a false image; few images are in the batch by chance.
    assert foreign > len(data["train"]) / 4
    trainer.train()


def test_options_of_training_alone_warn_in_evaluation(shapes, options, caplog):
    argv = [*TWO_TOWER, *options, "--eval_datasets", str(shapes / "captions"), "--do_eval"]
    prepare(Pretraining, "", argv)
    assert "without effect" not in caplog.text
    prepare(Pretraining, "", [*argv, "--itm_negatives", "random"])
    assert "false images of all data: without effect, for nothing is trained" in caplog.text


def test_the_order_has_the_seed_of_the_data(shapes, options):
    def order(*extra) -> list[int]:
        trainer, *_ = prepare(Pretraining, "", run_options(shapes, options, *CHEAP, *extra))
        return list(trainer.train_sampler)

    assert order("--seed", "3") == order("--data_seed", "3") != order()
    assert order("--seed", "3", "--data_seed", "0") == order("--seed", "0")


@pytest.mark.slow
def test_streams_and_mixtures_have_the_seed_of_the_data(shapes, options):
    folder = str(shapes / "captions")
    streamed = ["--streaming", "--max_steps", "2"]
    mixed = ["--train_datasets", folder, folder, "--train_weights", "0.7", "0.3"]

    def ids(kind: list[str], *extra: str) -> list[str]:
        rows = prepare(Pretraining, "", run_options(shapes, options, *kind, *extra))[2]["train"]
        return [row["image_id"] + row["text"] for row in islice(iter(rows), 40)]

    for kind in (streamed, mixed):
        assert ids(kind, "--seed", "3") == ids(kind, "--data_seed", "3") != ids(kind)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--captions_per_image", "8"], "captions_per_image: .* expected fewer than its 8 rows"),
        (["--captions_per_image", "0"], "captions_per_image: expected at least 1"),
        (["--train_sampling_strategy", "batch_rebalance"], "expected random, sequential or group_by_length"),
        (["--itm_text", "masked", "--objectives", "itm"], "itm_text: masked needs the objective mlm too"),
        (["--itm_negatives", "random", "--objectives", "mlm"], "itm_negatives: without effect on the objectives mlm;"),
        (["--itm_negatives", "random", "--augmentation", "randaugment"], "draws false ones from all of its data"),
        (["--streaming", "--max_steps", "2", "--itm_negatives", "random"], "random rows, from which itm is to draw false images"),
        (["--streaming", "--max_steps", "2", "--captions_per_image", "2"], "captions_per_image: without effect with"),
        (["--streaming", "--max_steps", "2", "--train_sampling_strategy", "group_by_length"], "group_by_length is without"),
        (["--streaming", "--max_steps", "2", "--train_sampling_strategy", "sequential"], "sequential is without"),
        (["--captions_per_image", "2", "--train_sampling_strategy", "sequential"], "sequential leaves rows where they are"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(shapes, options, extra, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_task(Pretraining, "", run_options(shapes, options, *extra))
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_pretraining_by_length_is_evaluated_in_order(shapes, options):
    results = []
    for strategy in ("group_by_length", "random"):
        extra = ["--eval_datasets", str(shapes / "captions"), "--do_eval", "--train_sampling_strategy", strategy]
        results.append(prepare(Pretraining, "", run_options(shapes, options, *extra))[0].evaluate())
    timing = ("time", "per_second")
    by_length, usual = ({k: v for k, v in found.items() if not k.endswith(timing)} for found in results)
    assert by_length == pytest.approx(usual)


def test_other_tasks_group_by_length_too(tmp_path, options):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    lines = [
        {"image": "1.png", "text": "a circle " * (1 + row % 9), "label": ["neutral", "entailment"][row % 2]}
        for row in range(64)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    argv = [
        *TWO_TOWER,
        *options,
        "--train_file",
        str(file),
        "--do_train",
        "--train_sampling_strategy",
        "group_by_length",
    ]
    trainer, *_ = prepare(SNLIVE, "", argv)
    lengths = [batch["attention_mask"].sum(dim=1) for batch in trainer.get_train_dataloader()]
    assert np.mean([float(rows.max() - rows.min()) for rows in lengths]) <= 4
