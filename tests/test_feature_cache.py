"""Features of a frozen vision tower that are kept on disk: the same training, made once, never stale."""

import csv
import json
import logging
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER
from datasets import Dataset, Features, Image
from safetensors.numpy import load_file

from renaissance.tasks import feature_cache as cache
from renaissance.tasks import image_cache
from renaissance.tasks.data.image_cache import read_shards, stored_images
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.shapes import DATA_SETS
from renaissance.tasks.glue import GLUE
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE
from renaissance.tasks.vqav2 import VQAv2


ROOT = Path(__file__).parent.parent

#: The tower is random, but makes different features of different images.
MODEL = [option.replace('"patch_size": 16', '"patch_size": 16, "initializer_range": 0.5') for option in TWO_TOWER]

#: A locked image tower (Zhai et al. 2022): only vectors are made of it.
LIT = ["--architecture", "dual-encoder", "--contrastive_size", "16"]

#: The data of each task, as it is called in `shapes`, and the task's own options.
TASKS = {
    "pretraining": (Pretraining, "captions", ["--train_datasets"]),
    "cheap pretraining": (
        Pretraining,
        "captions",
        ["--captions_per_image", "2", "--itm_text", "masked", "--train_datasets"],
    ),
    "pretraining with false images of all data": (
        Pretraining,
        "captions",
        ["--itm_negatives", "random", "--train_datasets"],
    ),
    "nlvr2": (NLVR2, "nlvr2", ["--dataset"]),
    "snli_ve": (SNLIVE, "snli_ve", ["--dataset"]),
    "own classes": (ImageTextClassification, "image_text", ["--class_weights", "balanced", "--dataset"]),
    "vqav2": (VQAv2, "vqav2", ["--min_answer_count", "1", "--dataset"]),
    "retrieval": (
        Retrieval,
        "captions",
        ["--num_negative_texts", "2", "--num_negative_images", "2", "--eval_pairs_per_batch", "9", "--dataset"],
    ),
    "pretraining of a dual encoder": (Pretraining, "captions", [*LIT, "--train_datasets"]),
    "retrieval of a dual encoder": (Retrieval, "captions", [*LIT, "--dataset"]),
}


@pytest.fixture(scope="module")
def data(shapes, tmp_path_factory) -> Path:
    """Those of `shapes`, and those of the other tasks."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("captions", "nlvr2"):
        shutil.copytree(shapes / name, folder / name)
    for name in ("snli_ve", "image_text", "vqav2", "refcoco", "glue"):
        source = DATA_SETS[name]
        (folder / name).mkdir()
        for split in ("train", "validation"):
            rows = Dataset.from_list(list(source.rows(split, 12, 0, 32)), features=source.features)
            rows.to_parquet(str(folder / name / f"{split}-00000-of-00001.parquet"))
    return folder


def options_of(name: str, data: Path, options: list[str]) -> list[str]:
    _, folder, own = TASKS[name]
    model = MODEL[: MODEL.index("--cross_modal_hidden_size")] if own[: len(LIT)] == LIT else MODEL
    argv = [*model, *options, *own, str(data / folder), "--freeze", "vision", "--do_train", "--do_eval"]
    return [*argv, "--max_steps", "3", "--learning_rate", "1e-2"]


def run(name: str, data: Path, options: list[str], out: Path, *extra: str) -> dict[str, float]:
    """The losses and other metrics of a run, but for its speed."""
    argv = [*options_of(name, data, options), *extra, "--output_dir", str(out)]
    metrics = run_task(TASKS[name][0], "", argv)
    return {key: value for key, value in metrics.items() if "runtime" not in key and "per_second" not in key}


def files_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file in a folder was written, and what it holds; but for the list of their times itself."""
    files = [path for path in folder.iterdir() if path.name != cache.CHECKED]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


#: A task of each kind; the others take as long, and are slow.
QUICK = ("pretraining", "retrieval")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in TASKS]
)
def test_training_is_the_same_as_without(name, data, options, tmp_path):
    """Losses and metrics; of the run that makes the features, and, to the last bit, of the one that reads them."""
    folder = ["--cache_frozen_features", str(tmp_path / "cache")]
    folder += ["--dataloader_num_workers", "2"] if name == "pretraining" else []
    without = run(name, data, options, tmp_path / "without")
    first = run(name, data, options, tmp_path / "first", *folder)
    before = files_in(tmp_path / "cache")
    second = run(name, data, options, tmp_path / "second", *folder, "--dataloader_num_workers", "0")
    flops = [metrics.pop("total_flos") for metrics in (without, first, second)]
    # The frozen tower runs in no step.
    assert 0 < flops[1] == flops[2] < flops[0]
    assert {"train_loss"} < first.keys() == without.keys()
    assert first == second and files_in(tmp_path / "cache") == before
    assert first == pytest.approx(without, rel=5e-4)


def check_features(plain, trainer) -> None:
    """Asserts that the rows of `trainer` are those of `plain` with the features of their own images."""
    tower, processor = plain.model.eval().base_model, plain.processing_class
    for rows, others in ((plain.train_dataset, trainer.train_dataset), (plain.eval_dataset, trainer.eval_dataset)):
        assert len(rows) == len(others) > 3
        for index in range(len(rows)):
            row, other = rows[index], others[index]
            column = "images" if "images" in row else "image"
            assert row.keys() == other.keys()
            assert all(row[key] == other[key] for key in row.keys() - {column})
            images = row[column] if column == "images" else [row[column]]
            found = np.stack(other[column] if column == "images" else [other[column]])
            pixels = torch.from_numpy(np.stack(processor.process_images(images, as_uint8=True)["pixel_values"]))
            expected = tower.vision_features(pixels).detach().numpy()
            assert found.dtype == np.float16 and np.abs(expected).max() > 0.5
            np.testing.assert_allclose(found, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_rows_have_what_the_tower_makes_of_their_images(name, data, options, tmp_path, monkeypatch):
    """Of each row its own, from several files; and the tower does not run again, whatever the model does."""
    monkeypatch.setattr(image_cache, "SHARD_BYTES", 5 * 5 * 32 * 2)
    argv = options_of(name, data, options)
    plain = prepare(TASKS[name][0], "", argv)[0]
    trainer = prepare(TASKS[name][0], "", [*argv, "--cache_frozen_features", str(tmp_path / "cache")])[0]
    assert len(list((tmp_path / "cache").glob("features-*"))) > 2
    check_features(plain, trainer)
    calls = []
    trainer.model.base_model.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    trainer.evaluate()
    assert calls == []


def test_mixtures(data, options, tmp_path):
    source = DATA_SETS["captions"]
    (tmp_path / "more").mkdir()
    rows = Dataset.from_list(list(source.rows("train", 9, 7, 32)), features=source.features)
    rows.to_parquet(str(tmp_path / "more" / "train-00000-of-00001.parquet"))
    argv = [*options_of("pretraining", data, options), "--train_weights", "1", "3", "--max_train_samples", "20"]
    argv += ["--train_datasets", str(data / "captions"), str(tmp_path / "more"), "--eval_datasets"]
    argv += [str(data / "captions")]
    plain = prepare(Pretraining, "", argv)[0]
    trainer = prepare(Pretraining, "", [*argv, "--cache_frozen_features", str(tmp_path / "cache")])[0]
    check_features(plain, trainer)
    # Of the larger data set only the images of the first 20 pairs.
    assert sum(len(load_file(path)["hashes"]) for path in (tmp_path / "cache").glob("features-*")) == 20 + 9 + 10


def test_images_without_anything_else(data, options, tmp_path):
    """As in data that is only to be predicted."""
    prepare(
        Pretraining, "", [*options_of("pretraining", data, options), "--cache_frozen_features", str(tmp_path / "a")]
    )
    features, hashes = read_shards(tmp_path / "a")
    table = Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 2}, Features({"image": Image(decode=False)}))
    rows = KeyedRows(table, training=False)
    (images,) = stored_images(rows)
    images.put_in_place(np.array([5, 1]), features)
    assert len(hashes) == 42 and len(rows) == 2
    assert np.array_equal(rows[0]["image"], features[5]) and np.array_equal(rows[1]["image"], features[1])


def test_one_folder_serves_all_that_one_tower_does(data, options, tmp_path):
    """Pretraining, then finetuning of its checkpoint on other data, and on the same images, which are there already."""
    folder = ["--cache_frozen_features", str(tmp_path / "cache")]
    run("pretraining", data, options, tmp_path / "pretrained", *folder)
    shards = {path.name for path in (tmp_path / "cache").glob("features-*")}
    argv = [*options[2:-2], "--model_name_or_path", str(tmp_path / "pretrained"), "--freeze", "vision"]
    argv += ["--do_train", "--max_steps", "2"]
    for name, added in (("retrieval", 0), ("nlvr2", 1)):
        task, own, _ = TASKS[name]
        out = ["--output_dir", str(tmp_path / name), "--dataset", str(data / own)]
        run_task(task, "", [*argv, *out, *folder])
        found = {path.name for path in (tmp_path / "cache").glob("features-*")}
        assert shards <= found and len(found) == len(shards) + added
        shards = found


def test_runs_that_share_a_folder_fill_it_one_after_the_other(tmp_path, caplog):
    """As two variants of a study do at the same time: they would write the same files."""
    folder, inside = tmp_path / "features", threading.Event()

    def enter() -> None:
        with image_cache.in_turn(folder):
            inside.set()

    with image_cache.in_turn(folder), caplog.at_level(logging.INFO):
        other = threading.Thread(target=enter)
        other.start()
        assert not inside.wait(0.3)
    other.join(timeout=30)
    assert inside.is_set() and any("another run fills it" in line for line in caplog.messages)


def test_each_image_is_kept_once(data, options, tmp_path):
    """Rows of VQAv2 repeat images, and here validation has those of training too."""
    source = DATA_SETS["vqav2"]
    rows = list(source.rows("train", 12, 0, 32))
    rows = [row | {"id": str(number), "image": rows[number // 4]["image"]} for number, row in enumerate(rows)]
    for split in ("train", "validation"):
        (tmp_path / "vqav2").mkdir(exist_ok=True)
        table = Dataset.from_list(rows, features=source.features)
        table.to_parquet(str(tmp_path / "vqav2" / f"{split}-00000-of-00001.parquet"))
    argv = [*options_of("vqav2", tmp_path, options), "--cache_frozen_features", str(tmp_path / "cache")]
    seen = prepare(VQAv2, "", argv)[0].eval_dataset
    (kept,) = (load_file(path)["features"] for path in (tmp_path / "cache").glob("features-*"))
    assert len(kept) == 3
    assert all(np.array_equal(seen[row]["image"], kept[row // 4]) for row in range(12))


def test_a_run_that_was_interrupted_goes_on(data, options, tmp_path, monkeypatch):
    """Only what is missing is made, and all files are as if nothing had happened."""
    monkeypatch.setattr(image_cache, "SHARD_BYTES", 7 * 5 * 32 * 2)
    folder = tmp_path / "cache"
    argv = [*options_of("pretraining", data, options), "--cache_frozen_features", str(folder)]
    whole = prepare(Pretraining, "", argv)[0].train_dataset
    before = files_in(folder)
    shards = sorted(name for name in before if name.startswith("features-"))
    assert len(shards) == 6  # 32 + 10 images, 7 a file
    for name in shards[1::2]:
        (folder / name).unlink()
    (folder / f".{shards[1]}").write_bytes(b"cut off")
    again = prepare(Pretraining, "", argv)[0].train_dataset
    after = files_in(folder)
    assert after.keys() == before.keys()
    for name in before:
        assert after[name][1] == before[name][1]
        assert (after[name][0] == before[name][0]) == (name not in shards[1::2])
    assert all(np.array_equal(whole[row]["image"], again[row]["image"]) for row in range(len(whole)))

    (folder / shards[0]).write_bytes(before[shards[0]][1][:100])
    with pytest.raises(ValueError, match=rf"{shards[0]}: a damaged file .*; delete it"):
        prepare(Pretraining, "", argv)


def test_another_tower_or_processor_is_refused(data, options, tmp_path, refused):
    argv = [*options_of("pretraining", data, options), "--cache_frozen_features", str(tmp_path / "cache")]
    prepare(Pretraining, "", argv)
    before = files_in(tmp_path / "cache")
    message = refused(run_task, Pretraining, "", [*argv, "--seed", "2", "--override_run"])
    assert "was made with another vision tower (other weights or configuration): " in message
    message = refused(run_task, Pretraining, "", [*argv, "--image_size", "48"])
    assert re.search(r"with other settings of the image processor \(size\): repeat .* or delete it", message)
    (tmp_path / "cache" / "key.json").unlink()
    assert "neither empty nor a folder of features" in refused(run_task, Pretraining, "", argv)
    del before["key.json"]
    assert files_in(tmp_path / "cache") == before
    file = str(tmp_path / "cache" / next(iter(before)))
    assert f"{file} is a file" in refused(run_task, Pretraining, "", [*argv, "--cache_frozen_features", file])


def test_other_images_under_the_same_name_are_seen(data, options, tmp_path):
    """Of a data set that was made anew the features are those of its new images."""
    shutil.copytree(data / "captions", tmp_path / "captions")
    argv = [*options_of("pretraining", tmp_path, options), "--cache_frozen_features", str(tmp_path / "cache")]
    old = prepare(Pretraining, "", argv)[0].train_dataset
    source = DATA_SETS["captions"]
    rows = Dataset.from_list(list(source.rows("train", 32, 7, 32)), features=source.features)
    rows.to_parquet(str(tmp_path / "captions" / "train-00000-of-00001.parquet"))
    new = prepare(Pretraining, "", argv)[0].train_dataset
    fresh = prepare(Pretraining, "", [*argv, "--cache_frozen_features", str(tmp_path / "fresh")])[0].train_dataset
    for row in range(len(new)):
        assert not np.array_equal(old[row]["image"], new[row]["image"])
        np.testing.assert_allclose(new[row]["image"], fresh[row]["image"], atol=2e-3)


@pytest.fixture
def own_file(data, tmp_path) -> Path:
    """A CSV file of sentences, with images as files beside it."""
    rows = Dataset.from_parquet(str(data / "snli_ve" / "train-00000-of-00001.parquet"))
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label"])
        for number, row in enumerate(rows):
            row["image"].save(tmp_path / f"{number}.png")
            writer.writerow([f"{number}.png", row["text"], "entailment"])
    return tmp_path / "train.csv"


def on_own_file(file: Path, options: list[str]) -> list[str]:
    """Two steps of SNLI-VE with a frozen vision tower."""
    return [*MODEL, *options, "--train_file", str(file), "--freeze", "vision", "--do_train", "--max_steps", "2"]


def test_files_are_not_read_again_unless_they_change(own_file, options, tmp_path, refused):
    argv = on_own_file(own_file, options)
    argv += ["--cache_frozen_features", str(tmp_path / "cache")]
    run_task(SNLIVE, "", argv)
    image = tmp_path / "5.png"
    status = image.stat()
    image.write_bytes(b"?" * status.st_size)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    run_task(SNLIVE, "", [*argv, "--output_dir", str(tmp_path / "again")])
    os.utime(image)
    message = refused(run_task, SNLIVE, "", [*argv, "--output_dir", str(tmp_path / "third")])
    assert re.search(r"split 'train': 1 of 12 rows .* row 5: .*5\.png .*: the image cannot be read", message)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_image_that_cannot_be_read_stops_the_run(workers, data, options, tmp_path, refused, monkeypatch):
    """In one line; what was finished before is kept, and the run goes on from there."""
    monkeypatch.setattr(image_cache, "SHARD_BYTES", 4 * 5 * 32 * 2)
    argv = [
        *MODEL,
        *options,
        "--dataset",
        str(tmp_path / "own"),
        "--freeze",
        "vision",
        "--do_train",
        "--max_steps",
        "2",
    ]
    argv += ["--cache_frozen_features", str(tmp_path / "cache"), "--dataloader_num_workers", workers]
    argv += ["--check_images", "false"]
    file = "train-00000-of-00001.parquet"
    whole = Dataset.from_parquet(str(data / "snli_ve" / file)).cast_column("image", Image(decode=False))
    rows = whole.to_list()
    rows[9]["image"]["bytes"] = rows[9]["image"]["bytes"][:60]
    (tmp_path / "own").mkdir()
    Dataset.from_list(rows, features=whole.features).to_parquet(str(tmp_path / "own" / file))
    message = refused(run_task, SNLIVE, "", argv)
    assert re.search(r"error: .*own, split 'train', row 9.*: the image cannot be read", message)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("features-*")}
    whole.to_parquet(str(tmp_path / "own" / file))
    run_task(SNLIVE, "", argv)
    assert len(finished) == 2 and all(path.stat().st_mtime_ns == time for path, time in finished.items())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--augmentation", "randaugment"], "augmented images are new ones in every epoch"),
        (["--freeze", "text"], r"with freeze: \[vision\] \(frozen is text\)"),
        (["--freeze", "vision:-1"], r"frozen is vision:-1"),
        (["--streaming", "--max_eval_samples", "4"], "use either this option or streaming"),
        (
            ["--architecture", "one-tower", "--encoder", "bert", "--random_init", "--image_size", "32"],
            "this model has no encoder for images alone",
        ),
    ],
)
def test_what_changes_from_step_to_step_is_refused(extra, message, data, options, tmp_path, refused):
    argv = options_of("pretraining", data, options)
    argv = argv[len(MODEL) :] if "--encoder" in extra else argv
    if "vision:-1" in extra:
        argv = [option.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2') for option in argv]
    found = refused(run_task, Pretraining, "", [*argv, *extra, "--cache_frozen_features", str(tmp_path / "cache")])
    assert "cache_frozen_features: " in found and re.search(message, found), found
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("task", "own", "message"),
    [
        (RefCOCO, ["--dataset", "refcoco"], "this task looks at regions of images"),
        (GLUE, ["--dataset", "glue", "--task_name", "mrpc"], "this task has no images"),
    ],
)
def test_tasks_without_whole_images(task, own, message, data, options, tmp_path, refused):
    argv = [str(data / word) if (data / word).exists() else word for word in own]
    argv += [*MODEL, *options, "--freeze", "vision", "--do_train"]
    assert message in refused(run_task, task, "", [*argv, "--cache_frozen_features", str(tmp_path / "cache")])


def test_much_room_is_asked_for(data, options, tmp_path, refused, monkeypatch):
    argv = [*options_of("pretraining", data, options), "--cache_frozen_features", str(tmp_path / "cache")]
    assert "yes: without effect" in refused(run_task, Pretraining, "", [*argv[:-2], "--yes"])
    monkeypatch.setattr(image_cache, "ASK_BYTES", 42 * 5 * 32 * 2 - 1)
    assert re.search(
        r"42 images at 0\.3 KB each, 0\.00 GB, more than .*add --yes", refused(run_task, Pretraining, "", argv)
    )
    assert not list((tmp_path / "cache").glob("features-*"))
    prepare(Pretraining, "", [*argv, "--yes"])
    # What is there already is not asked about.
    prepare(Pretraining, "", argv)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    other = [*argv[:-1], str(tmp_path / "other")]
    assert re.search(r"0\.00 GB, and only 0\.00 GB are free there", refused(run_task, Pretraining, "", other))


def test_resuming_with_another_tower_is_refused(data, options, tmp_path, refused):
    """Which training would take from the checkpoint, whatever the features are of."""
    argv = [*options_of("pretraining", data, options), "--save_steps", "2"]
    run_task(Pretraining, "", argv)
    (tmp_path / "run" / "run_state.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-3", ignore_errors=True)
    argv += ["--cache_frozen_features", str(tmp_path / "cache")]
    message = refused(run_task, Pretraining, "", [*argv, "--seed", "2", "--override_run"])
    assert "holds another vision tower than the one whose features are asked for" in message
    run_task(Pretraining, "", argv)


def test_too_large_features_are_refused(data, options, tmp_path):
    argv = [*options_of("pretraining", data, options), "--cache_frozen_features", str(tmp_path / "cache")]
    trainer = prepare(Pretraining, "", argv[:-2])[0]
    torch.nn.init.constant_(trainer.model.base_model.vision_encoder.layernorm.bias, 1e5)
    with pytest.raises(ValueError, match="features beyond the range of 16 bits"):
        cache.vision_features(torch.zeros(1, 3, 32, 32), trainer.model, trainer.args)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["nlvr2", "pretraining with false images of all data"])
def test_two_processes_make_what_one_makes(task, data, options, launch, tmp_path):
    """The same files, of which each makes some; and their training is the same as without."""
    script = tmp_path / "run.py"
    script.write_text(
        f"from renaissance.tasks import image_cache\nfrom {TASKS[task][0].__module__} import {TASKS[task][0].__name__} as Task\n"
        "from renaissance.tasks.runner import run_task\n"
        "image_cache.SHARD_BYTES = 4 * 5 * 32 * 2\nrun_task(Task, '')\n"
    )
    results = {}
    for name, processes in (("one", 1), ("two", 2), ("without", 2)):
        argv = [*options_of(task, data, options), "--output_dir", str(tmp_path / name)]
        argv += [] if name == "without" else ["--cache_frozen_features", str(tmp_path / f"{name}-cache")]
        launch(processes, script, *argv)
        results[name] = json.loads((tmp_path / name / "all_results.json").read_text())
    one, two = (files_in(tmp_path / f"{name}-cache") for name in ("one", "two"))
    assert len(one) > 10 and one.keys() == two.keys()
    assert all(one[name][1] == two[name][1] for name in one)
    for name in ("train_loss", "eval_loss", *({"eval_accuracy"} & results["two"].keys())):
        assert results["two"][name] == pytest.approx(results["without"][name], rel=5e-4), name
