"""Faults of public files that every reader meets alike: encodings, line ends, missing parts, bad entries, paths that lead out."""

import json
from pathlib import Path

import numpy as np
import pytest
import test_cifar10
import test_refcoco
import test_snli_ve
import test_vqav2
from conftest import TWO_TOWER
from datasets import load_dataset
from preparing import complaints, make_coco, make_narratives
from test_corpora import make_vg, make_web
from test_glue import write_rte
from test_prepare_data import make_nlvr2

from renaissance.tasks.data import writer
from renaissance.tasks.data.catalogue import CATALOGUE
from renaissance.tasks.data.cifar10 import read_cifar10
from renaissance.tasks.data.text_files import json_lines, read_text, text_lines
from renaissance.tasks.glue import GLUE
from renaissance.tasks.runner import run_task
from renaissance.tasks.vqav2 import VQAv2


pytestmark = pytest.mark.usefixtures("dataset_cache")

BOM = b"\xef\xbb\xbf"


def coco(folder):
    make_coco(folder, num_train=150)


def flickr(folder):
    entries = make_coco(folder, num_train=3)
    (folder / "val2014").rename(folder / "flickr30k-images")
    content = {"images": [{**entry, "split": entry["split"].replace("rest", "")} for entry in entries]}
    (folder / "karpathy" / "dataset_flickr30k.json").write_text(json.dumps(content))


def nlvr2(folder):
    make_nlvr2(folder)


def web(name):
    def make(folder):
        make_web(folder, name, [[f"images_train/{n}", f"Caption {n}."] for n in range(5)])
        if name == "gcc":
            (folder / "val_annot.json").write_text(json.dumps([["images_train/1", "One."]]))

    return make


def public_gcc(folder):
    for file in ("Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"):
        (folder / file).write_text("one\thttp://x/1\ntwo\thttp://x/2\n")


def public_sbu(folder):
    (folder / "SBU_captioned_photo_dataset_captions.txt").write_text("one\ntwo\n")
    (folder / "SBU_captioned_photo_dataset_urls.txt").write_text("http://x/1\nhttp://x/2\n")


#: Of every reader of text files: what makes its source, its name and options, and one of its files; whether the file has lines.
READERS = {
    "coco": (coco, "coco", {}, "karpathy/dataset_coco.json", False),
    "flickr30k": (flickr, "flickr30k", {}, "karpathy/dataset_flickr30k.json", False),
    "vg": (make_vg, "vg", {"validation_share": 0}, "annotations/region_descriptions.json", False),
    "gcc": (web("gcc"), "gcc", {}, "train_annot.json", False),
    "sbu": (web("sbu"), "sbu", {"validation_share": 0}, "annot.json", False),
    "gcc-public": (public_gcc, "gcc", {"layout": "public"}, "Train_GCC-training.tsv", True),
    "sbu-public": (
        public_sbu, "sbu", {"layout": "public", "validation_share": 0}, "SBU_captioned_photo_dataset_captions.txt", True,
    ),
    "localized_narratives": (
        make_narratives, "localized_narratives", {}, "narratives/coco_val_localized_narratives.jsonl", True,
    ),
    "nlvr2": (nlvr2, "nlvr2", {}, "nlvr2/data/dev.json", True),
    "snli_ve": (test_snli_ve.write_source, "snli_ve", {}, "snli_ve_dev.jsonl", True),
    "vqav2-questions": (
        test_vqav2.write_source, "vqav2", {}, "v2_OpenEnded_mscoco_val2014_questions.json", False,
    ),
    "vqav2-answers": (test_vqav2.write_source, "vqav2", {}, "v2_mscoco_val2014_annotations.json", False),
    "easy_vqa": (test_vqav2.write_easy_vqa, "easy_vqa", {}, "test/questions.json", False),
    "refcoco": (test_refcoco.make_source, "refcoco", {}, "refcoco/instances.json", False),
    "rte": (write_rte, "rte", {}, "dev.tsv", True),
}  # fmt: skip


def spaced(content: bytes) -> bytes:
    """With a byte-order mark and CRLF, and blank lines at the end."""
    return BOM + content.replace(b"\n", b"\r\n") + b"\r\n \r\n\r\n"


SAME = {
    "byte-order mark": lambda content: BOM + content,
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "blank last lines": lambda content: content + b"\n\n \n",
    "no last line end": lambda content: content.removesuffix(b"\n"),
    "all of them": spaced,
    "UTF-16 with its mark": lambda content: content.decode().encode("utf-16"),
    "UTF-32 with its mark": lambda content: content.decode().encode("utf-32"),
}


def read(case, folder):
    make, name, options, file, _ = READERS[case]
    folder.mkdir(exist_ok=True)
    make(folder)
    return lambda: CATALOGUE[name].read(folder, **options), folder / file


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
@pytest.mark.parametrize("case", READERS)
def test_marks_and_line_ends_change_no_row(case, change, tmp_path):
    again, path = read(case, tmp_path / "source")
    before = {split: list(rows) for split, rows in again().items()}
    assert sum(map(len, before.values())) > 0
    path.write_bytes(change(path.read_bytes()))
    after = again()
    assert {split: list(rows) for split, rows in after.items()} == before
    assert not any(rows.left_out.bad for rows in after.values())


@pytest.mark.parametrize("case", [case for case, (*_, lines) in READERS.items() if lines and case != "sbu-public"])
def test_blank_lines_between_others_are_no_rows(case, tmp_path):
    again, path = read(case, tmp_path / "source")
    before = {split: list(rows) for split, rows in again().items()}
    first, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(first + b"\n\n \r\n" + rest)
    after = again()
    assert {split: list(rows) for split, rows in after.items()} == before
    assert not any(rows.left_out.bad for rows in after.values())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("case", READERS)
def test_files_in_utf_16_without_a_mark_are_named(case, encoding, tmp_path):
    again, path = read(case, tmp_path / "source")
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(
        ValueError, match=f"{path.name} is not UTF-8 but UTF-16, or is not text: save it as UTF-8"
    ) as refused:
        again()
    assert "\n" not in str(refused.value)


#: Readers that leave out and count single lines that cannot be read.
BY_LINE = ("gcc-public", "sbu-public", "localized_narratives")


@pytest.mark.parametrize("case", [case for case in READERS if case not in BY_LINE])
def test_files_in_latin_1_are_named_with_the_line(case, tmp_path):
    again, path = read(case, tmp_path / "source")
    content = path.read_bytes()
    lines = content.rstrip(b"\n").count(b"\n") + 1
    path.write_bytes(content.rstrip(b"\n") + "\u00e9".encode("latin-1"))
    with pytest.raises(
        ValueError, match=f"{path.name} is not UTF-8: line {lines} has the byte 0xe9 .*save the file as"
    ):
        again()


@pytest.mark.parametrize("case", ["gcc-public", "sbu-public"])
def test_single_lines_in_latin_1_are_counted(case, tmp_path, refuse):
    again, path = read(case, tmp_path / "source")
    path.write_bytes(path.read_bytes().replace(b"two", "deux, trouv\u00e9s".encode("latin-1")))
    rows = again()["train"]
    assert [row["captions"] for row in rows] == [["one"]]
    assert complaints(again).endswith("line 2 is not UTF-8 (invalid continuation byte 0xe9)")
    source = ["--source", tmp_path / "source", "--layout", "public", "--check", "--splits", "train"]
    assert "not UTF-8 (1)" in refuse(READERS[case][1], *source)


@pytest.mark.parametrize(("case", "line"), [("nlvr2", 2), ("snli_ve", 11), ("coco", 1), ("vqav2-answers", 1)])
def test_json_that_breaks_off_is_named_with_its_line(case, line, tmp_path):
    again, path = read(case, tmp_path / "source")
    content = path.read_text()
    path.write_text(content + '{"a": \n' if line > 1 else content[:-1])
    with pytest.raises(ValueError, match=rf"{path.name}: line {line} is not JSON: .*\(column \d+\)"):
        again()


def test_json_that_python_cannot_read_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    for text in ("1" * 5000, "[" * 100_000):
        path.write_text(f"1\n{text}\n")
        with pytest.raises(ValueError, match=r"a\.jsonl: line 2 is not JSON that can be read"):
            list(json_lines(path))


def test_only_line_feeds_end_lines_and_tabs_are_no_blank_line(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("a\u2028b\x85\r\n\t\t\n \n\nc".encode())
    assert list(text_lines(path)) == [(1, "a\u2028b\x85"), (2, "\t\t"), (5, "c")]
    assert read_text(path).startswith("a\u2028b")
    for content in (b"", b"\n \n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is empty"):
            list(text_lines(path))


#: What is left of each data set's source when all of it is taken away that its message must name.
PARTS = {
    "coco": ["karpathy/dataset_coco.json", "val2014"],
    "nlvr2": ["nlvr2/data/train.json", "nlvr2/data/dev.json", "nlvr2/data/test1.json", "images/train", "dev", "test1"],
    "snli_ve": ["snli_ve_train.jsonl", "snli_ve_test.jsonl", "Flickr30K/images"],
    "vqav2-questions": [
        "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_val2014_annotations.json", "val2014", "test2015",
    ],
    "easy_vqa": ["train/questions.json", "test/questions.json", "test/images"],
    "refcoco": ["refcoco/instances.json", "refcoco/refs(unc).p", "images/mscoco/train2014"],
    "rte": ["train.tsv", "dev.tsv"],
    "gcc": ["train_annot.json", "val_annot.json"],
    "gcc-public": ["Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"],
    "sbu-public": ["SBU_captioned_photo_dataset_captions.txt", "SBU_captioned_photo_dataset_urls.txt"],
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_all_that_is_missing_is_named_at_once(case, tmp_path, refuse):
    read(case, tmp_path / "source")
    for part in PARTS[case]:
        (tmp_path / "source" / part).rename(tmp_path / part.replace("/", "-"))
    options = [f"--{name}={value}" for name, value in READERS[case][2].items()]
    message = refuse(READERS[case][1], "--source", tmp_path / "source", "--output", tmp_path / "out", *options)
    assert all(str(tmp_path / "source" / part) in message for part in PARTS[case])
    assert not (tmp_path / "out").exists()


def test_a_partial_download_is_prepared_by_its_splits(tmp_path, prepare, refuse, capsys):
    make_nlvr2(tmp_path / "source")
    for part in ("nlvr2/data/dev.json", "test1"):
        (tmp_path / "source" / part).rename(tmp_path / "gone" if part == "test1" else tmp_path / "gone.json")
    command = ["nlvr2", "--source", tmp_path / "source", "--output", tmp_path / "out"]
    message = refuse(*command)
    assert "dev.json, " in message and "test1/ do not exist" in message
    assert "--splits train prepares what is complete" in message
    prepare(*command, "--splits", "train")
    assert list(load_dataset(str(tmp_path / "out"))) == ["train"]
    assert f"Written to {tmp_path / 'out'}" in capsys.readouterr().out
    assert "invalid choice: 'dev'" in refuse(*command, "--splits", "dev")


@pytest.mark.parametrize(
    ("case", "splits", "rows"),
    [
        ("coco", ["validation"], {"validation": 1}),
        ("vg", ["train"], {"train": 3}),
        ("gcc", ["validation"], {"validation": 1}),
        ("localized_narratives", ["validation"], {"validation": 3}),
        ("easy_vqa", ["validation"], {"validation": 4}),
        ("vqav2-questions", ["test", "train"], {"train": 40, "test": 5}),
        ("refcoco", ["testB"], {"testB": 2}),
        ("snli_ve", ["test"], {"test": 7}),
        ("rte", ["validation"], {"validation": 30}),
    ],
)
def test_splits_are_those_of_the_whole(case, splits, rows, tmp_path):
    again, _ = read(case, tmp_path / "source")
    whole = again()
    some = CATALOGUE[READERS[case][1]].read(tmp_path / "source", splits=splits, **READERS[case][2])
    assert {split: len(own) for split, own in some.items()} == rows
    assert all(list(own) == list(whole[split]) for split, own in some.items())


def test_a_held_out_share_stays_out_of_the_training_split(tmp_path):
    make_web(tmp_path, "sbu", [[f"images_train/{n}", f"Caption {n}."] for n in range(60)])
    reader = CATALOGUE["sbu"].read
    whole = reader(tmp_path, validation_share=0.3)
    assert 5 < len(whole["validation"]) < 35 and len(whole["train"]) + len(whole["validation"]) == 60
    for split, rows in whole.items():
        assert list(reader(tmp_path, splits=[split], validation_share=0.3)[split]) == list(rows)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"questions": []}', "questions is empty: expected a list of questions"),
        ("[]", "expected a dictionary with a list of questions under 'questions', got an empty list"),
        ('{"question": [1]}', "has no key 'questions' with a list of questions"),
        ('{"questions": null}', "questions: expected a list of questions, got NoneType"),
    ],
)
def test_an_empty_list_is_not_a_missing_key(content, expected, tmp_path, refuse):
    test_vqav2.write_source(tmp_path)
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(content)
    assert expected in refuse("vqav2", "--source", tmp_path, "--check")


#: How an entry of each data set names a file outside of the source folder.
LEADING_OUT = {
    "coco": lambda content: content.replace('"filepath": "val2014"', '"filepath": "../../etc"', 1),
    "flickr30k": lambda content: content.replace('"filename": "COCO', '"filename": "../../COCO', 1),
    "gcc": lambda content: content.replace("images_train/2", "/etc/passwd"),
    "sbu": lambda content: content.replace("images_train/2", "images_train/../../2"),
    "snli_ve": lambda content: content.replace('"Flickr30K_ID": "1"', '"Flickr30K_ID": "../../../1"', 1),
    "nlvr2": lambda content: content.replace("dev-5-0-1", "../../dev-5-0-1"),
    "refcoco": lambda content: content.replace('"2.jpg"', '"../../../../2.jpg"'),
}


@pytest.mark.parametrize("case", LEADING_OUT)
def test_a_file_outside_of_the_source_folder_is_refused(case, tmp_path, refuse):
    _, path = read(case, tmp_path / "source")
    changed = LEADING_OUT[case](path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    options = [f"--{name}={value}" for name, value in READERS[case][2].items()]
    # However many entries may be bad.
    options += ["--max_bad_fraction", 1]
    message = refuse(READERS[case][1], "--source", tmp_path / "source", "--output", tmp_path / "out", *options)
    assert "outside of the source folder" in message and (
        "[" in message or "line " in message or "entry " in message or "reference " in message
    )
    assert not (tmp_path / "out").exists()


def rows_with_box(box: list[float], folder: Path):
    """The training rows of references that mean a box."""

    def change(refs, instances):
        instances["annotations"][0]["bbox"] = box

    return CATALOGUE["refcoco"].read(test_refcoco.make_source(folder, change))["train"]


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([-5.2, 0, 15.2, 10], [0, 0, 10, 10]),
        ([32, 0, 10, 10], [32, 0, 8, 10]),
        ([-3, -4, 50, 40], [0, 0, 40, 30]),
        ([10.5, 3, 5, 5.25], [10.5, 3, 5, 5.25]),
    ],
)
def test_boxes_are_clipped_to_their_images(box, kept, tmp_path):
    rows = rows_with_box(box, tmp_path)
    assert len(rows) == 2 and rows[0]["boxes"][rows[0]["label"]] == pytest.approx(kept, abs=1e-9)
    assert not rows.left_out.bad
    assert rows.left_out.by_rule["box clipped to its image"] == (kept != box)


@pytest.mark.parametrize(
    "box",
    [[5, 5, 0, 9], [5, 5, 9, -1], [40, 0, 5, 5], [-9, 0, 9, 5], [1, 1, float("nan"), 2], [1, 1, 2]],
    ids=str,
)
def test_boxes_without_area_are_left_out(box, tmp_path):
    rows = rows_with_box(box, tmp_path)
    # The box, and the two sentences that mean it.
    assert sorted(bad["kind"] for bad in rows.left_out.bad) == ["box without area", *["means a bad box"] * 2]
    assert len(rows) == 0


def test_one_bad_reference_does_not_stop_preparation(tmp_path, prepare, refuse, capsys):
    def change(refs, instances):
        template = refs[0]
        for number in range(60):
            refs.append(template | {"sentences": [{"sent_id": 100 + number, "sent": f"another {number}"}]})
        instances["annotations"][1]["bbox"] = [38.0, 0, 9, 10]
        instances["annotations"].append({"id": 12, "image_id": 1, "bbox": [3, 3, 0, 4]})
        refs.append(template | {"ann_id": 12, "sentences": [{"sent_id": 990, "sent": "nothing"}]})

    test_refcoco.make_source(tmp_path, change)
    command = ["refcoco", "--source", tmp_path, "--output", tmp_path / "out", "--splits", "train"]
    message, counts = refuse(*command), "means a bad box (1), box without area (1)"
    assert f"more than 1.00% of 64 rows cannot be used: {counts}; the first: {tmp_path}" in message
    prepare(*command, "--max_bad_fraction", 0.05)
    table = capsys.readouterr().out
    assert table.splitlines()[1].split()[:4] == ["train", "62", "62", "2"]
    assert f"left out: {counts}" in table
    assert "box clipped to its image (1)" in table and f"{tmp_path / 'out' / 'report.json'} lists" in table
    report = json.loads((tmp_path / "out" / "report.json").read_text())["train"]
    assert {entry["kind"] for entry in report["skipped"]} == {"box without area", "means a bad box"}
    assert load_dataset(str(tmp_path / "out"), split="train")[0]["boxes"][1] == [38, 0, 2, 10]


def test_photos_smaller_than_their_boxes_are_left_out(tmp_path, prepare, capsys):
    """instances.json has the size of another image: at that row training would stop."""
    test_refcoco.make_source(tmp_path)
    test_refcoco.picture(1, (18, 30)).save(tmp_path / "images" / "mscoco" / "train2014" / "1.jpg")
    prepare("refcoco", "--source", tmp_path, "--output", tmp_path / "out", "--splits", "validation", "testB")
    with pytest.raises(SystemExit):
        prepare("refcoco", "--source", tmp_path, "--output", tmp_path / "other", "--splits", "train")
    assert "image smaller than its boxes (2)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "change", "kind"),
    [
        ("coco", lambda text: text.replace('"split": "train"', '"split": "dev"', 1), "unknown split (1)"),
        ("coco", lambda text: text.replace('"cocoid": 3,', '"cocoid": 2,', 1), "repeated image (1)"),
        ("coco", lambda text: text.replace('"cocoid": 3,', "", 1), "no key 'cocoid' (1)"),
    ],
)
def test_few_bad_entries_are_left_out_and_counted(case, change, kind, tmp_path, prepare, refuse, capsys):
    _, path = read(case, tmp_path / "source")
    path.write_text(change(path.read_text()))
    command = ["coco", "--source", tmp_path / "source", "--output", tmp_path / "out"]
    assert kind in refuse(*command, "--max_bad_fraction", 0.001)
    prepare(*command)
    table = capsys.readouterr().out
    assert table.splitlines()[1].split()[:4] == ["train", "150", "300", "1"] and f"left out: {kind}" in table
    images = sorted((tmp_path / "source" / "val2014").iterdir())
    # One bad entry and one missing image of 151 are more than a per cent together, and each less.
    images[9].unlink()
    message = refuse(*command, "--overwrite")
    assert "of 151 rows cannot be used" in message and "missing image (1)" in message and kind in message


@pytest.mark.parametrize("fraction", ["-0.1", "1.5", "nan"])
def test_a_fraction_that_is_none_is_refused(fraction, tmp_path, refuse):
    make_coco(tmp_path)
    command = ["coco", "--source", tmp_path, "--output", tmp_path / "out", f"--max_bad_fraction={fraction}"]
    assert f"--max_bad_fraction: expected from 0 to 1, got {fraction}" in refuse(*command)


def test_options_are_those_that_a_data_set_can_use(prepare, refuse, capsys, tmp_path):
    for dataset, has_images, shrinks in (("rte", False, False), ("refcoco", True, False), ("coco", True, True)):
        with pytest.raises(SystemExit):
            prepare(dataset, "--help")
        text = capsys.readouterr().out
        assert ("--shorter_side" in text, "--max_image_pixels" in text) == (shrinks, has_images)
        assert "--splits" in text and "--max_bad_fraction" in text
    write_rte(tmp_path)
    assert "--shorter_side" in refuse("rte", "--source", tmp_path, "--output", tmp_path / "out", "--shorter_side", 9)


def test_the_summary_of_glue_counts_sentences(prepare, capsys, tmp_path):
    write_rte(tmp_path / "rte")
    prepare("rte", "--source", tmp_path / "rte", "--output", tmp_path / "out")
    header, train, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["split", "rows", "sentences"] and "captions" not in header
    assert train.split()[:4] == ["train", "32", "64", "0"]


@pytest.mark.parametrize(
    ("case", "part"), [("rte", "test.tsv"), ("vqav2-answers", "v2_OpenEnded_mscoco_test2015_questions.json")]
)
def test_a_missing_test_split_says_how_to_go_on(case, part, tmp_path, prepare, refuse, caplog, options, capsys):
    read(case, tmp_path / "source")
    (tmp_path / "source" / part).unlink()
    name = READERS[case][1]
    command = [name, "--source", tmp_path / "source", "--output", tmp_path / "out"]
    assert part in refuse(*command, "--splits", "test")
    prepare(*command)
    assert (
        part in caplog.text
        and "no split 'test' is written; to go on without it, use --do_predict false" in caplog.text
    )
    task, argv = (GLUE, ["--task_name", "rte"]) if name == "rte" else (VQAv2, [])
    for folder in [tmp_path / "out", *([tmp_path / "source"] if name == "rte" else [])]:
        with pytest.raises(SystemExit):
            run_task(task, "", [*TWO_TOWER, *options, *argv, "--dataset", str(folder), "--do_predict"])
        assert "--do_predict false" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.int8, np.uint16, "S3072"])
def test_only_bytes_are_pixels(dtype, tmp_path):
    for number in range(1, 6):
        test_cifar10.write_batch(tmp_path / "cifar-10-batches-py" / f"data_batch_{number}", test_cifar10.make_batch())
    test_cifar10.write_batch(
        tmp_path / "cifar-10-batches-py" / "batches.meta",
        {b"label_names": [name.encode() for name in test_cifar10.CLASSES]},
    )
    batch = test_cifar10.make_batch()
    for change in (
        {b"data": batch[b"data"].astype(dtype)},
        {b"labels": np.zeros(4, int)},
        {b"labels": [True, 0, 1, 2]},
    ):
        test_cifar10.write_batch(tmp_path / "cifar-10-batches-py" / "test_batch", batch | change)
        with pytest.raises(ValueError, match="test_batch"):
            read_cifar10(tmp_path)


def test_an_interrupted_shapes_goes_on(prepare, refuse, capsys, monkeypatch, tmp_path):
    few = ["--num_train", 3, "--num_validation", 2, "--num_test", 2, "--only", "captions", "glue"]
    written, write = [], writer.UnfinishedSplit.publish

    def interrupted(unfinished):
        written.append(unfinished.split)
        if len(written) == 3:
            raise KeyboardInterrupt
        return write(unfinished)

    with monkeypatch.context() as patch:
        patch.setattr(writer.UnfinishedSplit, "publish", interrupted)
        with pytest.raises(SystemExit) as stopped:
            prepare("shapes", "--output", tmp_path / "out", *few)
    assert stopped.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    # What the finished data sets need is there.
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").is_file()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert len(before) == 2
    assert "already holds" in refuse("shapes", "--output", tmp_path / "out", *few, "--seed", 1)
    prepare("shapes", "--output", tmp_path / "out", *few)
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["captions/train", "3", "12"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    prepare("shapes", "--output", tmp_path / "whole", *few)
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*")}
    for path in files:
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), path


@pytest.mark.parametrize(("option", "value"), [("--num_train", -5), ("--num_test", 0)])
def test_numbers_of_rows_below_one_are_refused(option, value, refuse, tmp_path):
    assert f"{option}: expected from 1 to 1000000000, got {value}" in refuse(
        "shapes", "--output", tmp_path / "out", option, value
    )
    assert not (tmp_path / "out").exists()
