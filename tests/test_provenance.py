"""Where runs came from: chains of runs from their records, also if folders are gone, and of encoders and conversions."""

import csv
import hashlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import TINY_VIT, tiny_model
from PIL import Image
from test_conversion import convert, tiny_vilt
from test_study_encoders import TINY

from renaissance.commands.encoder import main as train_encoder
from renaissance.commands.study import main as study
from renaissance.model_cards.lineage import digest_of_weights, read_history
from renaissance.reports.folder_page import folder_page
from renaissance.reports.run_page import run_page
from renaissance.reports.runs import Run
from renaissance.studies.provenance import links_of, records_below, rows_of
from renaissance.studies.results import entries_in
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.run_record import Ancestor, DataSplit, RunRecord
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE
from renaissance_cli.main import main as renaissance


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def record_of(name: str, task: str, history: list[Ancestor], **more) -> RunRecord:
    data = [DataSplit("train", [f"./data_of_{name}"], 40)]
    facts = {"run_id": f"id-{name}", "did": ["train"], "started": "2026-11-27T10:00:00+00:00", "samples": 12_345}
    facts |= {"versions": {"renaissance": "0.1.0"}, "commit": COMMIT, "uncommitted_changes": True, "seed": 7}
    return RunRecord(name=name, task=task, history=history, data=data, **(facts | more))


def started_from(record: RunRecord, digest: str, part: str = "") -> list[Ancestor]:
    """The history of a run that read this one's checkpoint."""
    ancestor = record.as_ancestor(f"./{record.name}")
    ancestor.digest, ancestor.part = digest, part
    return [ancestor, *record.history]


@pytest.fixture
def chain(tmp_path) -> Path:
    """The folders of an encoder, a pretraining, a finetuning and a prediction, in a folder of their own."""
    words = record_of("words", "fill-mask", [])
    hub = Ancestor("org/eyes", revision="fedcba9876543210", digest="e" * 64, part="vision")
    history = [*started_from(words, "a" * 64, "text"), hub]
    pretrained = record_of("pretrained", "Pretraining", history, objectives=["mlm", "itm"], frozen=["text"])
    tuned = record_of("tuned", "NLVR2", started_from(pretrained, "b" * 64), did=["train", "eval"])
    answers = record_of("answers.csv", "visual-question-answering", started_from(tuned, "c" * 64), did=["predict"])
    for record in (words, pretrained, tuned):
        record.write(tmp_path / "runs" / record.name)
    answers.write(tmp_path / "runs" / "tuned", "answers.run.json")
    return tmp_path / "runs"


def table_of(capsys, *argv: str) -> dict[str, dict[str, str]]:
    """The rows of `renaissance study provenance` for programs, by the names of runs."""
    with pytest.raises(SystemExit) as end:
        study(["provenance", *argv, "--format", "csv"])
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert end.value.code == 0
    return rows


def test_a_chain_from_encoders_to_a_prediction(chain, capsys):
    rows = table_of(capsys, str(chain))
    assert list(rows) == ["words", "org/eyes", "pretrained", "tuned", "tuned/answers"]
    assert [row["chain"] for row in rows.values()] == ["", "", "1 + 2", "1 + 2 → 3", "1 + 2 → 3 → 4"]
    assert rows["tuned/answers"]["read"] == f"4: sha256 {'c' * 64}" and rows["tuned/answers"]["did"] == "predict"
    read = f"1: text encoder, sha256 {'a' * 64}; 2: vision encoder, commit fedcba9876543210, sha256 {'e' * 64}"
    assert rows["pretrained"]["read"] == read and rows["org/eyes"]["told_by"] == "pretrained"
    one = rows["pretrained"]
    assert (one["objectives"], one["frozen"], one["data"], one["rows"]) == (
        "mlm, itm",
        "text",
        "./data_of_pretrained",
        "40",
    )
    assert (one["seed"], one["samples"], one["version"], one["commit"]) == ("7", "12345", "0.1.0", COMMIT)
    assert one["started"].startswith("2026-11-27") and one["uncommitted_changes"] == "True" and one["told_by"] == ""
    with pytest.raises(SystemExit):
        study(["provenance", str(chain)])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| 4. tuned |"))
    assert "| 1 + 2 → 3 | NLVR2, train, eval | ./data_of_tuned (40 rows) |" in line
    assert "| 7 | 12,345 | 0.1.0 0123456789ab with changes | 2026-11-27 | 3: sha256 bbbbbbbbbbbb |" in line


def test_a_chain_goes_on_behind_an_encoder_that_was_taken_out_of_a_model(chain, capsys):
    pretrained = RunRecord.read(chain / "pretrained")
    history = started_from(pretrained, "b" * 64)
    tower = record_of("tower", "", history, did=["convert"], script="renaissance encoder")
    tower.write(chain / "tower")
    record_of("glue", "GLUE", started_from(tower, "d" * 64, "encoder")[:1]).write(chain / "glue")
    rows = table_of(capsys, str(chain))
    numbers = {name: row["number"] for name, row in rows.items()}
    told = f"{numbers['words']} + {numbers['org/eyes']} → {numbers['pretrained']}"
    assert rows["tower"]["chain"] == told and rows["glue"]["chain"] == f"{told} → {numbers['tower']}"


@pytest.mark.parametrize("gone", [["pretrained"], ["words", "pretrained"], ["words", "pretrained", "tuned"]])
def test_what_is_gone_is_told_by_the_records_of_others(chain, capsys, gone):
    answers = RunRecord.read(chain / "tuned", "answers.run.json")
    for name in gone:
        shutil.rmtree(chain / name)
    answers.write(chain / "elsewhere", "answers.run.json")
    rows = table_of(capsys, str(chain))
    assert {f"./{name}" for name in gone} < rows.keys() and not rows.keys() & set(gone)
    for name in gone:
        one = rows[f"./{name}"]
        assert one["told_by"] in ("tuned", "elsewhere/answers", "tuned/answers") and one["samples"] == "12345"
        assert one["commit"] == COMMIT and one["did"] == ""
    assert rows["elsewhere/answers"]["chain"] == "1 + 2 → 3 → 4"
    with pytest.raises(SystemExit):
        study(["provenance", str(chain)])
    assert f"./{gone[0]} (not here; " in capsys.readouterr().out


def test_places_are_joined_and_another_run_in_a_folder_of_that_name_is_not_taken(chain, capsys):
    """A run that has been made again in the same place is another one."""
    other = record_of("pretrained", "Pretraining", [], run_id="another")
    other.write(chain / "pretrained")
    rows = table_of(capsys, str(chain / "tuned"), str(chain / "pretrained"))
    assert rows["pretrained"]["run_id"] == "another" and rows["./pretrained"]["run_id"] == "id-pretrained"
    assert rows["tuned"]["chain"] == "1 + 2 → 3" and list(rows)[:3] == ["./words", "org/eyes", "./pretrained"]


def test_copies_and_circles_have_an_end():
    one, other = record_of("one", "NLVR2", []), record_of("other", "NLVR2", [])
    one.history, other.history = started_from(other, "a"), started_from(one, "b")[:1]
    rows = rows_of(links_of([("one", one), ("copy", one), ("other", other), ("itself", record_of("x", "NLVR2", []))]))
    assert sorted(row["run"] for row in rows) == ["copy", "itself", "one", "other"]
    own = record_of("own", "NLVR2", [])
    own.history = started_from(own, "a")
    assert [row["run"] for row in rows_of(links_of([("own", own)]))] == ["own"]


def test_the_page_of_a_run_has_its_chain(chain, tmp_path):
    run = Run.read(chain / "tuned")
    text = run_page(run, tmp_path / "report.html", 0)
    assert "What came before" in text and "3: sha256 bbbbbbbbbbbb" in text
    assert "./pretrained (not here; tuned tells)" in text and "objectives: mlm, itm; frozen: text" in text


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{chain}/empty", "empty: there is no run in it or below it (no run.json that can be read)"),
        ("{chain}/nowhere", "nowhere: no such file or folder"),
        ("{chain}/broken", "broken: there is no run in it or below it (no run.json that can be read)"),
    ],
)
def test_mistakes(chain, refused, place, message):
    (chain / "empty").mkdir()
    (chain / "broken").mkdir()
    (chain / "broken" / "run.json").write_text('{"format": 1, "history": [1]}')
    assert message in refused(study, ["provenance", place.format(chain=chain)])


def test_a_broken_record_is_left_out_and_named(chain, capsys, caplog):
    rows = table_of(capsys, str(chain))
    (chain / "broken").mkdir()
    (chain / "broken" / "run.json").write_text('{"format": 1, "history": [1]}')
    assert table_of(capsys, str(chain)) == rows
    assert f"left out: {chain / 'broken' / 'run.json'}: not the record of a run" in caplog.text


def test_the_data_of_an_evaluation_are_those_that_it_evaluated():
    """All splits together; the data of a training are those that it trained on."""
    data = [DataSplit("validation", ["./nlvr2"], 30), DataSplit("test", ["./nlvr2", "org/more"], 20)]
    evaluated = record_of("evaluated", "NLVR2", [], did=["eval", "predict"])
    trained = record_of("trained", "NLVR2", [])
    trained.data, evaluated.data = [*trained.data, *data], data
    rows = {row["run"]: row for row in rows_of(links_of([("evaluated", evaluated), ("trained", trained)]))}
    assert (rows["evaluated"]["data"], rows["evaluated"]["rows"]) == ("./nlvr2, org/more", 50)
    assert (rows["trained"]["data"], rows["trained"]["rows"]) == ("./data_of_trained", 40)


def digest_in(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_conversion_says_what_it_was_made_of(tmp_path):
    tiny_vilt(tmp_path / "vilt", "ViltModel")
    convert("vilt", "--source", tmp_path / "vilt", "--output", tmp_path / "ours")
    record = RunRecord.read(tmp_path / "ours")
    assert (record.did, record.started_from, record.status) == (["convert"], "./vilt", "finished")
    digests = [digest_in(tmp_path / name) for name in ("ours", "vilt")]
    first, second = read_history(str(tmp_path / "ours"))
    assert (first.name, first.run_id, first.digest) == ("./ours", record.run_id, digests[0])
    assert (second.name, second.part, second.digest) == ("./vilt", "", digests[1])
    tuned = record_of("tuned", "NLVR2", [first, second])
    tuned.status = "finished"
    tuned.write(tmp_path / "tuned")
    assert [entry.variant for entry in entries_in(tmp_path)[0]] == ["tuned"]
    assert "<h1>tuned" in folder_page(tmp_path, tmp_path / "report.html", 0)
    assert "converted by renaissance convert" in folder_page(tmp_path / "ours", tmp_path / "report.html", 0)
    rows = rows_of(links_of([("tuned", tuned), ("ours", record)]))
    assert [(row["run"], row["chain"]) for row in rows] == [("./vilt", ""), ("ours", "1"), ("tuned", "1 → 2")]


def test_the_digest_of_several_files_is_that_of_what_sha256sum_prints(tmp_path):
    model = tiny_model("two-tower")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    names = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    printed = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True).stdout
    assert len(names) > 2 and digest_of_weights(str(tmp_path)) == hashlib.sha256(printed).hexdigest()
    assert digest_of_weights(str(tmp_path / "nowhere")) is None


@pytest.mark.slow
def test_real_runs_from_an_encoder_to_answers(shapes, tokenizer_folder, tmp_path, capsys):
    """An encoder of one's own, pretraining, finetuning and a prediction, also when a folder in the middle is gone."""
    runs = tmp_path / "runs"
    argv = ["text", "--dataset", str(shapes / "captions"), "--tokenizer", str(tokenizer_folder), "--overrides", TINY]
    train_encoder([*argv, "--output", str(runs / "words"), "--max_steps", "2", "--batch_size", "8", "--seed", "3"])
    quiet = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--per_device_train_batch_size", "8"]
    model = ["--text_encoder", str(runs / "words"), "--vision_encoder", "vit", "--random_init_vision"]
    model += ["--vision_overrides", TINY_VIT, "--cross_modal_hidden_size", "32", "--cross_modal_layers", "1"]
    model += ["--cross_modal_heads", "2", "--tokenizer", str(tokenizer_folder), "--freeze", "text"]
    argv = [*model, *quiet, "--train_datasets", str(shapes / "captions"), "--do_train", "--max_steps", "2"]
    run_task(Pretraining, "", [*argv, "--output_dir", str(runs / "pretrained"), "--save_steps", "1"])
    argv = ["--model_name_or_path", str(runs / "pretrained" / "checkpoint-1"), "--dataset", str(shapes / "snli_ve")]
    argv += [*quiet, "--do_train", "--max_steps", "2"]
    run_task(SNLIVE, "", [*argv, "--output_dir", str(runs / "tuned")])
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    question = ["predict", str(runs / "tuned"), "--image", str(tmp_path / "picture.png"), "--text", "a red circle"]
    renaissance([*question, "--output", str(runs / "answers.csv")])
    capsys.readouterr()
    digests = {name: digest_in(runs / name) for name in ("words", "tuned", "pretrained/checkpoint-1")}
    rows = table_of(capsys, str(runs))
    words = RunRecord.read(runs / "words")
    assert (words.task, words.steps, words.samples, words.seed) == (
        "fill-mask",
        2,
        16,
        3,
    ) and words.status == "finished"
    assert rows["words"]["samples"] == "16" and rows["pretrained"]["frozen"] == "text"
    assert rows["pretrained"]["read"] == f"1: text encoder, sha256 {digests['words']}"
    assert rows["tuned"]["read"] == f"2: sha256 {digests['pretrained/checkpoint-1']}"
    assert rows["runs"]["chain"] == "1 → 2 → 3" and rows["runs"]["read"] == f"3: sha256 {digests['tuned']}"
    shutil.rmtree(runs / "pretrained")
    gone = table_of(capsys, str(runs))
    assert gone["runs"]["chain"] == "1 → 2 → 3" and "./checkpoint-1" in gone and gone["words"] == rows["words"]
    assert gone["./checkpoint-1"]["steps"] == "1" and gone["./checkpoint-1"]["objectives"] == "mlm, itm"
    assert [name for name, _ in records_below(runs)] == ["runs", "tuned", "words"]
