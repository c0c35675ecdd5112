"""Pretraining on several data sets with rows of different kinds: which objectives they serve, how batches mix them, and text corpora."""

import itertools
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER
from datasets import Dataset
from distributed_mixture import train
from safetensors.torch import load_file
from task_runs import mixture_argv
from torch.utils.data import BatchSampler

from renaissance.tasks.bad_steps import IDS
from renaissance.tasks.batch_fitting import StepTrial
from renaissance.tasks.data.bad_rows import BadRows, SkippingCollator
from renaissance.tasks.data.batches import ComposedSampler, compose, rounded_shares
from renaissance.tasks.data.documents import open_documents
from renaissance.tasks.data.faults import RowPlace
from renaissance.tasks.data.fingerprint import fingerprint
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.mixing import MixedRows
from renaissance.tasks.data.sampling import ShareOfBatches
from renaissance.tasks.data.served import columns_of_rows, parse_served
from renaissance.tasks.data.unpaired import TextsAlone
from renaissance.tasks.flops import count_without_values
from renaissance.tasks.memory_needs import step_needs
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")

HERE = Path(__file__).parent
SCRIPTS = HERE.parent / "run_scripts"
COLUMNS = {name: name for name in ("image", "captions", "image_id", "text", "answers", "boxes", "label")}


def mixture(sizes, weights, batches, rows, rows_a_step, seed=0):
    """Numbered rows of several data sets, composed, and how many of each a batch or an epoch has."""
    data = MixedRows([[(part, row) for row in range(size)] for part, size in enumerate(sizes)], weights, seed)
    shares = compose(data, batches, rows, rows_a_step, [f"data {part}" for part in range(len(sizes))])
    return data, shares


def batches_of(data, batches, rows, rows_a_step, epoch, processes=1):
    """The batches of each process in an epoch, as the rows of the data."""
    sampler = ComposedSampler(data, batches, rows, rows_a_step, seed=3)
    sampler.set_epoch(epoch)
    data.begin_epoch(epoch)
    plain = BatchSampler(sampler, rows, drop_last=False)
    found = [list(ShareOfBatches(plain, processes, process)) for process in range(processes)]
    return [[[data[row] for row in batch] for batch in own] for own in found]


@pytest.mark.parametrize(
    ("weights", "total", "shares"),
    [
        ([1, 1, 1], 3, [1, 1, 1]),
        ([0.5, 0.3, 0.2], 8, [4, 2, 2]),
        ([1, 1, 1], 8, [3, 3, 2]),
        ([0.98, 0.02], 8, [8, 0]),
        ([70, 30], 10, [7, 3]),
    ],
)
def test_shares_are_rounded_to_whole_rows(weights, total, shares):
    assert rounded_shares(weights, total) == shares


def test_all_mixed_batches_have_the_same_numbers_of_rows():
    data, shares = mixture((100, 60, 40), [5, 3, 2], "mixed", 10, 20)
    assert shares == [5, 3, 2] and len(data) == 200
    for epoch in range(3):
        (batches,) = batches_of(data, "mixed", 10, 20, epoch)
        assert all(Counter(part for part, _ in batch) == {0: 5, 1: 3, 2: 2} for batch in batches)
        # The shares are those of the sizes: each row once.
        assert len({row for batch in batches for row in batch}) == 200


def test_shares_of_mixed_batches_hold_over_epochs():
    """A data set whose share is larger than its size comes again only when all of its rows have come."""
    data, _ = mixture((50, 10), [1, 1], "mixed", 4, 4)
    rows = [row for epoch in range(4) for batch in batches_of(data, "mixed", 4, 4, epoch)[0] for row in batch]
    counts = Counter(rows)
    small = [counts[1, row] for row in range(10)]
    assert sum(small) == 120 and max(small) == min(small) == 12
    assert {counts[0, row] for row in range(50)} == {2, 3}


def test_homogeneous_steps_are_of_one_data_set_on_all_processes():
    data, shares = mixture((100, 60, 40), [5, 3, 2], "homogeneous", 5, 20)
    assert shares == [5, 3, 2]
    orders = []
    for epoch in range(2):
        first, second = batches_of(data, "homogeneous", 5, 20, epoch, processes=2)
        # Two accumulated batches on each of two processes.
        steps = [
            [row for batch in (*first[at : at + 2], *second[at : at + 2]) for row in batch]
            for at in range(0, len(first), 2)
        ]
        owners = [{part for part, _ in step} for step in steps]
        assert all(len(own) == 1 and len(step) == 20 for own, step in zip(owners, steps, strict=True))
        assert Counter(own.pop() for own in owners) == {0: 5, 1: 3, 2: 2}
        assert len({row for step in steps for row in step}) == 200
        orders.append([step[0][0] for step in steps])
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


@pytest.mark.parametrize("batches", ["mixed", "homogeneous"])
def test_steps_have_the_same_rows_on_any_number_of_processes(batches):
    rows = {}
    for processes in (1, 2, 4):
        size = 16 // processes
        data, _ = mixture((64, 32, 32), [2, 1, 1], batches, size, 16)
        own = batches_of(data, batches, size, 16, 1, processes)
        rows[processes] = [sorted(row for batch in step for row in batch) for step in zip(*own, strict=True)]
    assert rows[1] == rows[2] == rows[4]
    assert len(rows[1]) == 8


def test_the_order_is_a_function_of_seed_and_epoch():
    first, again = (mixture((30, 20), [3, 2], "mixed", 5, 5)[0] for _ in range(2))
    assert batches_of(first, "mixed", 5, 5, 2) == batches_of(again, "mixed", 5, 5, 2)
    assert batches_of(first, "mixed", 5, 5, 2) != batches_of(first, "mixed", 5, 5, 1)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ("mixed", "train_weights: the share of data 1, 0.01, comes to less than one row in a batch of 10"),
        (
            "homogeneous",
            "train_weights: the share of data 1, 0.01, comes to less than one of the 10 steps of an epoch",
        ),
    ],
)
def test_a_share_that_no_batch_can_have_is_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        mixture((50, 50), [0.99, 0.01], batches, 10, 10)


@pytest.mark.parametrize(
    ("columns", "had"),
    [
        (["image", "image_id", "captions"], {"image": "image", "text": "captions"}),
        (["id", "image", "text", "answers"], {"image": "image", "text": "text", "answers": "answers"}),
        (["id", "image", "text", "boxes", "label"], {"image": "image", "text": "text", "boxes": "boxes", "label": "label"}),
        (["image", "label"], {"image": "image", "class_name": "label"}),
        (["id", "text"], {"text": "text"}),
        (["text", "text_pair", "label"], {"text": "text"}),
        # Not captions, unless the user names them: hypotheses may be false of their images.
        (["image", "text", "label"], {"image": "image"}),
        (["photo", "text", "answers"], {}),
        (["photo", "words"], {}),
    ],
)  # fmt: skip
def test_the_columns_say_what_rows_have(columns, had):
    assert columns_of_rows(Dataset.from_dict({name: ["1"] for name in columns}), COLUMNS) == had


def test_names_of_objectives_are_read_for_each_data_set():
    assert parse_served(["mlm+itm", "mlm"], 2, ["mlm", "itm"]) == [("mlm", "itm"), ("mlm",)]
    given = {"train_datasets": ["a", "b", "a"], "train_objectives": ["mlm+itm", "mlm", "itm"]}
    arguments, names = Pretraining.argument_class()(**given), ("mlm", "itm")
    assert [source.objectives for source in arguments.sources("train", names)] == [("mlm", "itm"), ("mlm",), ("itm",)]
    arguments = Pretraining.argument_class()(**given, eval_datasets=["b", "c"])
    assert [source.objectives for source in arguments.sources("validation", names)] == [("mlm",), None]
    assert [source.objectives for source in arguments.sources("train", ())] == [None] * 3


def test_a_text_corpus_trains_without_the_image_tower(corpus, options, tmp_path, caplog, monkeypatch):
    """Masked language modelling alone: no image is made, encoded or asked for, and the image tower keeps its weights."""
    argv = [*mixture_argv(options, corpus[0], steps=2), "--max_length", "16"]
    trainer, _, data, _ = prepare(Pretraining, "", argv)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    monkeypatch.setattr(
        trainer.model.model, "encode_image", lambda *given, **named: pytest.fail("an image was encoded")
    )
    assert "image" not in data["train"][0]
    trainer.train()
    after = trainer.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any("text" in name for name in moved) and not any(".vision" in name for name in moved)
    told = "of 24 texts ({}) have more than 16 tokens, and their ends are cut off or, without an image, a part is read"
    cut = sum(len(trainer.processing_class.tokenizer(text, truncation=False)["input_ids"]) > 16 for text in corpus[1])
    assert told.format(cut) in caplog.text and 0 < cut < 24
    assert [entry["mlm_loss"] for entry in trainer.state.log_history if "mlm_loss" in entry]


def check_absent_heads(steps):
    """A head changes in the steps that ask for it and in no other."""
    for (counts, before), (_, after) in itertools.pairwise(steps):
        for name, count in counts.items():
            assert torch.equal(before[name], after[name]) == (count == 0), name
    # Each is asked for, and left out, more than once.
    for name in steps[0][0]:
        asked = sum(counts[name] > 0 for counts, _ in steps)
        assert asked > 1 and (name == "mlm" or asked < len(steps) - 1), name


def test_a_head_that_a_step_does_not_ask_for_keeps_its_weights(shapes, corpus, options):
    """Under AdamW with weight decay, in steps of documents alone; and the log has its loss of the steps that asked for it."""
    argv = mixture_argv(options, shapes / "captions", corpus[0], objectives=("mlm", "itm"))
    found = train([*argv, "--batches", "homogeneous", "--train_weights", "0.5", "0.5"])
    check_absent_heads(found["steps"])
    with_loss = ["itm_loss" in losses for losses in found["losses"]]
    assert with_loss == [counts["itm"] > 0 for counts, _ in found["steps"]]
    assert all("mlm_loss" in losses for losses in found["losses"])


#: Objectives whose draws depend on a row alone, and the data sets that serve them.
LABELLED = ("mlm", "vqa", "grounding", "classification")


def labelled_argv(options, scenes, corpus, *more, steps=6):
    """A run on questions, expressions, images with classes and documents."""
    sources = [scenes / "vqav2", scenes / "refcoco", scenes / "cifar10", corpus[0]]
    argv = mixture_argv(options, *sources, steps=steps, objectives=LABELLED)
    return [*argv, "--vqa_min_answer_count", "1", "--image_size", "32", *more]


@pytest.mark.slow
def test_a_run_on_rows_of_all_kinds(scenes, corpus, options, tmp_path):
    """Its heads have the classes of the training data, which a run from its checkpoint keeps."""
    argv = [
        *labelled_argv(options, scenes, corpus, steps=2),
        "--train_objectives",
        "vqa",
        "grounding+mlm",
        "classification",
        "mlm",
    ]
    trainer, *_ = prepare(Pretraining, "", argv)
    batch = next(iter(trainer.get_train_dataloader()))
    # The shares are those of the sizes, 13, 13, 13 and 24.
    found = {name: len(batch[f"{name}_rows"]) for name in LABELLED}
    assert found == {"mlm": 5, "vqa": 2, "grounding": 2, "classification": 1}
    answers = [answer for row in Dataset.from_parquet(f"{scenes}/vqav2/train*.parquet")["answers"] for answer in row]
    assert set(trainer.model.config.vqa_answers) <= set(answers) and len(trainer.model.config.image_classes) > 4
    run_task(Pretraining, "", argv)
    cut = Dataset.from_parquet(f"{scenes}/cifar10/train*.parquet").select(range(2))
    (tmp_path / "few").mkdir()
    cut.to_parquet(str(tmp_path / "few" / "train.parquet"))
    again = [*options, "--model_name_or_path", str(tmp_path / "run"), "--output_dir", str(tmp_path / "again")]
    del again[again.index("--tokenizer") : again.index("--tokenizer") + 2]
    again += [
        "--objectives",
        "classification",
        "--train_datasets",
        str(tmp_path / "few"),
        "--do_train",
        "--max_steps",
        "1",
    ]
    model = prepare(Pretraining, "", again)[0].model
    assert model.config.image_classes == trainer.model.config.image_classes


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["mixed", "homogeneous", "shuffled"])
def test_two_processes_train_on_a_mixture_as_one(launch, scenes, corpus, options, tmp_path, batches):
    """With the same rows, losses by objective and weights, where heads are absent from some steps, or from one process."""
    found = []
    for processes in (1, 2):
        argv = labelled_argv(options, scenes, corpus, "--batches", batches, "--optim", "sgd", "--max_grad_norm", "1")
        argv += [
            "--per_device_train_batch_size",
            str(8 // processes),
            "--output_dir",
            str(tmp_path / f"run{processes}"),
        ]
        argv += ["--train_weights", *"1111", "--learning_rate", "0.05", "--save_strategy", "no"]
        launch(processes, HERE / "distributed_mixture.py", tmp_path / f"{processes}.pt", *argv)
        found.append(torch.load(tmp_path / f"{processes}.pt"))
    one, two = found
    assert len(one["losses"]) == 6
    for expected, losses in zip(one["losses"], two["losses"], strict=True):
        assert losses == pytest.approx(expected, abs=1e-5)
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--activation_checkpointing", "true"]], ids=["plain", "checkpointing"])
def test_absent_heads_keep_their_weights_on_two_processes(launch, scenes, corpus, options, tmp_path, more):
    argv = [*labelled_argv(options, scenes, corpus, "--batches", "homogeneous", steps=12), *more]
    argv += ["--train_weights", *"1111", "--per_device_train_batch_size", "2", "--save_strategy", "no"]
    launch(2, HERE / "distributed_mixture.py", tmp_path / "found.pt", *argv)
    check_absent_heads(torch.load(tmp_path / "found.pt")["steps"])


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["mixed", "homogeneous"])
def test_two_processes_resume_a_mixture_exactly(launch, scenes, corpus, options, tmp_path, batches):
    argv = labelled_argv(options, scenes, corpus, "--batches", batches, "--dataloader_num_workers", "1", steps=10)
    argv += [
        "--per_device_train_batch_size",
        "4",
        "--train_weights",
        *"1111",
        "--save_strategy",
        "steps",
        "--save_steps",
        "8",
    ]
    launch(2, SCRIPTS / "run_pretrain.py", *argv)
    (tmp_path / "part").mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-8", tmp_path / "part" / "checkpoint-8")
    launch(2, SCRIPTS / "run_pretrain.py", *argv, "--output_dir", tmp_path / "part")
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


def test_rows_serve_the_objectives_that_the_recipe_says(shapes, corpus, options):
    argv = mixture_argv(options, shapes / "captions", corpus[0], objectives=("mlm", "itm", "contrastive"))
    argv += ["--train_weights", "3", "1", "--train_objectives", "itm+contrastive", "mlm"]
    trainer, _, data, args = prepare(Pretraining, "", argv)
    assert args.ddp_find_unused_parameters is True
    batch = next(iter(trainer.get_train_dataloader()))
    served = {name: len(batch[f"{name}_rows"]) for name in ("mlm", "itm", "contrastive")}
    assert served == {"mlm": 2, "itm": 6, "contrastive": 6}
    assert len(data["train"].data) % 8 == 0


def test_the_memory_of_a_step_is_that_of_the_data_set_that_needs_most(shapes, corpus, options):
    argv = [
        *mixture_argv(options, corpus[0], shapes / "captions", objectives=("mlm", "itm")),
        "--batches",
        "homogeneous",
    ]
    trainer, *_, args = prepare(Pretraining, "", argv)
    documents, captions = trainer.step_trial.batches(8)
    assert "pixel_values" not in documents and len(captions["pixel_values"]) > 4
    needs = [step_needs(trainer.model, batch, args, 8).of_rows(8, False).total for batch in (documents, captions)]
    assert trainer.step_trial.needs(args).total == max(needs) > min(needs)


def test_a_mixed_batch_that_is_tried_has_each_data_set_in_its_share():
    """Not the rows of the first data set, which come first in a batch; the longest text stands for another of its data set."""
    sizes = [128, 64, 32, 32]
    data, _ = mixture(sizes, sizes, "mixed", 64, 64)
    sampler = ComposedSampler(data, "mixed", 64, 64, seed=0)
    for longest in range(4):

        def texts(_, rows, longest=longest):
            return [["x" * (data.locate(row, 0)[0] == longest) for row in rows.tolist()]]

        trial = StepTrial(None, SimpleNamespace(texts=texts), KeyedRows(data, True), list, None, sampler)
        owners = [data.locate(number, 0)[0] for number in trial.numbers(32)]
        assert Counter(owners) == {0: 16, 1: 8, 2: 4, 3: 4}


@pytest.mark.slow
def test_the_operations_of_homogeneous_steps_are_those_of_their_own_rows(shapes, corpus, options):
    """Not those of the first step: documents take a fraction of what pairs do."""
    argv = mixture_argv(options, corpus[0], shapes / "captions", steps=10, objectives=("mlm", "itm"))
    argv += ["--batches", "homogeneous", "--train_weights", "1", "1", "--max_length", "8"]
    trainer, *_ = prepare(Pretraining, "", argv)
    batches = [
        {name: value for name, value in batch.items() if name != IDS} for batch in trainer.get_train_dataloader()
    ]
    counts = [count_without_values(trainer.model, batch, trainer.args) for batch in batches[:10]]
    trainer.train()
    assert max(counts) > 2 * min(counts)
    assert trainer.state.total_flos == pytest.approx(sum(counts), rel=0.02)


def test_a_run_on_a_mixture_resumes_exactly_inside_an_epoch(shapes, corpus, options, tmp_path):
    argv = mixture_argv(options, shapes / "captions", corpus[0], objectives=("mlm", "itm"))
    argv += ["--save_strategy", "steps", "--save_steps", "4", "--itm_negatives", "random", "--logging_steps", "3"]
    run_task(Pretraining, "", argv)
    (tmp_path / "part").mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-4", tmp_path / "part" / "checkpoint-4")
    run_task(Pretraining, "", [*argv, "--output_dir", str(tmp_path / "part")])
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


def test_the_digest_of_a_mixture_is_not_of_its_batches(corpus):
    """Which may be found only when its rows are read, or become smaller when a run is resumed on another machine."""
    parts = [TextsAlone(open_documents(corpus[0]), "x", limit) for limit in (24, 20)]
    data, found = MixedRows(parts, [11, 5], 0), {}
    for rows in (16, 8):
        compose(data, "mixed", rows, 16, ["one", "other"])
        found[tuple(data.counts)] = fingerprint(data)
    assert len(found) == 2 and len({*found.values()}) == 1
    assert fingerprint(MixedRows(parts[::-1], [11, 5], 0)) not in found.values()


@pytest.mark.slow
def test_a_mixture_is_resumed_with_the_rows_of_a_batch_that_were_found_or_with_others(shapes, corpus, options):
    argv = mixture_argv(options, shapes / "captions", corpus[0], steps=1)
    argv += ["--save_strategy", "steps", "--save_steps", "1", "--total_batch_size", "16", "--train_weights", "11", "5"]
    found = [*argv, "--per_device_train_batch_size", "auto"]
    run_task(Pretraining, "", found)
    trainer, _, data, args = prepare(Pretraining, "", [*found, "--max_steps", "2"])
    assert args.per_device_train_batch_size == 16 and data["train"].data.counts == [110, 50]
    assert trainer.recorder.record.of_split("train").rows == 160
    assert str(args.resume_from_checkpoint).endswith("checkpoint-1")
    *_, data, args = prepare(Pretraining, "", [*argv, "--max_steps", "2", "--per_device_train_batch_size", "8"])
    assert args.gradient_accumulation_steps == 2 and data["train"].data.counts != [110, 50]


@pytest.mark.slow
def test_evaluation_has_each_objective_over_the_rows_that_serve_it(shapes, corpus, options):
    """As on the data sets one by one."""
    found = {}
    for sources in ([shapes / "captions"], [corpus[0]], [shapes / "captions", corpus[0]]):
        argv = [*TWO_TOWER, *options, "--eval_datasets", *map(str, sources), "--do_eval"]
        found[len(found)] = prepare(Pretraining, "", [*argv, "--objectives", "mlm", "itm"])[0].evaluate()
    captions, documents, both = found.values()
    assert both["eval_itm_loss"] == pytest.approx(captions["eval_itm_loss"], abs=0.3)
    assert both["eval_itm_labels"] == captions["eval_itm_labels"] and "eval_itm_loss" not in documents
    assert both["eval_rows"] == captions["eval_rows"] + documents["eval_rows"]
    assert both["eval_mlm_labels"] > captions["eval_mlm_labels"]


def test_a_bad_row_is_replaced_by_one_of_the_same_data_set():
    """So that the shares of a batch, and the objectives that it serves, stay."""
    parts = [[{"place": RowPlace(name, row), "of": name} for row in range(20)] for name in "abc"]
    rows, bad_rows = KeyedRows(MixedRows(parts, [1, 2, 1], 0), training=True), BadRows(skip=True, max_fraction=1.0)
    rows.begin_epoch(1)
    for row in range(0, 20, 2):
        bad_rows.add("b", row, None, "a fault")
    plain = [rows[number] for number in range(len(rows))]
    found = SkippingCollator(list, rows, bad_rows, seed=0)(plain)
    assert [row["of"] for row in found] == [row["of"] for row in plain]
    assert {row["place"].row % 2 for row in found if row["of"] == "b"} == {1}
    assert all(row == own for row, own in zip(found, plain, strict=True) if not bad_rows.holds(own))


def test_false_images_are_drawn_from_pairs_that_are_matched(shapes, corpus, options):
    argv = mixture_argv(options, corpus[0], shapes / "captions", objectives=("mlm", "itm"))
    _, task, data, _ = prepare(Pretraining, "", [*argv, "--itm_negatives", "random"])
    rng, row = (
        np.random.default_rng(0),
        next(data["train"][number] for number in range(60) if "image" in data["train"][number]),
    )
    drawn = [task.draw_negative(row, rng) for _ in range(40)]
    assert all("image" in each and each["image_id"] != row["image_id"] for each in drawn)
    assert len({each["image_id"] for each in drawn}) > 10
