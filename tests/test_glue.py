"""GLUE: its TSV files, its metrics, its predictions, and texts of one's own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER
from datasets import Dataset
from preparing import complaints
from transformers import AutoModelForSequenceClassification, AutoProcessor

from renaissance.processing.collators import RowCollator
from renaissance.tasks.data import schemas
from renaissance.tasks.data.catalogue import CATALOGUE
from renaissance.tasks.data.glue import LAYOUTS, read_glue, read_glue_split
from renaissance.tasks.data.writer import write_split
from renaissance.tasks.glue import GLUE, GLUEArguments, without_blank
from renaissance.tasks.metrics import AccuracyAndF1, Correlations, Matthews
from renaissance.tasks.preparation import prepare
from renaissance.tasks.runner import run, run_task


ROOT = Path(__file__).parent.parent

MNLI_COLUMNS = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
)

#: Options under which a tiny model learns a simple task in a second.
QUICKLY = ["--initializer_range", "0.1", "--learning_rate", "3e-3", "--max_steps", "100"]

#: Of every task, the first line of its training file (none in CoLA), a line of it, the same of its test file, what the row of
#: the former is, and what a prediction for the latter is called.
PUBLIC = {
    "cola": (None, "gj04|0|*|A |is b.", "index|sentence", "0|A is b.", ("0", "A", None, "unacceptable")),
    "sst2": ("sentence|label", "so good |1", "index|sentence", "0|bad", ("0", "so good", None, "positive")),
    "mrpc": (
        "Quality|#1 ID|#2 ID|#1 String|#2 String", "1|70|71|He said .|He did .",
        "index|#1 ID|#2 ID|#1 String|#2 String", "0|70|71|He .|She .", ("0", "He said .", "He did .", "equivalent"),
    ),
    "qqp": (
        "id|qid1|qid2|question1|question2|is_duplicate", "133|3|4|Why?|How?|0",
        "id|question1|question2", "0|Who?|When?", ("133", "Why?", "How?", "not_duplicate"),
    ),
    "stsb": (
        "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score", "7|g|f|y|1|n|n|One.|Two.|3.800",
        "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2", "0|g|f|y|1|n|n|One.|Two.",
        ("7", "One.", "Two.", 3.8),
    ),
    "mnli": (
        MNLI_COLUMNS.replace(" ", "|") + "|sentence1|sentence2|label1|gold_label", "5|1|1n|g|p|p|p|p|A.|B.|neutral|neutral",
        MNLI_COLUMNS.replace(" ", "|") + "|sentence1|sentence2", "0|1|1n|g|p|p|p|p|A.|B.", ("5", "A.", "B.", "neutral"),
    ),
    "qnli": (
        "index|question|sentence|label", "0|When?|Then.|not_entailment",
        "index|question|sentence", "0|Who?|He.", ("0", "When?", "Then.", "not_entailment"),
    ),
    "rte": (
        "index|sentence1|sentence2|label", "2|A.|B.|entailment",
        "index|sentence1|sentence2", "0|A.|B.", ("2", "A.", "B.", "entailment"),
    ),
    "wnli": (
        "index|sentence1|sentence2|label", "4|A.|B.|1",
        "index|sentence1|sentence2", "0|A.|B.", ("4", "A.", "B.", "entailment"),
    ),
}  # fmt: skip


def write_tsv(path: Path, *lines: str | None) -> None:
    """The lines, with tabs where they have bars."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line.replace("|", "\t") + "\n" for line in lines if line is not None))


@pytest.mark.parametrize("task", PUBLIC)
def test_public_files_of_every_task(task, tmp_path):
    header, line, test_header, test_line, expected = PUBLIC[task]
    if task == "cola":
        line = "gj04|0|*|A "
    for split, name in LAYOUTS[task].splits.items():
        write_tsv(tmp_path / name, *((test_header, test_line) if split.startswith("test") else (header, line)))
    splits = read_glue(tmp_path, task)
    assert list(splits) == (
        ["train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]
        if task == "mnli"
        else ["train", "validation", "test"]
    )
    row = splits["train"][0]
    label = schemas.GLUE[task]["label"].int2str(row["label"]) if task != "stsb" else row["label"]
    assert (row["id"], row["text"], row.get("text_pair"), label) == expected
    assert all(len(rows) == 1 and rows[0].keys() == schemas.GLUE[task].keys() for rows in splits.values())
    tests = [rows[0] for split, rows in splits.items() if split.startswith("test")]
    assert [(row["id"], row["label"]) for row in tests] == [("0", None)] * (2 if task == "mnli" else 1)
    assert all(row["text"] in test_line for row in tests)


def test_quotation_marks_and_line_separators_are_text(tmp_path):
    """Of a reader with quoting, the first mark would swallow the lines up to the second. MRPC's files have a byte-order mark."""
    texts = ['" He said .', "a\x85b\u2028c", 'It is 5 " long , or "" so', "It's , fine"]
    lines = "".join(f"1\t{row}\t0\t{text}\tEnd .\r\n" for row, text in enumerate(texts))
    content = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n" + lines
    (tmp_path / "train.tsv").write_bytes(content.encode())
    assert [row["text"] for row in read_glue_split(tmp_path, "mrpc", "train")] == texts


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        ("cola", ["a|1||Fine.", 'b|1||"Bro|ken.'], r"line 2 has 5 fields between tabs: expected 4, source"),
        ("cola", ["a|1||Fine.", "b|1|| "], "line 2 has no text in column sentence"),
        ("cola", ["a|1||Fine.", "b|2||Fine."], "line 2 has the label '2': expected one of 0, 1"),
        ("rte", ["index|sentence1|sentence2|label", "0|A|B|neutral"], "line 2 has the label 'neutral'"),
        ("rte", ["index|sentence1|sentence2|label", "0|A|B|entailment", "0|A|B|entailment"], "line 3 repeats the index 0"),
        ("rte", ["index|sentence1|sentence2", "0|A|B"], "no column label in the first line, only index, sentence1"),
        ("rte", ["index|sentence1|sentence2|label"], "train.tsv has no rows"),
        ("rte", [], "train.tsv is empty"),
        ("stsb", [PUBLIC["stsb"][0], "0|g|f|y|1|n|n|A|B|5.1"], "line 2 has the score '5.1': expected a number from 0 to 5"),
        ("stsb", [PUBLIC["stsb"][0], "0|g|f|y|1|n|n|A|B|nan"], "line 2 has the score 'nan'"),
        ("qqp", [PUBLIC["qqp"][0], "0|1|2|A|B|0", "x|0"], "line 3 has 2 fields between tabs: expected 6"),
    ],
)  # fmt: skip
def test_broken_files_are_named(task, lines, message, tmp_path):
    write_tsv(tmp_path / "train.tsv", *lines)
    assert re.search(message, complaints(lambda: {"train": read_glue_split(tmp_path, task, "train")}))
    # Of two lines one is far more than the share that may be left out.
    with pytest.raises(ValueError, match=message):
        GLUE(GLUEArguments(dataset=str(tmp_path), task_name=task)).load("train")


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(ValueError, match=r"train.tsv does not exist"):
        read_glue_split(tmp_path, "rte", "train")
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\n\xff\xfe\t1\n")
    with pytest.raises(ValueError, match=r"train.tsv is not UTF-8"):
        read_glue_split(tmp_path, "sst2", "train")


def test_the_broken_lines_of_qqp_are_left_out_and_counted(tmp_path, caplog):
    header = PUBLIC["qqp"][0]
    lines = [f"{row}|1|2|A {row}?|B?|{row % 2}" for row in range(3000)]
    lines[10], lines[20] = '"|Was it?|0', "20|1|2|Why?| |1"
    write_tsv(tmp_path / "train.tsv", header, *lines)
    rows = GLUE(GLUEArguments(dataset=str(tmp_path), task_name="qqp")).load("train")
    kept = [row for row in range(3000) if row not in (10, 20)]
    assert [(row["id"], row["text"], row["label"]) for row in rows] == [
        (str(row), f"A {row}?", row % 2) for row in kept
    ]
    counts = "left out other number of fields (1), blank text (1) of 3000 lines, the first: "
    assert counts in caplog.text and "line 12" in caplog.text
    # A row of the test file that is left out would be one that the benchmark waits for.
    write_tsv(tmp_path / "test.tsv", "id|question1|question2", *(f"{row}|A?|B?" for row in range(3000)), "3000|A?")
    with pytest.raises(ValueError, match=r"test.tsv: line 3002 has 2 fields"):
        read_glue_split(tmp_path, "qqp", "test")


def test_rows_of_the_hub_without_a_text_keep_the_labels_of_the_others(caplog):
    data = Dataset.from_dict({"question1": ["a", "b", "c"], "question2": ["d", "", "f"], "label": [0, 1, 2]})
    kept = without_blank(data, ["question1", "question2"])
    assert kept.data.column("label").to_pylist() == kept["label"][:] == [0, 2] and "1 of 3" in caplog.text


def test_matthews_correlation_is_that_of_the_two_indicators():
    rng = np.random.default_rng(0)
    references, predictions = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    predictions[:120] = references[:120]
    figures = Matthews().compute(predictions=predictions, references=references)
    assert figures["matthews_correlation"] == pytest.approx(np.corrcoef(predictions, references)[0, 1])
    assert figures["accuracy"] == (predictions == references).mean()
    assert Matthews().compute(predictions=np.ones(200, int), references=references)["matthews_correlation"] == 0


def test_f1_is_of_the_positive_class():
    references, predictions = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 1, 0, 1, 0, 0])
    figures = AccuracyAndF1().compute(predictions=predictions, references=references)
    # Two of three positive answers are right, and find two of four.
    assert figures["f1"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert figures["accuracy_and_f1"] == pytest.approx((figures["f1"] + 1 / 2) / 2)
    assert figures["majority_f1"] == pytest.approx(2 * (4 / 6) / (4 / 6 + 1))
    negative = AccuracyAndF1().compute(predictions=np.zeros(3, int), references=np.array([0, 0, 1]))
    assert (negative["f1"], negative["majority_f1"]) == (0, 0)


def test_correlations():
    rng = np.random.default_rng(0)
    references = rng.random(50).astype(np.float32)
    predictions = np.exp(5 * references)  # the same order, on another scale
    figures = Correlations().compute(predictions=predictions, references=references)
    assert figures["spearman"] == pytest.approx(1)
    assert figures["pearson"] == pytest.approx(np.corrcoef(predictions, references)[0, 1], abs=1e-6)
    assert figures["pearson_and_spearman"] == pytest.approx((figures["pearson"] + figures["spearman"]) / 2)
    ties = Correlations().compute(predictions=[1.0, 1.0, 2.0], references=[1.0, 2.0, 3.0])
    # Ranks 1.5, 1.5, 3 against 1, 2, 3.
    assert ties["spearman"] == pytest.approx(np.corrcoef([1.5, 1.5, 3], [1, 2, 3])[0, 1])
    assert Correlations().compute(predictions=[1.0, 1.0], references=[1.0, 2.0])["pearson_and_spearman"] == 0


def write_rte(folder: Path) -> Path:
    """A folder of pairs that a look at the first word decides; 30 to validate on, so that no batch size divides them."""
    colours = ("red", "blue")
    for split, count in (("train", 32), ("dev", 30), ("test", 10)):
        rows = [
            (f"{row}|a {colours[row % 2]} circle|it is red" + f"|{('entailment', 'not_entailment')[row % 2]}")
            for row in range(count)
        ]
        header = "index|sentence1|sentence2|label"
        if split == "test":
            header, rows = header.rpartition("|")[0], [row.rpartition("|")[0] for row in rows]
        write_tsv(folder / f"{split}.tsv", header, *rows)
    return folder


def write_scores(folder: Path) -> Path:
    """Pairs with scores from 0 to 5 that follow from how many of the words are red."""
    header = PUBLIC["stsb"][0]
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("dev", 30), ("test", 10)):
        rows = []
        for row in range(count):
            reds = int(rng.integers(0, 6))
            words = " ".join(["red"] * reds + ["blue"] * (5 - reds))
            rows.append(f"{row}|g|f|y|1|n|n|{words}|a circle" + (f"|{reds}.000" if split != "test" else ""))
        write_tsv(folder / f"{split}.tsv", header if split != "test" else header.rpartition("|")[0], *rows)
    return folder


@pytest.mark.parametrize(("task", "write"), [("rte", write_rte), ("stsb", write_scores)])
def test_a_prepared_folder_has_the_rows_of_the_files(task, write, tmp_path):
    folder, entry = write(tmp_path / "files"), CATALOGUE[task]
    for split, rows in entry.read(folder).items():
        write_split(rows, entry.features, tmp_path / "prepared", split, len(rows))
    tasks = [GLUE(GLUEArguments(dataset=str(path), task_name=task)) for path in (folder, tmp_path / "prepared")]
    for split in ("train", "validation", "test"):
        first, second = (task.load(split).to_list() for task in tasks)
        assert first == second and ("label" in first[0]) == (split != "test")
    (folder / "test.tsv").unlink()
    with pytest.raises(ValueError, match=r"test.tsv does not exist"):
        GLUE(GLUEArguments(dataset=str(folder), task_name=task)).load("test")


def glue(options: list[str], folder: Path, task: str, *extra: str) -> list[str]:
    return [*TWO_TOWER, *options, "--dataset", str(folder), "--task_name", task, *extra]


def test_a_run_learns_predicts_and_can_be_repeated_by_hand(options, tmp_path, capsys):
    folder = write_rte(tmp_path / "RTE")
    metrics = run_task(GLUE, "", glue(options, folder, "rte", "--do_train", "--do_eval", "--do_predict", *QUICKLY))
    assert metrics["eval_accuracy"] == 1 and metrics["eval_majority_accuracy"] == 0.5
    assert not any(name.startswith("test_accuracy") for name in metrics)  # it has no labels
    lines = (tmp_path / "run" / "RTE.tsv").read_text().splitlines()
    assert lines[:3] == ["index\tprediction", "0\tentailment", "1\tnot_entailment"] and len(lines) == 11
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    assert saved.config.id2label == {0: "entailment", 1: "not_entailment"}
    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    rows = read_glue_split(folder, "rte", "test")
    inputs = processor(
        text=[row["text"] for row in rows], text_pair=[row["text_pair"] for row in rows], return_tensors="pt"
    )
    with torch.no_grad():
        answers = saved(**inputs).logits.argmax(dim=-1).tolist()
    assert [saved.config.id2label[answer] for answer in answers] == [line.split("\t")[1] for line in lines[1:]]
    with pytest.raises(SystemExit):
        run_task(GLUE, "", ["--model_name_or_path", str(tmp_path / "run"), "--dataset", "x", "--task_name", "sst2",
                            *options[2:-2], "--output_dir", "y", "--do_predict"])  # fmt: skip
    assert (
        "its head tells apart entailment, not_entailment, while this task has the classes" in capsys.readouterr().err
    )


def test_metrics_do_not_depend_on_the_batches(options, tmp_path):
    """30 rows in batches of 4 and of 7: each last one is smaller, and must not weigh more."""
    results = []
    for size in ("4", "7", "30"):
        argv = glue(
            options, write_scores(tmp_path / "STS-B"), "stsb", "--do_eval", "--per_device_eval_batch_size", size
        )
        trainer, *_ = prepare(GLUE, "", argv)
        results.append(trainer.evaluate())
    assert results[2]["eval_loss"] > 0 and results[2]["eval_pearson"] != 0
    # Not Spearman's: rounding alone ranks rows with the same text.
    for name in ("eval_loss", "eval_pearson"):
        assert results[0][name] == pytest.approx(results[2][name], rel=1e-4), name
        assert results[1][name] == pytest.approx(results[2][name], rel=1e-4), name


def test_scores_are_learned_as_numbers(options, processor, tmp_path):
    folder = write_scores(tmp_path / "STS-B")
    argv = glue(options, folder, "stsb", "--do_train", "--do_eval", "--do_predict", *QUICKLY)
    argv += ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "50", "--save_steps", "50"]
    trainer, task, data, args = prepare(GLUE, "", argv)
    batch = RowCollator(processor)([data["train"][row] for row in range(4)])
    assert batch["labels"].dtype == torch.float32 and batch["labels"].shape == (4,)
    assert (trainer.model.config.num_labels, trainer.model.config.problem_type) == (1, "regression")
    assert args.metric_for_best_model == "eval_pearson_and_spearman"
    metrics = run(trainer, task, data, args)
    assert metrics["eval_pearson"] > 0.8 and metrics["eval_spearman"] > 0.8
    # The loss is the mean squared error of the very predictions that were scored.
    output = trainer.predict(data["validation"])
    assert metrics["eval_loss"] == pytest.approx(((output.predictions - output.label_ids) ** 2).mean(), rel=1e-4)
    lines = [line.split("\t") for line in (tmp_path / "run" / "STS-B.tsv").read_text().splitlines()]
    assert lines[0] == ["index", "prediction"] and len(lines) == 11
    assert all(re.fullmatch(r"\d\.\d{3}", answer) and 0 <= float(answer) <= 5 for _, answer in lines[1:])


def test_mnli_is_watched_and_predicted_on_both_of_its_parts(options, tmp_path):
    header, line, test_header, test_line, _ = PUBLIC["mnli"]
    names = ("entailment", "neutral", "contradiction")
    for split, name in LAYOUTS["mnli"].splits.items():
        count = 6 if "mismatched" in split else 9
        if split.startswith("test"):
            lines = [test_line.replace("0|1|", f"{row}|1|", 1) for row in range(count)]
        else:
            lines = [
                line.replace("5|1|", f"{row}|1|").replace("|neutral", f"|{names[row % 3]}") for row in range(count)
            ]
        write_tsv(tmp_path / "MNLI" / name, test_header if split.startswith("test") else header, *lines)
    argv = glue(options, tmp_path / "MNLI", "mnli", "--do_train", "--do_predict", "--max_steps", "2")
    argv += ["--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--load_best_model_at_end"]
    run_task(GLUE, "", argv)
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    logged = {name for entry in state["log_history"] for name in entry}
    assert {"eval_validation_matched_accuracy", "eval_validation_mismatched_accuracy"} <= logged
    watched = [entry.get("eval_validation_matched_accuracy", 0) for entry in state["log_history"]]
    assert state["best_metric"] == max(watched)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"of 2, with the highest eval_validation_matched_accuracy, {max(watched):.4f}" in card
    for name, count in (("MNLI-m.tsv", 9), ("MNLI-mm.tsv", 6)):
        lines = (tmp_path / "run" / name).read_text().splitlines()
        assert lines[0] == "index\tprediction" and [line.split("\t")[0] for line in lines[1:]] == [
            *map(str, range(count))
        ]
        assert all(line.split("\t")[1] in names for line in lines[1:])


def test_the_columns_of_the_hub_are_known():
    assert GLUEArguments(dataset="nyu-mll/glue", task_name="qqp").columns() == {
        "id": "idx", "text": "question1", "text_pair": "question2", "label": "label",
    }  # fmt: skip
    arguments = GLUEArguments(dataset="nyu-mll/glue", task_name="sst2")
    assert arguments.dataset_config == "sst2" and arguments.columns()["text"] == "sentence"
    assert "text_pair" not in arguments.columns()
    assert GLUE(GLUEArguments(dataset="nyu-mll/glue", task_name="mnli")).test_splits == (
        "test_matched",
        "test_mismatched",
    )


@pytest.mark.parametrize("task", ["mrpc", "stsb"])
def test_the_hubs_form_is_read_as_the_files_are(task, tmp_path):
    """A prepared folder with the Hub's names, numbers for ids, and -1 where the test labels are kept secret."""
    labels = [0.0, 2.5] if task == "stsb" else [0, 1]
    for split in ("train", "test"):
        secret = [-1.0, -1.0] if task == "stsb" else [-1, -1]
        rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "idx": [7, 9]}
        data = Dataset.from_dict(rows | {"label": secret if split == "test" else labels})
        data = data.cast_column("label", schemas.GLUE[task]["label"])
        data.to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    columns = {"text_column": "sentence1", "text_pair_column": "sentence2", "id_column": "idx"}
    loaded = GLUE(GLUEArguments(dataset=str(tmp_path), task_name=task, **columns))
    row = {"text": "b", "text_pair": "d", "id": "9", "label": labels[1], "file_row": 1}
    assert loaded.load("train")[1] == row
    assert loaded.load("test")[0] == {"text": "a", "text_pair": "c", "id": "7", "file_row": 0}


def test_texts_of_ones_own(options, tmp_path):
    rows = [(f"the {colour} shape", colour) for colour in ("red", "green", "blue") for _ in range(6)]
    write_tsv(tmp_path / "own.tsv", "words|shade", *(f"{text}|{label}" for text, label in rows))
    argv = [*TWO_TOWER, *options, "--text_column", "words", "--label_column", "shade"]
    for split in ("train", "validation", "test"):
        argv += [f"--{split}_file", str(tmp_path / "own.tsv")]
    argv += ["--do_train", "--do_eval", "--do_predict", *QUICKLY]
    metrics = run_task(GLUE, "", argv)
    assert metrics["eval_accuracy"] == metrics["test_accuracy"] == 1
    assert metrics["eval_majority_accuracy"] == pytest.approx(1 / 3)
    lines = (tmp_path / "run" / "predictions.csv").read_text().split()
    assert lines == [f"{row},{label}" for row, (_, label) in enumerate(rows)]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task_name", "boolq"], "task_name: expected one of cola, mnli, .*, or none, got boolq"),
        (["--task_name", "cola", "--text_pair_column", "b"], "text_pair_column: without effect on cola"),
        (["--text_column", "a", "--text_pair_column", "c"], "no column c, only id, a, b, label"),
        (["--text_column", "a", "--task_name", "rte", "--text_pair_column", "b"], "row 2: expected one of the labels entailment"),
        (["--text_column", "a", "--task_name", "stsb", "--text_pair_column", "b"], "row 0: expected a number .*got 'entailment'"),
        (["--text_column", "b", "--id_column", "a"], "row 1: column 'a' has 'x', as row 0 does"),
        (["--text_column", "blank"], "row 1: the text in column 'blank' is blank"),
    ],
)  # fmt: skip
def test_bad_input(argv, message, options, tmp_path, capsys):
    rows = {"id": ["0", "1", "2"], "a": ["x", "x", "y"], "b": ["p", "q", "r"]}
    rows["label"] = ["entailment", "not_entailment", "maybe"]
    if "blank" in argv:
        rows["blank"] = ["x", " ", "y"]
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "own.parquet"))
    with pytest.raises(SystemExit) as error:
        run_task(GLUE, "", [*TWO_TOWER, *options, "--train_file", str(tmp_path / "own.parquet"), *argv, "--do_train"])
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_quotation_mark_that_joins_lines_of_ones_own_file(options, tmp_path, capsys):
    """Read with quoting, these are two rows, the first of them with the second one's label."""
    write_tsv(tmp_path / "own.tsv", "text|label", '"He said|good', 'She "|bad', "It|good")
    with pytest.raises(SystemExit):
        run_task(GLUE, "", [*TWO_TOWER, *options, "--train_file", str(tmp_path / "own.tsv"), "--do_train"])
    assert "row 0: column 'text' goes on over a tab" in capsys.readouterr().err


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_more_fields_than_names(suffix, separator, tmp_path):
    """In every row, so that no line stands out."""
    lines = (("text", "label"), ("A dog", "running", "good"), ("A cat", "asleep", "bad"))
    path = tmp_path / f"own.{suffix}"
    path.write_text("\n".join(separator.join(line) for line in lines))
    with pytest.raises(ValueError, match=rf"own.{suffix}, .*row 0: 3 values for 2 names .*\(2 such rows: 0, 1\)"):
        GLUE(GLUEArguments(train_file=str(path))).load("train")


@pytest.mark.slow
def test_two_processes_report_what_one_does(options, launch, tmp_path):
    """30 rows in batches of 4 on each: the last ones are padded with rows that must not count twice."""
    run_task(GLUE, "", glue(options, write_rte(tmp_path / "RTE"), "rte", "--do_train", "--max_steps", "3"))
    argv = ["--model_name_or_path", str(tmp_path / "run"), "--dataset", str(tmp_path / "RTE"), "--task_name", "rte"]
    argv += [*options[2:-2], "--do_eval", "--do_predict"]
    one = run_task(GLUE, "", [*argv, "--output_dir", str(tmp_path / "one")])
    launch(2, ROOT / "run_scripts" / "run_glue.py", *argv, "--output_dir", tmp_path / "two")
    two = json.loads((tmp_path / "two" / "eval_results.json").read_text())
    assert two["eval_accuracy"] == one["eval_accuracy"]
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-5)
    assert (tmp_path / "two" / "RTE.tsv").read_text() == (tmp_path / "one" / "RTE.tsv").read_text()


@pytest.mark.real_data
def test_real_files(real_data):
    counts = {"cola": (8551, 1043, 1063), "mrpc": (3667, 408), "stsb": (5749, 1500, 1379)}
    for task, expected in counts.items():
        splits = read_glue(real_data / "glue" / LAYOUTS[task].folder, task)
        assert tuple(len(rows) for rows in splits.values()) == expected
    majority = np.mean([row["label"] for row in read_glue_split(real_data / "glue" / "CoLA", "cola", "validation")])
    assert majority == pytest.approx(0.6913, abs=1e-3)  # of the published development set
