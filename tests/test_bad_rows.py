"""Bad rows: an error that names them, or skipped, replaced by the same rows in every run, counted and listed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_runs import PAGE, report_of
from conftest import TWO_TOWER
from datasets import Dataset, Image, Value
from own_files import as_csv, cut_photo, png, write_pictures
from own_tasks import rows_of, task_of
from safetensors.torch import load_file
from test_broken_images import NOISE, saved

from renaissance.processing.decoding import UnreadableImage, decode
from renaissance.tasks.data import image_checks
from renaissance.tasks.data.bad_rows import BadRow, BadRows, SkippingCollator
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.faults import Faults
from renaissance.tasks.data.image_checks import ImageCheck, check_image, check_images
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.resuming import HARMLESS, NOTED
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


pytestmark = pytest.mark.usefixtures("dataset_cache")

NO_IMAGE = "not an image file of the formats JPEG"

#: What a row may have in place of an image, and what is said about it.
KINDS = {
    "a web page": (PAGE, f"it starts with <!DOCTYPE html>: a web page, {NO_IMAGE}"),
    "a page with a mark": (b"\xef\xbb\xbf\r\n<HTML lang='en'>", "it starts with <HTML lang='en'>: a web page"),
    "nothing": (b"", "an empty file; expected one of the formats JPEG"),
    "zeros": (bytes(2000), f"all of its 2,000 bytes are zero: {NO_IMAGE}"),
    "a text": (b"404 Not Found\nnginx", f"it starts with 404 Not Found: {NO_IMAGE}"),
    "JSON": (b'{"error": 3}', f'it starts with {{"error": 3}}: JSON, {NO_IMAGE}'),
    "bytes": (b"\x00\x01\xfe\xff\x88" * 9, f"it starts with the bytes 00 01 fe ff 88 00 01 fe: {NO_IMAGE}"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    "a drawing": (b"<svg xmlns='x'></svg>", "an SVG drawing"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
    "a header": (b"\x89PNG\r\n\x1a\n\0\0", "it starts as PNG does, but its header is damaged or cut off"),
    "a cut JPEG": (cut_photo(), "truncated"),
    "a cut PNG": (saved(NOISE, "PNG")[:-900], "truncated"),
    "a cut GIF": (saved(NOISE, "GIF")[:-900], "truncated"),
    "a cut WebP": (saved(NOISE, "WEBP")[:-900], "decode|WebP"),
    "a cut TIFF": (saved(NOISE, "TIFF")[:-900], "truncated|not enough"),
    "neither": ({"bytes": None, "path": None}, "neither bytes nor a path|blank|null"),
    "a lost file": ({"bytes": None, "path": "gone.jpg"}, "No such file|no image file"),
    "a folder": ({"bytes": None, "path": "folder.jpg"}, "is a folder, a device or a pipe|no image file"),
    "null": (None, "null"),
}
#: Files that end as whole ones do, so that only decoding them shows that they are broken.
ENDS_WHOLE = saved(NOISE, "PNG")[:200] + saved(NOISE, "PNG")[300:]


def put(stored: dict, broken, folder: Path) -> dict | None:
    """A stored image that is broken."""
    if isinstance(broken, bytes):
        return stored | {"bytes": broken}
    if broken and broken["path"]:
        return broken | {"path": str(folder / broken["path"])}
    return broken


def spoiled(source: Path, folder: Path, broken: dict[int, object], split: str = "train") -> Path:
    """A prepared folder, with broken images in some rows of a split; of two in a row, the second one."""
    shutil.copytree(source, folder)
    (folder / "folder.jpg").mkdir()
    file = folder / f"{split}-00000-of-00001.parquet"
    data = Dataset.from_parquet(str(file))
    several = "images" in data.column_names
    features = data.features.copy()
    plain = {"bytes": Value("binary"), "path": Value("string")}
    column = "images" if several else "image"
    for name, feature in features.items():
        if isinstance(feature, Image):
            features[name] = Image(decode=False)
        elif name == "images":
            features[name].feature = Image(decode=False)
    rows = data.cast(features).to_list()
    for row, content in broken.items():
        if several:
            rows[row][column][1] = put(rows[row][column][1], content, folder)
        else:
            rows[row][column] = put(rows[row][column], content, folder)
    # Not as images: `to_parquet` would read the files of paths.
    Dataset.from_list(rows).cast_column(column, [plain] if several else plain).to_parquet(str(file))
    return folder


def message_of(task, split: str = "train") -> str:
    with pytest.raises(ValueError) as error:
        task.load(split)
    assert "\n" not in str(error.value)
    return str(error.value)


def run(task, argv: list[str], out: Path, *extra: str) -> dict[str, torch.Tensor]:
    """The weights at the end of a run."""
    run_task(task, "", [*argv, "--output_dir", str(out), *extra])
    return load_file(out / "model.safetensors")


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", [name for name, (content, _) in KINDS.items() if content is not None])
def test_what_is_wrong_with_the_bytes_is_said(kind, tmp_path):
    content, phrase = KINDS[kind]
    (tmp_path / "folder.jpg").mkdir()
    stored = put({"path": "7.jpg"}, content, tmp_path)
    with pytest.raises(UnreadableImage, match="the image cannot be read") as error:
        decode(stored)
    assert re.search(phrase, str(error.value)) or phrase in str(error.value), error.value
    # A look at the header and the end finds the same.
    with pytest.raises(UnreadableImage) as by_header:
        check_image(stored, 10**6, ImageCheck.HEADERS)
    assert str(by_header.value) == str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "7.png").write_bytes(png(0))
    (tmp_path / "7.png").chmod(0)
    with pytest.raises(UnreadableImage, match=r"7\.png: the image cannot be read \(Permission denied\)"):
        decode({"bytes": None, "path": str(tmp_path / "7.png")})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_whole_files_pass_the_look_at_headers(kind):
    content = saved(NOISE, kind)
    check_image({"bytes": content, "path": None}, 10**6, ImageCheck.HEADERS)
    check_image({"bytes": content + b"\0\0", "path": None}, 10**6, ImageCheck.HEADERS)
    with pytest.raises(UnreadableImage, match="3,072 pixels, more than max_image_pixels, 3,071"):
        check_image({"bytes": content, "path": None}, 3071, ImageCheck.HEADERS)


@pytest.mark.parametrize("name", ["captions", "nlvr2", "snli_ve"])
def test_bad_rows_of_prepared_folders_are_named_before_training(name, shapes, tmp_path):
    """All kinds in one message, in training and in evaluation; skipping does not help evaluation."""
    kinds = list(KINDS.values())
    source = spoiled(shapes / name, tmp_path / "own", dict(enumerate(content for content, _ in kinds)))
    other = spoiled(shapes / name, tmp_path / "other", {3: PAGE}, "validation")
    kind = {"captions": Pretraining, "nlvr2": NLVR2, "snli_ve": SNLIVE}[name]

    def task(folder: Path, **options):
        named = {"train_datasets": [str(folder)]} if name == "captions" else {"dataset": str(folder)}
        return kind(kind.argument_class()(**named, **options))

    message = message_of(task(source))
    assert f"{source}, split 'train': {len(kinds)} of 32 rows cannot be used: row " in message
    assert "<!DOCTYPE html>: a web page" in message and "column 'image" in message
    for options in ({}, {"on_bad_row": "skip"}, {"max_bad_fraction": 0.5}):
        message = message_of(task(other, **options), "validation")
        assert re.match(rf"{other}, split 'validation': 1 of 10 rows cannot be used: row 3: .*a web page", message)
    assert len(task(other, check_images=False).load("validation")) >= 10


def test_bad_rows_of_own_files_are_left_out_and_listed(options, tmp_path, capsys, refused):
    """Before training: rows without a text too. Above the fraction the report is named."""
    write_pictures(tmp_path)
    (tmp_path / "photos" / "77.png").write_bytes(PAGE)
    rows = [row for _ in range(4) for row in rows_of("pretraining")][:20]
    rows[3]["picture"], rows[11]["picture"], rows[12]["words"] = 77, 99, " "
    file = as_csv(tmp_path, rows)
    argv = [*TWO_TOWER, *options, "--train_file", str(file), "--image_column", "picture", "--captions_column", "words"]
    argv += ["--do_train", "--max_steps", "2"]
    message = refused(run_task, Pretraining, "", [*argv, "--max_bad_fraction", "0.1"])
    report = tmp_path / "run" / "bad_rows.jsonl"
    assert "3 of 20 rows cannot be used (max_bad_fraction is 0.1)" in message
    assert message.endswith(f"; {report} lists them\n")
    listed = report_of(tmp_path / "run")
    assert [row["row"] for row in listed] == [3, 11, 12]
    assert {(row["file"], row["found"]) for row in listed} == {(str(file), "before training")}
    assert "<!DOCTYPE html>: a web page" in listed[0]["fault"] and "no image file" in listed[1]["fault"]
    # One of them is mended; of the report the rest stays.
    rows[3]["picture"] = 1
    as_csv(tmp_path, rows)
    capsys.readouterr()
    run_task(Pretraining, "", [*argv, "--on_bad_row", "skip"])
    assert [row["row"] for row in report_of(tmp_path / "run")] == [11, 12]
    assert f"2 were skipped; {report} lists them" in capsys.readouterr().out
    assert RunRecord.read(tmp_path / "run").of_split("train").bad_rows == 2


#: Rows of training data that are broken in such a way that training finds them, and one that its header shows.
HIDDEN = {4: ENDS_WHOLE, 9: PAGE, 17: b"", 30: ENDS_WHOLE}


@pytest.fixture(scope="module")
def broken(shapes, tmp_path_factory) -> Path:
    return spoiled(shapes / "snli_ve", tmp_path_factory.mktemp("broken") / "own", HIDDEN)


@pytest.fixture
def argv(options, broken) -> list[str]:
    more = ["--do_train", "--max_steps", "7", "--learning_rate", "1e-2", "--dataset", str(broken)]
    return [*TWO_TOWER, *options, *more]


SKIP = ["--on_bad_row", "skip", "--max_bad_fraction", "0.2"]


def test_skipped_rows_are_replaced_by_the_same_ones_for_any_number_of_workers(argv, tmp_path, capsys):
    """And when training is resumed between."""
    whole = run(SNLIVE, argv, tmp_path / "0", *SKIP, "--save_steps", "3", "--save_strategy", "steps")
    report = report_of(tmp_path / "0")
    assert {row["row"] for row in report} == set(HIDDEN) and len(report) == len(HIDDEN)
    assert all(row["found"] == "in training" for row in report)
    faults = {row["row"]: row["fault"] for row in report}
    assert "web page" in faults[9] and "empty file" in faults[17]
    assert f"4 were skipped; {tmp_path}/0/bad_rows.jsonl lists them" in capsys.readouterr().out
    assert RunRecord.read(tmp_path / "0").of_split("train").bad_rows == 4
    # Stopped after a step of the second epoch; the report is that of step 3.
    (tmp_path / "part").mkdir()
    shutil.copytree(tmp_path / "0" / "checkpoint-3", tmp_path / "part" / "checkpoint-3")
    lines = (tmp_path / "0" / "bad_rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "part" / "bad_rows.jsonl").write_text("".join(lines[:2]))
    part = run(SNLIVE, argv, tmp_path / "part", *SKIP, "--dataloader_num_workers", "2")
    assert same(whole, part) and len(report_of(tmp_path / "part")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("task", [NLVR2, Pretraining, Retrieval])
def test_every_task_skips_the_same_rows_with_workers(task, shapes, options, tmp_path):
    name = {NLVR2: "nlvr2"}.get(task, "captions")
    source = spoiled(shapes / name, tmp_path / "own", HIDDEN)
    named = ["--train_datasets" if task is Pretraining else "--dataset", str(source), "--do_train", "--max_steps", "5"]
    argv = [*TWO_TOWER, *options, *named, "--learning_rate", "1e-2", *SKIP]
    argv += ["--num_negative_texts", "2"] if task is Retrieval else []
    weights = [run(task, argv, tmp_path / n, "--dataloader_num_workers", n) for n in ("0", "1", "2")]
    assert same(*weights[:2]) and same(*weights[1:])
    reports = [{(row["file"], row["row"]) for row in report_of(tmp_path / n)} for n in ("0", "1", "2")]
    assert {row for _, row in reports[0]} == set(HIDDEN) and reports[0] == reports[1] == reports[2]


def test_the_same_rows_come_if_others_were_known_before(shapes, broken, processor):
    """What replaces a row does not depend on when it, or what was drawn for it, was found to be bad."""
    task = SNLIVE(SNLIVE.argument_class()(dataset=str(broken), on_bad_row="skip"))
    data = KeyedRows(task.load("train"), True, str(broken))
    found = []

    def collate(rows):
        for row in rows:
            decode(row["image"])
        return [row["sample_id"] for row in rows]

    for known in ([], [4, 9], list(HIDDEN)):
        bad_rows = BadRows(True, 0.5)
        for row in known:
            bad_rows.add(str(broken), row, None, "")
        collator = SkippingCollator(collate, data, bad_rows, seed=3)
        batches = []
        for epoch in range(12):
            data.begin_epoch(epoch)
            batches += [collator([data[number] for number in range(start, start + 8)]) for start in range(0, 32, 8)]
        found.append(batches)
        assert bad_rows.count() == 4
    assert found[0] == found[1] == found[2]
    drawn = np.array(found[0]).reshape(12, 32)
    assert not np.isin(drawn, list(HIDDEN)).any()
    good = [row for row in range(32) if row not in HIDDEN]
    assert (drawn[:, good] == good).all() and len(np.unique(drawn[:, 4])) > 6
    # In evaluation nothing is replaced.
    data.training = False
    with pytest.raises(UnreadableImage):
        SkippingCollator(collate, data, bad_rows, seed=3)([data[4]])


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_above_the_fraction_the_run_stops_and_names_the_report(workers, argv, tmp_path, refused):
    limit = ["--on_bad_row", "skip", "--max_bad_fraction", "0.1", "--dataloader_num_workers", workers]
    message = refused(run_task, SNLIVE, "", [*argv, *limit])
    report = tmp_path / "run" / "bad_rows.jsonl"
    assert re.search(r"error: .*own: 4 of 32 rows cannot be used \(max_bad_fraction is 0\.1\); ", message)
    assert message.endswith(f"{report} lists them\n") and len(report_of(tmp_path / "run")) == 4


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_a_bad_row_that_nobody_looked_for_ends_training_in_one_line(workers, argv, refused):
    message = refused(run_task, SNLIVE, "", [*argv, "--check_images", "false", "--dataloader_num_workers", workers])
    assert re.search(r"error: .*own, split 'train', row (4|9|17|30): the image cannot be read \(", message)
    assert message.endswith("go on without its row by --on_bad_row skip\n")


@pytest.mark.slow
def test_a_run_that_met_a_bad_row_goes_on_without_it(argv, tmp_path, refused):
    """From its checkpoint, with the one option more."""
    plain = [*argv, "--check_images", "false", "--save_strategy", "steps", "--save_steps", "1"]
    refused(run_task, SNLIVE, "", [*plain, "--seed", "3"])
    went_on = (tmp_path / "run" / "checkpoint-1").is_dir()
    run(SNLIVE, [*plain, "--seed", "3"], tmp_path / "run", *SKIP)
    record = RunRecord.read(tmp_path / "run")
    assert record.of_split("train").bad_rows == 4 and bool(record.resumed_at) == went_on
    assert {"on_bad_row", "max_bad_fraction"} <= set(NOTED) and "check_images" in HARMLESS


def test_evaluation_is_refused_before_training(argv, shapes, tmp_path, refused):
    folder = spoiled(shapes / "snli_ve", tmp_path / "own", {5: cut_photo()}, "validation")
    message = refused(run_task, SNLIVE, "", [*argv, *SKIP, "--dataset", str(folder), "--do_eval"])
    assert f"{folder}, split 'validation': 1 of 10 rows cannot be used: row 5: " in message and "truncated" in message
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_an_evaluation_that_meets_a_bad_row_ends_in_one_line(shapes, options, tmp_path, refused):
    """If nobody has looked at the images before."""
    folder = spoiled(shapes / "snli_ve", tmp_path / "own", {5: cut_photo()}, "validation")
    argv = [*options, "--dataset", str(folder), "--check_images", "false"]
    run(SNLIVE, [*TWO_TOWER, *argv, "--do_train", "--max_steps", "1"], tmp_path / "trained")
    place = argv.index("--tokenizer")
    argv = [*argv[:place], *argv[place + 2 :], "--model_name_or_path", str(tmp_path / "trained"), "--do_eval"]
    assert re.search(r"own, split 'validation', row 5: .*truncated", refused(run_task, SNLIVE, "", argv))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretraining", "retrieval"])
def test_false_images_that_are_drawn_from_all_data_are_never_bad_ones(name, shapes, options, tmp_path):
    source = spoiled(shapes / "captions", tmp_path / "own", dict.fromkeys(range(0, 32, 5), ENDS_WHOLE))
    argv = [
        *TWO_TOWER,
        *options,
        "--do_train",
        "--max_steps",
        "3",
        "--on_bad_row",
        "skip",
        "--max_bad_fraction",
        "0.3",
    ]
    if name == "retrieval":
        argv += ["--dataset", str(source), "--num_negative_texts", "1", "--num_negative_images", "3"]
    else:
        argv += ["--train_datasets", str(source), "--itm_negatives", "random", "--learning_rate", "1e-2"]
    task = Retrieval if name == "retrieval" else Pretraining
    weights = [
        run(task, argv, tmp_path / workers, "--dataloader_num_workers", workers, "--per_device_train_batch_size", "12")
        for workers in ("0", "2")
    ]
    assert same(*weights)
    assert {row["row"] for row in report_of(tmp_path / "0")} <= set(range(0, 32, 5))
    assert len(report_of(tmp_path / "0")) > 3


def test_too_few_false_images_are_told(tmp_path):
    rows = [{"image": {"bytes": png(n), "path": None}, "captions": [f"caption {n}"]} for n in range(4)]
    data = CaptionedImages(Dataset.from_list(rows).cast_column("image", Image(decode=False)), "own")
    data.bad_rows = BadRows(True, 1.0)
    rng = np.random.default_rng(0)
    data.bad_rows.add("own", 2, None, "")
    assert set(data.draw_false_images(0, 2, rng).tolist()) == {1, 3}
    with pytest.raises(BadRow, match="3 false images were asked for, and only 2 can be read"):
        data.draw_false_images(0, 3, rng)


def test_cached_features_are_made_of_good_rows_alone(argv, tmp_path):
    cached = ["--cache_frozen_features", str(tmp_path / "cache"), "--freeze", "vision", "--check_images", "false"]
    run(SNLIVE, argv, tmp_path / "run", *SKIP, *cached)
    assert {row["row"]: row["found"] for row in report_of(tmp_path / "run")} == dict.fromkeys(
        HIDDEN, "before training"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on_bad_row": "ignore"}, "on_bad_row: expected error or skip, got 'ignore'"),
        ({"on_bad_row": "error", "max_bad_fraction": 0.1}, "max_bad_fraction: without effect if on_bad_row is error"),
        ({"max_bad_fraction": -0.1}, "max_bad_fraction: expected from 0 to below 1"),
        ({"max_bad_fraction": float("nan")}, "max_bad_fraction: expected from 0 to below 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        task_of("images", train_file="own.csv", **given)


@pytest.mark.parametrize(
    ("given", "skip", "share"),
    [
        ({}, False, 0.1),
        ({"on_bad_row": "skip"}, True, 0.1),
        ({"max_bad_fraction": 0.03}, True, 0.03),
        ({"max_bad_fraction": 0.0}, False, 0.0),
    ],
)
def test_a_share_means_to_skip(given, skip, share):
    found = task_of("images", train_file="own.csv", **given).bad_rows
    assert (found.skip, found.max_fraction) == (skip, share)


@pytest.mark.slow
def test_two_processes_with_workers_end_with_the_weights_of_one(argv, tmp_path):
    """And list each row once."""
    # Without dropout, which processes draw each for themselves.
    argv = [word.replace('"hidden_size"', '"dropout": 0, "hidden_size"') for word in argv]
    argv += ["--cross_modal_dropout", "0", "--classifier_dropout", "0", "--optim", "sgd", "--learning_rate", "0.3"]
    one = run(SNLIVE, argv, tmp_path / "one", *SKIP)
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nfrom renaissance.tasks.runner import run_task\nfrom renaissance.tasks.snli_ve import SNLIVE\n"
        "if __name__ == '__main__':\n    run_task(SNLIVE, '', sys.argv[1:])\n"
    )
    options = [*argv, *SKIP, "--output_dir", str(tmp_path / "two"), "--per_device_train_batch_size", "4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [*launch, *options, "--dataloader_num_workers", "1"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    two = load_file(tmp_path / "two" / "model.safetensors")
    for name, values in one.items():
        torch.testing.assert_close(values, two[name], atol=1e-3, rtol=0)
    other = run(SNLIVE, argv, tmp_path / "other", *SKIP, "--seed", "2")
    assert max((other[name] - values).abs().max() for name, values in one.items()) > 0.02
    report = report_of(tmp_path / "two")
    assert sorted(row["row"] for row in report) == sorted(HIDDEN)


def test_images_that_are_neither_here_nor_named_are_named_before_training(tmp_path):
    """In a data set on the Hub as well, whose paths nobody looks for here."""
    rows = [{"image": {"bytes": png(n), "path": None}, "text": "a", "label": 0} for n in range(4)]
    rows[2]["image"] = {"bytes": None, "path": None}
    table = Dataset.from_list(rows).cast_column("image", Image(decode=False))
    faults = Faults("org/photos, split 'train'", {"image": "photo"})
    check_images(table, "image", set(), faults, 10**6, ImageCheck.HEADERS)
    assert [(row, message.partition(": ")[2]) for row, message in faults.all_rows()] == [
        (2, "the image cannot be read (it has neither bytes nor a path)")
    ]


def test_headers_are_not_looked_at_again_unless_the_data_changes(broken, monkeypatch):
    def task():
        return SNLIVE(SNLIVE.argument_class()(dataset=str(broken)))

    first = message_of(task())
    assert "2 of 32 rows cannot be used: row 9: " in first
    looked = []
    monkeypatch.setattr(image_checks, "check_image", lambda *arguments: looked.append(arguments))
    assert message_of(task()) == first and not looked
    limited = task()
    limited.max_image_pixels = 5000
    limited.load("train")
    assert len(looked) == 32


def test_a_row_of_another_type_is_told_what_it_has(processor):
    with pytest.raises(ValueError, match=r"an image: expected a PIL image, .* got dict with the keys url, size"):
        processor(images={"url": "http://a/b.png", "size": 3})
    with pytest.raises(ValueError, match=r"expected a PIL image, .* got NoneType"):
        processor(images=[None])


def test_names_that_are_no_text_are_listed(tmp_path):
    bad_rows = BadRows(True, 0.5, tmp_path / "bad_rows.jsonl")
    bad_rows.add("own", 1, "caf\udce9.png", "zwei\nZeilen: \u2028")
    bad_rows.add("own", 1, "again", "")
    other = BadRows(True, 0.5, tmp_path / "bad_rows.jsonl")
    assert other.count() == 1 and other.add("own", 1, None, "") == 1 and other.add("own", 2, None, "") == 2
    assert [row["image"] for row in report_of(tmp_path)] == ["caf\udce9.png", None] and bad_rows.count() == 2
