"""The user's own data: each form of it in each task, which rows show one image, and rows held out."""

import csv
import json
import logging
from pathlib import Path

import own_files
import pytest
from conftest import TWO_TOWER
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from own_files import COLOURS, png, served, with_paths, write_pictures, write_separated
from own_tasks import KINDS, TASKS, WORDS, colour, rows_of, seen, task_of, values_of
from PIL import Image as Picture

from renaissance.processing.decoding import decode
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data.identity import held_out_rows
from renaissance.tasks.glue import GLUE
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")


FORMS = {
    "as_csv": own_files.as_csv,
    "as_tsv": own_files.as_tsv,
    "with_semicolons": own_files.with_semicolons,
    "with_bars": own_files.with_bars,
    "as_jsonl": own_files.as_jsonl,
    "as_json": own_files.as_json,
    "parquet_of_paths": own_files.parquet_of_paths,
    "parquet_of_bytes": own_files.parquet_of_bytes,
    "parquet_of_images": own_files.parquet_of_images,
    "folder_with_metadata": own_files.folder_with_metadata,
    "folder_with_csv": own_files.folder_with_csv,
    "tar_file": own_files.tar_file,
    "tar_folder": own_files.tar_folder,
}
#: What a text has no use for.
OF_IMAGES = ("folder_with_metadata", "folder_with_csv", "parquet_of_bytes", "parquet_of_images")


@pytest.mark.parametrize(
    ("name", "form"), [(name, form) for name in TASKS for form in FORMS if name != "texts" or form not in OF_IMAGES]
)
def test_every_form_of_own_data_has_its_rows(name, form, tmp_path):
    """The table of docs/tasks.md: what comes out is what went in, pictures, texts and labels."""
    write_pictures(tmp_path)
    rows = rows_of(name)
    file = FORMS[form](tmp_path, rows)
    assert seen(name, task_of(name, form, train_file=file)) == rows
    test = task_of(name, form, train_file=file, test_file=file)
    test.load("train")
    assert len(test.load("test")) == 6


@pytest.mark.parametrize("name", [name for name in TASKS if name != "texts"])
def test_images_on_the_web(name, tmp_path):
    write_pictures(tmp_path)
    with served(tmp_path / "photos") as server:
        rows = rows_of(name)
        file = write_separated(tmp_path / "own.csv", with_paths(rows, f"{server.address}/"))
        options = {"train_file": file, "download_images": True, "download_folder": tmp_path / "kept"}
        assert seen(name, task_of(name, **options)) == rows
        assert set(server.requests.values()) == {1}
    # Images that were fetched once are there, also without the server.
    assert seen(name, task_of(name, **options)) == rows


def test_folders_by_class_have_their_classes(tmp_path):
    for number, name in enumerate(("cat", "dog", "a bird")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(png(number))
    task = CIFAR10(CIFAR10.arguments(train_file=str(tmp_path / "photos")))
    found = {(colour(row["image"]), task.names[row["label"]]) for row in task.load("train")}
    assert found == {(COLOURS[2], "a bird"), (COLOURS[0], "cat"), (COLOURS[1], "dog")}


@pytest.mark.parametrize("form", ["as_csv", "as_jsonl", "parquet_of_paths"])
def test_two_images_in_one_column(form, tmp_path):
    """Two paths as a list: JSON in a cell of a CSV file."""
    write_pictures(tmp_path)
    rows = [{"both": [f"photos/{n}.png", f"photos/{n + 1}.png"], "words": WORDS[n], "kind": n % 2} for n in range(3)]
    file = FORMS[form](tmp_path, rows)
    data = NLVR2(
        NLVR2.arguments(train_file=str(file), images_column=["both"], text_column="words", label_column="kind")
    )
    assert [[colour(image) for image in row["images"]] for row in data.load("train")] == [
        COLOURS[n : n + 2] for n in range(3)
    ]


def test_answers_and_captions_in_cells(tmp_path):
    """A cell is one text, or a JSON list of texts; what only looks like a list is a text."""
    write_pictures(tmp_path)
    (tmp_path / "own.csv").write_text(
        "picture;words;answer\n"
        'photos/0.png;how many?;["two", "2"]\n'
        "photos/1.png;what does it say?;[sic]\n"
        "photos/2.png;how many?;[2, 3]\n"
        "photos/2.png;what?;None\n"
    )
    task = task_of("vqa", train_file=tmp_path / "own.csv")
    assert list(task.load("train")["answers"]) == [["two", "2"], ["[sic]"], ["2", "3"], ["None"]]
    (tmp_path / "own.csv").write_text('picture,words\nphotos/0.png,"[""a"", ""b""]"\nphotos/1.png,c\n')
    data = task_of("retrieval", train_file=tmp_path / "own.csv").load("train")
    assert data.captions == ["a", "c", "b"] and data.image_of.tolist() == [0, 1, 0]


def test_jsonl_may_mix_one_answer_and_several(tmp_path):
    write_pictures(tmp_path)
    rows = [{"picture": n, "words": "what?", "answer": answer} for n, answer in enumerate(("red", ["red", "blue"]))]
    task = task_of("vqa", train_file=own_files.as_jsonl(tmp_path, rows))
    assert list(task.load("train")["answers"]) == [["red"], ["red", "blue"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("ending", "separator"), [("csv", ","), ("csv", "\t"), ("csv", ";"), ("tsv", "\t"), ("CSV", "|"), ("tsv", ";")]
)
def test_files_of_spreadsheets(encoding, ends, ending, separator, tmp_path):
    """Byte-order marks, blank lines, spaces around values, an index without a name."""
    lines = [
        ["", "review", "mood"],
        ["0", "Très bien", "gut"],
        [],
        ["1", ' "a, b; c | d"', " bad "],
        ["2", "NA", "gut"],
        [],
    ]
    text = ends.join(separator.join(line) for line in lines)
    (tmp_path / f"own.{ending}").write_bytes(text.encode(encoding))
    task = GLUE(GLUE.arguments(train_file=str(tmp_path / f"own.{ending}"), text_column="review", label_column="mood"))
    data = task.load("train")
    assert list(data["text"]) == ["Très bien", "a, b; c | d", "NA"]
    assert [task.names[label] for label in data["label"]] == ["gut", "bad", "gut"]


def test_jsonl_with_a_mark_blank_lines_and_strange_ends_of_lines(tmp_path):
    lines = [json.dumps({"text": text, "label": n}, ensure_ascii=False) for n, text in enumerate(("a\u2028b", "c"))]
    (tmp_path / "own.jsonl").write_bytes(("\r\n\r\n".join(lines) + "\r\n\r\n").encode("utf-8-sig"))
    assert list(GLUE(GLUE.arguments(train_file=str(tmp_path / "own.jsonl"))).load("train")["text"]) == [
        "a\u2028b",
        "c",
    ]


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["meme", "no meme", "meme"], ["meme", "no meme"], [0, 1, 0]),
        (["10", "9", "2"], ["2", "9", "10"], [2, 1, 0]),
        ([10, 9, 2], ["2", "9", "10"], [2, 1, 0]),
        ([0.0, 2.0, 1.0], ["0", "1", "2"], [0, 2, 1]),
        (["01", "1", "01"], ["01", "1"], [0, 1, 0]),
        ([True, False, True], ["False", "True"], [1, 0, 1]),
        (["None", "NA", "null"], ["NA", "None", "null"], [1, 0, 2]),
    ],
)
@pytest.mark.parametrize("form", ["as_csv", "as_jsonl"])
def test_classes_have_any_names(form, labels, names, numbers, tmp_path):
    rows = [{"text": "a", "label": label} for label in labels]
    if form == "as_csv" and isinstance(labels[0], float):
        rows = [row | {"label": str(int(row["label"]))} for row in rows]
    task = GLUE(GLUE.arguments(train_file=str(FORMS[form](tmp_path, rows))))
    assert list(task.load("train")["label"]) == numbers and task.names == names
    # A checkpoint's classes keep their numbers, whatever of them the data has, and in whatever form.
    again = GLUE(GLUE.arguments(train_file=str(FORMS[form](tmp_path, rows[:1]))), names)
    assert list(again.load("train")["label"]) == numbers[:1]


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (["TRUE", "FALSE"], [1, 0]),
        (["true", "False"], [1, 0]),
        (["1", "0"], [1, 0]),
        ([True, False], [1, 0]),
        ([1, 0], [1, 0]),
    ],
)
def test_truth_in_any_form(labels, numbers, tmp_path):
    write_pictures(tmp_path)
    rows = [row | {"kind": label} for row, label in zip(rows_of("pairs"), labels, strict=False)]
    file = own_files.as_csv(tmp_path, rows) if isinstance(labels[0], str) else own_files.as_jsonl(tmp_path, rows)
    assert list(task_of("pairs", train_file=file).load("train")["label"]) == numbers


def test_rows_with_one_path_are_one_image(tmp_path, caplog):
    """Without a column of ids, in retrieval and in pretraining; and by bytes where there are no paths."""
    write_pictures(tmp_path)
    rows = [{"picture": number % 2, "words": f"caption {number}"} for number in range(6)]
    for form in ("as_csv", "parquet_of_bytes", "parquet_of_images", "tar_file"):
        for name in ("retrieval", "pretraining"):
            with caplog.at_level(logging.INFO):
                caplog.clear()
                data = task_of(name, form, train_file=FORMS[form](tmp_path, rows)).load("train")
            data = data if name == "retrieval" else data.datasets[0]
            assert len(data.image_ids) == 2 and sorted(data.image_of.tolist()) == [0, 0, 0, 1, 1, 1]
            assert "6 rows have 2 different images" in caplog.text
            ids = {(data[n]["image_id"], data[n]["text"][-1] in "024") for n in range(6)}
            assert len(ids) == 2


def test_images_of_the_same_name_in_other_folders_are_others(tmp_path):
    write_pictures(tmp_path)
    rows = [
        {"image": {"bytes": png(number), "path": "1.png"}, "captions": [f"{n}"]} for n, number in enumerate((0, 1, 0))
    ]
    Dataset.from_list(rows).to_parquet(str(tmp_path / "own.parquet"))
    data = Retrieval(Retrieval.arguments(train_file=str(tmp_path / "own.parquet"), num_negative_texts=1)).load("train")
    assert data.image_of.tolist() == [0, 1, 0]


@pytest.mark.parametrize("form", ["as_csv", "parquet_of_bytes", "parquet_of_images"])
@pytest.mark.parametrize("name", ["retrieval", "pretraining"])
def test_one_column_may_serve_two_purposes(name, form, tmp_path):
    write_pictures(tmp_path)
    rows = [{"picture": number % 2, "words": f"caption {number}"} for number in range(6)]
    data = task_of(name, train_file=FORMS[form](tmp_path, rows), image_id_column="picture").load("train")
    data = data if name == "retrieval" else data.datasets[0]
    assert sorted(data.image_of.tolist()) == [0, 0, 0, 1, 1, 1]
    # The paths as the user writes them; files that are bytes have no name.
    names = {"as_csv": ["photos/0.png", "photos/1.png"]}.get(form, ["row 0", "row 1"])
    assert data.image_ids == names
    own = GLUE(
        GLUE.arguments(
            train_file=str(own_files.as_csv(tmp_path, rows)),
            text_column="words",
            text_pair_column="words",
            label_column="picture",
        )
    )
    assert own.load("train")[1]["text"] == own.load("train")[1]["text_pair"] == "caption 1"


def test_fields_of_records(tmp_path):
    """Of WebDataset's json members, and of JSON objects inside others."""
    write_pictures(tmp_path)
    rows = [{"picture": n, "meta": {"words": WORDS[n], "kind": KINDS[n]}} for n in range(3)]
    task = task_of(
        "image_and_text",
        train_file=own_files.as_jsonl(tmp_path, rows),
        text_column="meta.words",
        label_column="meta.kind",
    )
    assert seen("image_and_text", task) == rows_of("image_and_text")[:3]


@pytest.mark.parametrize("columns", [["picture"], ["picture", "number"], ["picture", "kind"]])
def test_prediction_of_images_alone(columns, options, tmp_path):
    """Unlabelled, with ids or without, or with labels that are blank."""
    write_pictures(tmp_path)
    train = own_files.as_csv(tmp_path, rows_of("images"))
    argv = [
        "--image_column",
        "picture",
        "--train_file",
        str(train),
        "--label_column",
        "kind",
        "--do_train",
        "--max_steps",
        "1",
    ]
    run_task(CIFAR10, "", [*TWO_TOWER, *options, *argv])
    rows = [{"picture": n, "number": f"a{n}", "kind": ""} for n in range(5)]
    test = write_separated(tmp_path / "test.csv", [{name: row[name] for name in columns} for row in with_paths(rows)])
    argv = [
        "--model_name_or_path",
        str(tmp_path / "run"),
        "--test_file",
        str(test),
        "--do_predict",
        "--image_column",
        "picture",
    ]
    argv += ["--label_column", "kind"] + (["--id_column", "number"] if "number" in columns else [])
    options[options.index("--output_dir") + 1] = str(tmp_path / "predicted")
    run_task(CIFAR10, "", [*options[:-2], *argv])
    with (tmp_path / "predicted" / "predictions.csv").open() as file:
        lines = list(csv.reader(file))
    assert [line[0] for line in lines] == [f"a{n}" if "number" in columns else str(n) for n in range(5)]
    assert {line[1] for line in lines} <= set(KINDS)


def many(folder: Path, name: str, reverse: bool = False) -> Path:
    """60 rows of 20 pictures in a CSV file."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for number in range(21):
        Picture.new("RGB", (24, 16), (number, 0, 0)).save(folder / "photos" / f"{number}.png")
    rows = []
    for number in range(60):
        row = values_of(number % 6) | {
            "picture": number % 20,
            "left": number % 20,
            "right": number % 20,
            "words": f"{number % 20}",
        }
        row["answer"] = f"answer {number % 20}"
        row["which"], row["kind"] = 0, ["False", "True"][number % 2] if name == "pairs" else row["kind"]
        rows.append({column: row[column] for column in rows_of(name)[0]})
    return own_files.as_csv(folder, rows[::-1] if reverse else rows)


def pictures_of(data) -> list[int]:
    """The numbers of the rows' pictures, which are as red, or of texts without a picture."""
    numbers = []
    for row in (data[number] for number in range(len(data))):
        stored = row["images"][0] if "images" in row else row.get("image")
        numbers.append(decode(stored).getpixel((3, 3))[0] if stored else int(row["text"]))
    return numbers


@pytest.mark.parametrize("name", TASKS)
def test_held_out_rows_share_no_image_with_the_others(name, tmp_path):
    task = task_of(name, train_file=many(tmp_path / "here", name), held_out=0.2)
    train, held = (pictures_of(task.load(split)) for split in ("train", "validation"))
    assert len(train) == 48 and len(held) == 12 and len(set(held)) == 4 and not set(train) & set(held)
    # The same ones whatever the order of the rows, wherever the folder lies, and whatever is loaded first.
    other = task_of(name, train_file=many(tmp_path / "there", name, reverse=True), held_out=4)
    assert set(pictures_of(other.load("validation"))) == set(held)
    assert set(pictures_of(other.load("train"))) == set(train)
    one = task_of(name, train_file=tmp_path / "here" / "own.csv", held_out=1)
    assert len(set(pictures_of(one.load("train")))) == 19
    with pytest.raises(ValueError, match="held_out: expected fewer than the 20 groups of rows"):
        task_of(name, train_file=tmp_path / "here" / "own.csv", held_out=20).load("train")


def test_pairs_that_share_an_image_stay_together():
    rows = [["a", "b"], ["b", "c"], ["d", "e"], ["e", "d"], ["f", "g"], ["c", "h"]]
    data = Dataset.from_dict({"images": rows})
    sides = {tuple(held_out_rows(data, ["images"], 1)[1].tolist())}
    assert sides <= {(0, 1, 5), (2, 3), (4,)}
    with pytest.raises(ValueError, match="held_out: expected fewer than the 1 groups of rows with the same images"):
        held_out_rows(data.select([0, 1, 5]), ["images"], 0.1)


def test_data_sets_with_the_same_images_hold_out_the_same_ones():
    """Whatever ids they give them, and however many rows they have of each."""
    stored, held = [{"bytes": bytes([number]), "path": None} for number in range(20)], []
    for name, often in (("coco", 1), ("vg", 2)):
        rows = [{"image": image, "image_id": f"{name} {number}"} for number, image in enumerate(stored)] * often
        data = Dataset.from_list(rows).cast_column("image", ImageFeature(decode=False))
        _, chosen = held_out_rows(data, ["image", "image_id"], 6)
        held.append({image["bytes"] for image in data[chosen]["image"]})
    assert len(held[0]) == 6 and held[0] == held[1]


def test_the_vocabulary_is_that_of_the_rows_that_are_trained_on(tmp_path):
    task = task_of("vqa", train_file=many(tmp_path, "vqa"), held_out=0.2)
    train = task.load("train")
    assert len(task.names) == 16 and {answer for answers in train["answers"] for answer in answers} == set(task.names)
    assert not {answer for answers in task.load("validation")["answers"] for answer in answers} & set(task.names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_file": "x.csv"}, "held_out: without effect if validation_file is given"),
        ({"train_file": None, "train_datasets": ["x"], "eval_datasets": ["y"]}, "held_out: without effect if eval_datasets"),
        ({"train_datasets": ["x"]}, "train_file: without effect if train_datasets is given"),
        ({"streaming": True}, "train_file, held_out: a stream is of train_datasets"),
        ({"download_retries": 3}, "download_retries: without effect without download_images"),
        ({"download_images": True, "download_timeout": 0.0}, "download_timeout: expected more than 0 and at most 86400, got 0"),
        ({"held_out": 19.5}, "held_out: expected a share below 1, or a whole number from 1 on, got 19.5"),
        ({"held_out": 0}, "held_out: expected a share below 1, or a whole number from 1 on, got 0"),
        ({"max_bad_fraction": 1.0}, "max_bad_fraction: expected from 0 to below 1, got 1"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Pretraining.argument_class()(**({"train_file": "own.csv", "held_out": 0.1} | options))


def test_pretraining_on_a_file_of_ones_own(options, tmp_path):
    names = ["--image_column", "picture", "--captions_column", "words"]
    file = many(tmp_path, "pretraining")
    argv = [*TWO_TOWER, *options, *names, "--train_file", str(file), "--held_out", "0.25", "--test_file", str(file)]
    metrics = run_task(Pretraining, "", [*argv, "--do_train", "--do_eval", "--do_predict", "--max_steps", "2"])
    assert 0 < metrics["eval_loss"] < 20 and 0 < metrics["test_loss"] < 20
    data = Pretraining(
        Pretraining.argument_class()(train_file=str(file), image_column="picture", captions_column="words")
    )
    assert data.load("validation") is None


def test_pretraining_on_folders_of_parquet_files_with_paths_or_bytes(tmp_path):
    write_pictures(tmp_path)
    for form in ("parquet_of_paths", "parquet_of_bytes"):
        FORMS[form](tmp_path, rows_of("pretraining")).rename(tmp_path / "train-00000-of-00001.parquet")
        options = {"train_datasets": [str(tmp_path)], "image_column": "picture", "captions_column": "words"}
        assert seen("pretraining", Pretraining(Pretraining.argument_class()(**options))) == rows_of("pretraining")


def test_labels_of_hub_data_sets_keep_their_names(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["z", "a"])})
    Dataset.from_dict({"text": ["p", "q"], "label": [0, 1]}, features=features).to_parquet(
        str(tmp_path / "own.parquet")
    )
    task = GLUE(GLUE.arguments(train_file=str(tmp_path / "own.parquet")))
    assert list(task.load("train")["label"]) == [0, 1] and task.names == ["z", "a"]
