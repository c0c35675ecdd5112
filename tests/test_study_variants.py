"""Which runs of a folder are seeds of one variant, and which values and runs a table cannot have."""

import csv
import io
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TWO_TOWER
from study_folders import finish_all, runs_by, write_study
from test_study_tables import accuracy, write_run

from renaissance.commands.study import main
from renaissance.reports.examples import Places
from renaissance.studies.intervals import interval_of
from renaissance.studies.notes import place_of
from renaissance.studies.paired import partner_of
from renaissance.studies.results import columns_of, entries_in
from renaissance.studies.tables import as_csv, markdown, write_parquet
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.run_record import Ancestor, DataSplit, MetricValue, RunRecord
from renaissance.tasks.runner import run_task


def pretrain(folder: Path, seed: int, **options) -> Ancestor:
    """Leave a pretraining, with these options; return it as what a finetuning starts from."""
    write_run(folder, 0.5, seed, **options)
    record = RunRecord.read(folder)
    record.task, record.run_id, record.metrics = "Pretraining", f"id of {folder.name}", []
    record.write(folder)
    return record.as_ancestor(f"./{folder.name}")


def tune(folder: Path, value: float, seed: int, *history: Ancestor, fingerprint: str = "same", **changes) -> None:
    """Leave a finetuning, or with `did` an evaluation, of what came before it."""
    write_run(folder, value, seed, fingerprint, model_name_or_path=history[0].name if history else None)
    record = RunRecord.read(folder)
    replace(record, history=list(history), run_id=f"id of {folder.name}", **changes).write(folder)


def tuned(folder: Path) -> dict[str, list[str]]:
    """The variants of NLVR2 below a folder, with the names of their runs."""
    found: dict[str, list[str]] = {}
    for entry in entries_in(folder)[0]:
        if entry.stage == "NLVR2":
            found.setdefault(entry.variant, []).append(entry.folder.name)
    return found


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
def test_finetunings_of_different_pretrainings_are_different_variants(tmp_path, seeds):
    for name, seed in zip(("mlm", "itm"), seeds, strict=True):
        tune(tmp_path / f"tuned_{name}", 0.6, seed, pretrain(tmp_path / name, 0, objectives=[name]))
    assert tuned(tmp_path) == {"tuned_mlm": ["tuned_mlm"], "tuned_itm": ["tuned_itm"]}


def test_evaluations_of_different_models_are_different_variants(tmp_path):
    """Of models that are gone, of which the records of the evaluations alone tell."""
    for name in ("mlm", "itm"):
        start = Ancestor("./tuned", run_id=f"id of {name}", seed=1)
        tune(tmp_path / name, 0.6, 0, start, did=["eval"], steps=None)
    assert tuned(tmp_path) == {"mlm": ["mlm"], "itm": ["itm"]}


def test_seeds_of_pretraining_are_seeds_of_what_starts_from_it(tmp_path):
    """Whether the finetuning, or the evaluation of one, has a seed of its own or always the same."""
    for seed in (1, 2, 3):
        start = pretrain(tmp_path / f"pretrained{seed}", seed, objectives=["mlm"])
        tune(tmp_path / f"tuned{seed}", 0.6, seed, start)
        tune(tmp_path / f"fixed{seed}", 0.6, 9, start)
        model = RunRecord.read(tmp_path / f"fixed{seed}").as_ancestor(f"./fixed{seed}")
        tune(tmp_path / f"evaluated{seed}", 0.6, 0, model, start, did=["eval"])
    # Nine seeds 9 and 1, 1 and 1, ... of the same options are one variant.
    found = tuned(tmp_path)
    assert [len(names) for names in found.values()] == [3, 6] and [*found] == ["evaluated1", "fixed1"]


def test_two_runs_with_the_same_seeds_are_never_one_variant(tmp_path):
    """Also if all that is known of them is the same, as of a copy."""
    for name in ("one", "copy", "other"):
        tune(tmp_path / name, 0.6, 1 + (name == "other"))
    assert tuned(tmp_path) == {"copy": ["copy", "other"], "one": ["one"]}


@pytest.mark.parametrize("known", [{"digest": "abc"}, {"revision": "def"}, {"run_id": "a run elsewhere"}])
def test_foreign_checkpoints_are_known_by_their_weights(tmp_path, known):
    """Seeds of one are one variant; of a checkpoint that only has a name, nobody knows whether it is the same."""
    for seed in (1, 2):
        tune(tmp_path / f"known{seed}", 0.6, seed, Ancestor("./model", **known))
        tune(tmp_path / f"other{seed}", 0.6, seed, Ancestor("./model", **dict.fromkeys(known, "else")))
        tune(tmp_path / f"unknown{seed}", 0.6, seed, Ancestor("./model"))
    assert [len(names) for names in tuned(tmp_path).values()] == [2, 2, 1, 1]


def test_runs_of_different_data_are_different_variants(tmp_path):
    """Two folders of one name are the same option in a record."""
    for name in ("here", "there"):
        tune(tmp_path / name, 0.6, 1 + (name == "there"), fingerprint=name)
    assert [*tuned(tmp_path)] == ["here", "there"]


def test_pretrainings_of_different_data_are_different_origins(tmp_path):
    for name, seed in (("here", 1), ("there", 2)):
        start = pretrain(tmp_path / name, seed)
        record = RunRecord.read(tmp_path / name)
        record.add_data(DataSplit("train", ["./captions"], 40, name))
        record.write(tmp_path / name)
        tune(tmp_path / f"tuned_{name}", 0.6, seed, start)
    assert [*tuned(tmp_path)] == ["tuned_here", "tuned_there"]


def test_encoders_of_different_models_are_different_origins(tmp_path):
    """They were taken out in the same way, and a history of an encoder ends with it. Records in a circle have an end."""
    for name, seed in (("mlm", 1), ("itm", 2)):
        model = pretrain(tmp_path / name, seed, objectives=[name])
        encoder = pretrain(tmp_path / f"encoder_{name}", 0, model="./pretrained")
        record = RunRecord.read(tmp_path / f"encoder_{name}")
        record.history = [model, replace(encoder, part="text")]
        record.write(tmp_path / f"encoder_{name}")
        tune(tmp_path / f"tuned_{name}", 0.6, seed, replace(encoder, part="text"))
    assert [*tuned(tmp_path)] == ["tuned_itm", "tuned_mlm"]


def test_variants_of_one_name_are_told_apart(tmp_path):
    """The run of the folder itself, and one below that has its name."""
    tune(tmp_path / "name", 0.6, 1)
    tune(tmp_path / "name" / "name", 0.7, 2, Ancestor("./model"))
    assert [*tuned(tmp_path / "name")] == ["name", f"name ({tmp_path / 'name'})"]


def test_an_evaluation_is_compared_with_that_of_the_same_seed_of_training(tmp_path):
    for name, seed in (("mlm", 1), ("mlm", 2), ("itm", 2), ("itm", 1), ("itm", 5)):
        start = pretrain(tmp_path / f"{name}{seed}", seed, objectives=[name])
        tune(tmp_path / f"evaluated_{name}{seed}", 0.6, 0, start, did=["eval"])
    entries = [entry for entry in entries_in(tmp_path)[0] if entry.stage == "NLVR2"]
    partners = {
        entry.folder.name: partner_of(entry, entries, "evaluated_mlm1")
        for entry in entries
        if entry.variant != "evaluated_mlm1"
    }
    names = {name: partner and partner.folder.name for name, partner in partners.items()}
    assert names == {"evaluated_itm1": "evaluated_mlm1", "evaluated_itm2": "evaluated_mlm2", "evaluated_itm5": None}


def test_runs_that_are_not_finished_are_left_out_and_named(tmp_path, capsys, refused):
    tune(tmp_path / "whole", 0.6, 1)
    tune(tmp_path / "cut", 0.7, 2, status="running")
    with pytest.raises(SystemExit) as end:
        main(["table", str(tmp_path)])
    told = capsys.readouterr()
    assert end.value.code == 0 and "| cut" not in told.out and "| whole | 0.6 [" in told.out
    assert told.err == "not done yet: cut\n"
    assert "no run in it or below it (1 not finished: cut)" in refused(main, ["table", str(tmp_path / "cut")])


def test_a_broken_record_is_left_out_and_named(tmp_path, caplog):
    tune(tmp_path / "whole", 0.6, 1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text('{"format": 1, "name":')
    with pytest.raises(SystemExit) as end, caplog.at_level(logging.WARNING):
        main(["table", str(tmp_path)])
    assert end.value.code == 0 and str(tmp_path / "broken" / "run.json") in caplog.text


@pytest.mark.parametrize("name", ["run.json", "note"])
def test_a_broken_run_of_a_study_is_left_out_and_named(tmp_path, capsys, caplog, name):
    study = write_study(tmp_path)
    finish_all(study, {(label, seed): 0.7 for label in study.axes["frozen"] for seed in (1, 2)})
    run = runs_by(study)["nlvr2", "nothing", 2]
    path = run.folder / "run.json" if name == "run.json" else place_of(run)
    path.write_text('{"status": "done"')
    with pytest.raises(SystemExit) as end:
        main(["table", str(study.path)])
    told = capsys.readouterr()
    assert end.value.code == 0 and "not done yet: nlvr2 nothing-seed2" in told.err and "| nothing | 0.7" in told.out
    assert f"nlvr2 nothing-seed2 is left out: {path}: " in caplog.text


@pytest.mark.parametrize("lost", [None, float("nan"), "no evaluation"])
def test_a_seed_without_a_value_is_told(tmp_path, caplog, lost):
    """In the cell, for programs, and in a warning. Of a variant without any value the cell says so."""
    for seed in (1, 2):
        tune(tmp_path / f"run{seed}", 0.6, seed)
        tune(tmp_path / f"all{seed}", 0.6, seed, Ancestor("./model", digest="a"))
    for name in ("run2", "all1", "all2"):
        record = RunRecord.read(tmp_path / name)
        metrics = [replace(each, value=None if lost == "no evaluation" else lost) for each in record.metrics]
        record.metrics = [] if lost == "no evaluation" and name == "run2" else metrics
        record.write(tmp_path / name)
    entries, _ = entries_in(tmp_path)
    with caplog.at_level(logging.WARNING):
        columns = columns_of(entries, ["eval_accuracy"])
    lines = markdown(entries, columns).splitlines()
    assert lines[2].startswith("| all1 | no value |")
    assert lines[3].startswith("| run1 | 0.6 [0.53, 0.665] (1 of 2 seeds) |")
    rows = list(csv.DictReader(io.StringIO(as_csv(entries, columns))))
    assert {row["variant"]: (row["mean"], row["runs"], row["runs_without_value"]) for row in rows} == {
        "run1": ("0.6", "1", "1"),
        "all1": ("", "0", "2"),
    }
    assert "NLVR2 validation accuracy: of run1, 1 of 2 runs have no finite value" in caplog.text
    assert "of all1, 2 of 2 runs have no finite value" in caplog.text


def test_columns_for_programs_have_a_type_also_without_values(tmp_path):
    """None of these runs tells its energy, and none is a baseline."""
    tune(tmp_path / "run", 0.6, 1, energy_joules=None)
    entries, _ = entries_in(tmp_path)
    write_parquet(entries, columns_of(entries), tmp_path / "table.parquet")
    schema = pq.read_schema(tmp_path / "table.parquet")
    assert schema.field("Wh").type == pa.float64() and schema.field("input_removed").type == pa.string()
    assert pa.null() not in schema.types


def test_the_interval_of_a_share_ends_at_one_and_that_of_a_loss_does_not():
    """Of 0.9 and 1, Student's t with one degree of freedom reaches from 0.3147 to 1.5853."""
    found = interval_of([accuracy(0.9), accuracy(1.0)])
    assert found.low == pytest.approx(0.3147, abs=1e-4) and found.high == 1.0
    loss = interval_of([MetricValue("eval_loss", "validation", "loss", value) for value in (0.9, 1.0)])
    assert (loss.low, loss.high) == (pytest.approx(0.3147, abs=1e-4), pytest.approx(1.5853, abs=1e-4))


def test_runs_that_have_moved_with_their_data_are_compared(shapes, options, tmp_path, capsys):
    """The options of the runs name the data where they were."""
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(shapes / "nlvr2", old / "data" / "nlvr2")
    argv = [*TWO_TOWER, *options, "--dataset", str(old / "data" / "nlvr2"), "--do_train", "--max_steps", "1"]
    for name in ("one", "other"):
        freeze = ["--freeze", "text"] if name == "other" else []
        run_task(NLVR2, "", [*argv, *freeze, "--do_predict", "--output_dir", str(old / "tuned" / name)])
    old.rename(new)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["compare", str(new / "tuned")])
    assert end.value.code == 0 and "| NLVR2 | test | other |" in capsys.readouterr().out


def test_files_are_found_where_they_have_moved_to(tmp_path, monkeypatch):
    for name in ("there/study/data", "there/elsewhere", "here/elsewhere", "here/near", "there/study/nlvr2/run"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    run = tmp_path / "there" / "study" / "nlvr2" / "run"
    there = tmp_path / "there"
    # A study under another name, from a folder that is gone.
    places = Places.of(run, {"output_dir": "outputs/old/nlvr2/run"})
    assert places.find("outputs/old/data") == there / "study" / "data"
    assert places.find("near") == tmp_path / "here" / "near"
    # Under its own name, with an absolute path.
    places = Places.of(run, {"output_dir": "/gone/study/nlvr2/run"})
    assert places.find("/gone/study/data") == there / "study" / "data" and places.find("/x") == Path("/x")
    # Not moved: as the run was started, from wherever it is looked at.
    assert Places.of(run, {"output_dir": "study/nlvr2/run"}).find("elsewhere") == there / "elsewhere"
    assert Places.of(run, {"output_dir": str(run)}).find("elsewhere") == tmp_path / "here" / "elsewhere"
