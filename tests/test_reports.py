"""`renaissance report`: pages of runs, which are whole, safe and tell what is missing; and the pictures on them."""

import csv
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from conftest import TWO_TOWER
from datasets import Dataset

from renaissance.commands.report import main as report
from renaissance.reports.pictures import SERIES, bars, curves, front, pareto
from renaissance.reports.predictions import Prediction, read_predictions, spread
from renaissance.reports.run_page import compute_of
from renaissance.reports.runs import Run, folders_of_runs
from renaissance.tasks.run_record import MetricValue, RunRecord
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


HOSTILE = "</style></svg><script>alert('x')</script>\" onload=\"x \u202eevil\u0000\u001b[31m & $x_1^2$"


class Page(HTMLParser):
    """The elements of a page; raises if they are not nested."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.links, self.names, self.content, self.images = [], set(), [], [], "", 0
        self.source = text
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert not [name for name in attributes if name.startswith("on")]
        self.tags.add(tag)
        self.images += tag == "img"
        self.links += [attributes[name] for name in ("href", "src", "xlink:href") if name in attributes]
        self.names += [attributes["id"]] if "id" in attributes and tag == "section" else []
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style",):
            self.content += f"{data} "

    def check(self) -> "Page":
        """Check that it runs nothing, loads nothing, and that its links lead somewhere on it or to files."""
        assert not self.tags & {"script", "iframe", "object", "embed", "form", "base"}
        assert "default-src 'none'" in self.source and not re.search(r"url\((?!#)|@import", self.source)
        for link in self.links:
            assert link.startswith(("#", "data:", "./")), link
        assert len(set(self.names)) == len(self.names)
        sections = [link[1:] for link in self.links if re.fullmatch(r"#(run|task|overview|metrics)[\w-]*", link)]
        assert set(sections) <= set(self.names)
        unseen = [letter for letter in self.source if not letter.isprintable() and letter not in "\n"]
        assert unseen == []
        return self


@pytest.fixture(scope="module")
def predicted(shapes, tokenizer_folder, tmp_path_factory) -> Path:
    """A folder with the folder of a run, `run`, that has trained and predicted, and its data, `data`."""
    root = tmp_path_factory.mktemp("predicted")
    shutil.copytree(shapes / "snli_ve", root / "data")
    argv = [*TWO_TOWER, "--dataset", str(root / "data"), "--do_train", "--do_predict", "--max_steps", "4", "--use_cpu"]
    argv += ["--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-2", "--report_to", "none"]
    argv += ["--disable_tqdm", "true", "--tokenizer", str(tokenizer_folder), "--output_dir", str(root / "run")]
    run_task(SNLIVE, "", argv)
    return root


@pytest.fixture
def ran(predicted, tmp_path) -> Path:
    """A copy of the run, without checkpoints and weights, whose data are where they were."""
    ignored = shutil.ignore_patterns("checkpoint-*", "*.safetensors", "*.py")
    return Path(shutil.copytree(predicted / "run", tmp_path / "run", ignore=ignored))


def page_of(folder: Path, *options: str) -> Page:
    report([str(folder), *options])
    return Page((folder / "report.html").read_text(encoding="utf-8")).check()


def change_record(folder: Path, **values) -> None:
    record = RunRecord.read(folder)
    for name, value in values.items():
        setattr(record, name, value)
    record.write(folder)


def test_the_page_of_a_run_has_its_metrics_curves_examples_and_links(ran, predicted):
    page = page_of(ran, "--examples", "2")
    record = RunRecord.read(ran)
    for each in record.metrics:
        assert f"{each.value:.4f}" in page.content
    # What the page says of right rows is what files of predictions and data say.
    with (ran / "predictions.csv").open(newline="") as file:
        answers = [row[1] for row in csv.reader(file)]
    data = Dataset.from_parquet(str(next((predicted / "data").glob("test-*"))))
    labels = [data.features["label"].int2str(label) for label in data["label"]]
    right = sum(map(str.__eq__, answers, labels))
    assert f"{right} of 10 rows are right." in page.content
    assert page.images == min(right, 2) + min(10 - right, 2)
    first = answers.index(next(a for a, b in zip(answers, labels, strict=True) if a != b)) if right < 10 else 0
    assert any(text in page.content for text in data["text"][first : first + 1] + data["text"][:])
    assert "Confusion matrix" in page.content and "./predictions.csv" in page.links and "./run.json" in page.links
    # Loss, learning rate, norm of gradients.
    assert page.source.count("<svg ") == 3 and "learning rate" in page.source
    assert record.options["learning_rate"] == 0.01 and "0.01" in page.content
    (ran / "trainer_state.json").unlink()
    page = page_of(ran, "--examples", "0")
    assert page.images == 0 and "No log of training lies in the folder" in page.content


def test_a_run_that_goes_on_is_shown_so_with_the_log_of_its_newest_checkpoint(predicted, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoint-2").mkdir(parents=True)
    shutil.copy(predicted / "run" / "run.json", folder)
    shutil.copy(predicted / "run" / "checkpoint-2" / "trainer_state.json", folder / "checkpoint-2")
    change_record(folder, status="running", finished=None, metrics=[], steps=None)
    page = page_of(folder)
    assert "not finished" in page.content and "The run has no metrics yet." in page.content
    (folder / "checkpoint-2" / "trainer_state.json").write_text('{"log_history": [{"st')
    page = page_of(folder)
    assert "checkpoint-2/trainer_state.json cannot be read" in page.content and "<svg" not in page.source


def test_no_string_of_a_user_is_markup(ran):
    state = json.loads((ran / "trainer_state.json").read_text())
    # JSON knows neither infinity nor NaN, but Python writes and reads them.
    state["log_history"] += [
        {"step": 3, f"eval_{HOSTILE}": 0.5},
        {"step": 4, "eval_loss": float("nan"), "loss": 10**400},
    ]
    state["log_history"] += [
        {"step": 3, "eval_loss": 1e308},
        {"step": 4, "eval_loss": 0.7},
        ["no line"],
        {"step": "x"},
    ]
    (ran / "trainer_state.json").write_text(json.dumps(state))
    record = RunRecord.read(ran)
    record.metrics.append(MetricValue(f"eval_{HOSTILE}", HOSTILE, HOSTILE, 0.5, 3, 0.1, HOSTILE, False, True))
    change_record(ran, name=HOSTILE, host=HOSTILE, options={HOSTILE: [HOSTILE], "lone": "x"}, metrics=record.metrics)
    lines = (ran / "predictions.csv").read_text().splitlines()
    with (ran / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([row[0], HOSTILE.replace("\0", ""), row[2]] for row in csv.reader(lines))
    page = page_of(ran)
    assert "alert('x')" in page.content and "<script" not in page.source and "0 of 10 rows are right" in page.content
    assert page.source.count("</style>") == 1 and "2 logged values are no finite numbers" in page.content
    assert "(no answer)" in page.content and "lines of the log without a step are left out" in page.content


def cut(folder: Path) -> None:
    content = (folder / "predictions.csv").read_bytes()
    (folder / "predictions.csv").write_bytes(content[:-4])


def lose_lines(folder: Path) -> None:
    lines = (folder / "predictions.csv").read_text().splitlines(keepends=True)
    (folder / "predictions.csv").write_text("".join(lines[:7]))


def reorder(folder: Path) -> None:
    lines = (folder / "predictions.csv").read_text().splitlines(keepends=True)
    (folder / "predictions.csv").write_text("".join(reversed(lines)))


def lose_data(folder: Path) -> None:
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(re.sub(r"dataset: .*", "dataset: /gone/away", text))


def break_data(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 nothing")
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(re.sub(r"dataset: .*", f"dataset: {folder / 'data'}", text))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "predictions.csv line 10: not as a run writes predictions; is the file cut?"),
        (
            lambda folder: (folder / "predictions.csv").write_bytes(b"\xff\xfe\x00"),
            "predictions.csv line 0: not as a run",
        ),
        (lose_lines, "predictions.csv has 7 predictions, and the data 10 rows"),
        (reorder, "predictions.csv row 0 is of 'shapes-0-test-9', and that of the data of 'shapes-0-test-0'"),
        (lose_data, "dataset: no such file or folder /gone/away"),
        (break_data, "the data cannot be read"),
        (lambda folder: (folder / "run.yaml").unlink(), "no run.yaml with do_predict"),
        (lambda folder: (folder / "run.yaml").write_text("- 1"), "run.yaml: expected entries"),
        (lambda folder: change_record(folder, task="Mine"), "the task Mine is none of the commands"),
        (lambda folder: (folder / "config.json").write_text("{"), "the data cannot be read"),
    ],
)
def test_a_page_says_why_it_has_no_examples(ran, damage, said):
    # Pictures take a while.
    (ran / "trainer_state.json").unlink()
    damage(ran)
    page = page_of(ran)
    assert f"No examples: {said}" in page.content or (said in page.content and "No examples: " in page.content)
    assert page.images == 0 and "./predictions.csv" in page.links


def test_mistakes_are_refused_in_a_line(ran, tmp_path, refused, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert "no run in or below it" in refused(report, [str(tmp_path / "empty")])
    assert "none: no such file or folder; those that ship are" in refused(report, [str(tmp_path / "none")])
    assert "expected a folder, a file or a name" in refused(report, [" "])
    assert "metrics: " in refused(report, [str(ran), "--metrics", "eval_accuracy"])
    assert "expected a file that ends in .html" in refused(report, [str(ran), "--output", str(ran / "run.json")])
    assert RunRecord.read(ran).task == "SNLIVE"
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        assert "pip install 'renaissance[report]'" in refused(report, [str(ran)])
    content = json.loads((ran / "run.json").read_text())
    (ran / "run.json").write_text(json.dumps(content | {"parameters": 10**400}))
    assert "too large" in refused(report, [str(ran)])
    (ran / "run.json").write_text('{"format": 1, "seed": "x"}')
    assert "run.json: not the record of a run (the entry seed" in refused(report, [str(ran)])
    assert not (ran / "report.html").exists()


def test_several_runs_are_compared(ran, tmp_path):
    folder = tmp_path / "study"
    for place, name in enumerate(("first", "second", "<b>third")):
        shutil.copytree(ran, folder / name)
        state = json.loads((ran / "trainer_state.json").read_text())
        state["log_history"] = [
            {"step": line["step"], "loss": line["loss"]} for line in state["log_history"] if "loss" in line
        ]
        (folder / name / "trainer_state.json").write_text(json.dumps(state))
        record = RunRecord.read(folder / name)
        for each in record.metrics:
            each.value = 0.25 + 0.125 * place
        record.of_split("test").fingerprint = "other" if place == 2 else "same"
        change_record(folder / name, status="running" if place == 1 else "finished", steps=6 * (place + 1))
        change_record(folder / name, metrics=record.metrics, data=record.data)
    (folder / "<b>third" / "trainer_state.json").unlink()
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{}")
    (folder / "first" / "checkpoint-2").mkdir()
    shutil.copy(folder / "first" / "run.json", folder / "first" / "checkpoint-2")
    assert [place.name for place in folders_of_runs(folder)] == ["<b>third", "broken", "first", "second"]
    page = page_of(folder, "--examples", "0")
    assert "3 runs of 1 task, 1 of them not finished." in page.content
    assert "broken/run.json: not the record of a run" in page.content
    assert "The runs had different data for test" in page.content and "other: <b>third" in page.content
    best = [each.lower_is_better for each in record.metrics if each.split == "test"]
    assert page.source.count("<b>0.5000</b>") == best.count(False) and page.source.count(
        "<b>0.2500</b>"
    ) == best.count(True)
    assert {"#run-1", "#run-2", "#run-3", "#task-1"} <= set(page.links)
    assert "Pareto front" in page.source and "bootstrap over rows" in page.content


def test_pictures_are_the_same_whatever_the_users_settings_are(monkeypatch):
    draw = [
        lambda: curves(
            {"a": [(0, 1.0), (1, float("nan")), (2, 3.0)], "_b": [(0, 2.0)]}, "step", "loss", {"majority": 2.0}
        ),
        lambda: bars(
            [("$x_1", 0.5, 0.4, 0.6), ("b", float("nan"), None, None), (HOSTILE, -0.5, None, None)], "accuracy"
        ),
        lambda: pareto([("a", 1, 0.5), ("b", 0, 0.9), ("c", 10, 0.4), ("d", 20, 0.8)], "compute (TFLOPs)", "accuracy"),
    ]
    before = [each() for each in draw]
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    assert [each() for each in draw] == before and matplotlib.rcParams["font.size"] == 30
    found = [Page(each) for each in before]
    assert "majority" in found[0].content and "_b" in found[0].content and "$x_1" in found[1].content
    assert all(colour in before[0] for colour in SERIES[:2]) and "compute (TFLOPs)" in found[2].content
    # What costs nothing has no place on a logarithmic axis.
    assert " b " not in found[2].content and {"a", "c", "d"} <= set(found[2].content.split())
    for each in (
        lambda: curves({"a": [(0, float("nan"))]}, "step", "loss"),
        lambda: bars([], "x"),
        lambda: pareto([], "x", "y"),
    ):
        with pytest.raises(ValueError, match="expected at least one finite value"):
            each()


def test_the_front_has_what_nothing_beats():
    points = [(1, 0.5), (2, 0.5), (2, 0.7), (3, 0.6), (3, 0.9), (3, 0.9)]
    assert front(points) == [0, 2, 4]
    assert front(points, lower_is_better=True) == [0]
    assert front([]) == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.csv", "a,True\r\n\"b,\"\"c\",\r\n", [Prediction("a", "True"), Prediction('b,"c', "")]),
        ("p.csv", "a,cat,0.25\r\nb,,\r\n", [Prediction("a", "cat", 0.25), Prediction("b", "")]),
        ("p.csv", 'a,"[""x"", ""y""]","[0.9, 0.8]"\r\nb,[],[]\r\n', [Prediction("a", ["x", "y"]), Prediction("b", [])]),
        ("MRPC.tsv", "index\tprediction\n0\tequivalent\n", [Prediction("0", "equivalent")]),
        ("p.jsonl", '{"id": "a", "choice": null, "box": null}\n{"id": "b", "choice": 1, "box": [0]}\n', [Prediction("a", None), Prediction("b", 1)]),
        ("p.json", '[{"question_id": 7, "answer": "no"}]', [Prediction("7", "no")]),
        ("p.json", '{"images_for_captions": [{"caption": "c", "image_id": 1, "best": [2, 1]}]}', [Prediction("1", ["2", "1"], None, "c")]),
    ],
)  # fmt: skip
def test_predictions_are_read_and_cut_ones_refused(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert read_predictions(path) == expected
    path.write_bytes(content.encode()[:-3])
    with pytest.raises(ValueError, match=rf"{name}.*: not as a run writes predictions; is the file cut\?"):
        read_predictions(path)


def test_examples_come_from_the_whole_of_a_split():
    assert spread(list(range(100)), 4) == [0, 25, 50, 75] and spread([3, 4], 4) == [3, 4]


def test_baselines_and_compute_are_read_from_the_log(ran):
    state = json.loads((ran / "trainer_state.json").read_text())
    state["log_history"].append({"step": 6, "eval_itm_accuracy": 0.6, "eval_itm_majority_accuracy": 0.5})
    (ran / "trainer_state.json").write_text(json.dumps(state | {"total_flos": 120.0, "global_step": 6}))
    run = Run.read(ran)
    assert run.flops_a_step == 20.0 and run.flops == 80.0 and "eval_itm_majority_accuracy" not in run.names()
    assert compute_of(run) == "80 FLOPs, as counted in its first batches"
    assert run.baseline("eval_itm_accuracy") == ("majority", 0.5) and run.baseline("eval_loss") is None
