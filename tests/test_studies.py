"""Studies: the runs that a file asks for, which of them are shared, and how they are run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from renaissance.commands.study import main
from renaissance.studies.baselines import BASELINES
from renaissance.studies.checks import check_runs
from renaissance.studies.costs import expected_cost
from renaissance.studies.plan import Run, runs_of
from renaissance.studies.running import share_of
from renaissance.studies.slurm import sbatch_script
from renaissance.studies.spec import Study
from renaissance.tasks.run_record import RunRecord


STUDY = """
output_dir: {folder}/out
seeds: [1, 2]
stages:
  pretraining:
    command: pretrain
    recipe: pretrain_shapes_two_tower
    options: {{use_cpu: true}}
  nlvr2: {{command: nlvr2, recipe: nlvr2_shapes, from: pretraining}}
  glue: {{command: glue, recipe: glue_shapes, from: pretraining, seeds: false}}
axes:
  objectives:
    both: {{}}
    mlm | alone: {{pretraining: {{objectives: [mlm]}}}}
  nlvr2.learning_rate: [1.0e-4, 1.0e-3]
"""


def study_of(text: str, folder: Path) -> Study:
    path = folder / "study.yaml"
    path.write_text(text.replace("{folder}", str(folder)).replace("{{", "{").replace("}}", "}"))
    return Study.read(str(path))


def by_stage(runs: list[Run]) -> dict[str, list[Run]]:
    return {
        name: [run for run in runs if run.stage.name == name] for name in dict.fromkeys(r.stage.name for r in runs)
    }


def test_variants_share_the_runs_that_they_have_in_common(tmp_path):
    """Objectives x learning rates x seeds are eight finetunings; rates share their pretraining, and GLUE that of its seed."""
    study = study_of(STUDY, tmp_path)
    runs = runs_of(study)
    found = by_stage(runs)
    assert {name: len(each) for name, each in found.items()} == {"pretraining": 4, "nlvr2": 8, "glue": 4}
    assert len({run.key for run in runs}) == len({run.folder for run in runs}) == 16
    assert all(len(run.variants) == 2 for run in found["pretraining"])
    assert all(len(run.variants) == 1 for run in found["nlvr2"])
    for run in found["nlvr2"]:
        (start,) = run.before
        assert start.seed == run.seed and runs.index(start) < runs.index(run)
        assert run.options["model_name_or_path"] == str(start.folder)
        assert (start.options.get("objectives") == ["mlm"]) == (run.variants[0]["objectives"] == "mlm | alone")
    one = found["nlvr2"][-1]
    assert one.folder.parent == tmp_path / "out" / "nlvr2" and one.name == f"mlm_alone-1.0e-3-seed2-{one.key}"
    assert one.argv[:2] == ["nlvr2", "nlvr2_shapes"] and one.argv[-2:] == ["--output_dir", str(one.folder)]
    assert {"--learning_rate=1.0e-3", "--seed=2", f"--model_name_or_path={one.before[0].folder}"} < set(one.argv)


def test_a_run_has_the_key_of_what_it_does(tmp_path):
    """However its options are written or called, and wherever the study lies; anything else has another, and what starts from it too."""
    keys = [run.key for run in runs_of(study_of(STUDY, tmp_path))]
    same = STUDY.replace("1.0e-4", "0.0001").replace("mlm | alone", "other").replace("/out", "/elsewhere")
    assert [run.key for run in runs_of(study_of(same, tmp_path))] == keys
    other = study_of(STUDY.replace("{{use_cpu: true}}", "{{use_cpu: true, max_steps: 7}}"), tmp_path)
    assert not {run.key for run in runs_of(other)} & set(keys)


def test_the_folder_of_a_run_is_found_when_its_label_has_changed(tmp_path):
    run = runs_of(study_of(STUDY, tmp_path))[0]
    run.folder.mkdir(parents=True)
    renamed = runs_of(study_of(STUDY.replace("both:", "sum:"), tmp_path))
    assert renamed[0].folder == run.folder and "--output_dir" in renamed[0].argv


def test_a_variant_may_leave_out_a_stage_and_take_another_recipe(tmp_path):
    text = STUDY.replace("both: {{}}", "both: {{glue: null, nlvr2: {{recipe: nlvr2_small}}}}")
    found = by_stage(runs_of(study_of(text, tmp_path)))
    assert len(found["glue"]) == 2 and {run.words[1] for run in found["nlvr2"]} == {"nlvr2_small", "nlvr2_shapes"}


def test_options_that_stages_share_are_written_once(tmp_path):
    """As YAML has it, by an anchor; a stage's own option wins, and an option that a stage itself has twice is a mistake."""
    text = """
output_dir: {folder}/out
stages:
  cola: {{command: glue, recipe: glue, options: &all {{task_name: cola, encoder: bert, architecture: one-tower}}}}
  mrpc: {{command: glue, recipe: glue, options: {{<<: *all, task_name: mrpc}}}}
axes:
  rate:
    low: {{cola: &low {{learning_rate: 1.0e-5, seed: 3}}, mrpc: *low}}
    high: {{cola: &high {{<<: *low, learning_rate: 1.0e-3}}, mrpc: *high}}
"""
    runs = by_stage(runs_of(study_of(text, tmp_path)))
    for name, own in runs.items():
        assert [run.options["task_name"] for run in own] == [name, name]
        assert [(run.options["learning_rate"], run.options["seed"]) for run in own] == [(1e-5, 3), (1e-3, 3)]
        assert {run.options["encoder"] for run in own} == {"bert"}
    with pytest.raises(ValueError, match="task_name is there twice, in lines 5 and 5; leave out one"):
        study_of(text.replace("<<: *all, task_name: mrpc", "<<: *all, task_name: mrpc, task_name: rte"), tmp_path)


def test_a_stage_has_the_baselines_that_it_asks_for(tmp_path):
    """Evaluations start from its own runs, one each; blind trainings from what these start from, and with all their options."""
    text = STUDY.replace(
        "recipe: nlvr2_shapes, from: pretraining}}",
        "recipe: nlvr2_shapes, from: pretraining, options: {{num_train_epochs: 2}}, baselines: [text_removed, trained_without_image]}}",
    ).replace("objectives: [mlm]}}", "objectives: [mlm]}}, nlvr2_trained_without_image: null")
    study = study_of(text, tmp_path)
    assert [*study.stages] == ["pretraining", "nlvr2", "nlvr2_text_removed", "nlvr2_trained_without_image", "glue"]
    runs = runs_of(study)
    found = by_stage(runs)
    check_runs(study, [run for name in found if name.startswith("nlvr2_") for run in found[name][:1]])
    # All others are as without them.
    assert [run.key for run in runs if not run.stage.of] == [
        run.key
        for run in runs_of(
            study_of(
                text.replace(", baselines: [text_removed, trained_without_image]", "").replace(
                    ", nlvr2_trained_without_image: null", ""
                ),
                tmp_path,
            )
        )
    ]
    assert len(found["nlvr2_text_removed"]) == 8 and len(found["nlvr2_trained_without_image"]) == 4
    for base, run in zip(found["nlvr2"], found["nlvr2_text_removed"], strict=True):
        assert run.before == [base] and run.variants == base.variants and run.seed == base.seed
        changed = {name for name, value in run.options.items() if value != base.options.get(name)}
        assert changed == {"do_train", "remove_input", "model_name_or_path"}
        assert run.options["do_train"] is False and run.options["model_name_or_path"] == str(base.folder)
    by_place = {(str(run.variants), run.seed): run for run in found["nlvr2"]}
    for run in found["nlvr2_trained_without_image"]:
        base = by_place[str(run.variants), run.seed]
        assert run.before == base.before and run.name.rpartition("-")[0] == base.name.rpartition("-")[0]
        assert {name for name, value in run.options.items() if value != base.options.get(name)} == {"remove_input"}
        assert run.options["remove_input"] == "image" and run.options["num_train_epochs"] == 2
        assert run.folder.parent == tmp_path / "out" / "nlvr2_trained_without_image"
    costs = {expected_cost(run, runs, 10.0) for run in found["nlvr2_text_removed"]}
    assert {seconds for seconds, _ in costs} == {0.0}


def test_the_model_of_a_stage_that_builds_one_is_evaluated_without_an_input(tmp_path):
    """Options of a new model are not those of the evaluation."""
    study = study_of(
        """
output_dir: {folder}/out
stages:
  vqa:
    command: vqa
    baselines: [image_removed]
    options: {{dataset: x, do_train: true, do_eval: true, text_encoder: bert, random_init_text: true, vision_encoder: vit, random_init_vision: true}}
""",
        tmp_path,
    )
    base, evaluated = runs_of(study)
    check_runs(study, [base, evaluated])
    assert base.options["text_encoder"] == "bert" and evaluated.options.get("text_encoder") is None


@pytest.mark.parametrize("jobs", [1, 2, 3, 7, 40])
def test_jobs_share_the_runs_of_a_study(tmp_path, jobs):
    """Each has what its runs start from; each run that no other starts from is of one job."""
    runs = runs_of(study_of(STUDY, tmp_path))
    shares = [share_of(runs, index, jobs) for index in range(jobs)]
    keys = [run.key for share in shares for run in share if not any(run in each.before for each in runs)]
    assert len(keys) == len(set(keys)) == 12
    assert {run.key for share in shares for run in share} == {run.key for run in runs}
    assert all(start in share for share in shares for run in share for start in run.before)


def test_a_dry_run_prints_each_command_and_writes_nothing(tmp_path, capsys):
    study = study_of(STUDY, tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["run", str(study.path), "--dry_run", "--rate", "100"])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0 and len([line for line in lines if " renaissance " in line]) == 16
    # 800 steps of 64 pairs at 100 a second.
    pretrainings = [line for line in lines if "renaissance pretrain " in line]
    assert len(pretrainings) == 4 and all(line.strip().startswith("8 min 32 s  ") for line in pretrainings)
    # And of all: 4 times 512 s; of GLUE, whose data is not there, nothing is known.
    assert "  pretraining: 4 to run, 34 min 08 s" in lines and "  glue: 4 to run, ?" in lines
    assert not (tmp_path / "out").exists()


def test_some_seeds_of_a_study_are_run_alone(tmp_path, capsys):
    """By every action, in the same folders as those of all seeds; a seed that the study lacks is a mistake."""
    study = study_of(STUDY, tmp_path)
    runs = runs_of(study)
    some = runs_of(study.of_seeds([2]))
    # Those of GLUE have no seed of their own, but start from the pretraining of a seed.
    assert {run.key for run in some} == {
        run.key for run in runs if 2 in (run.seed, *(each.seed for each in run.before))
    }
    with pytest.raises(SystemExit) as end:
        main(["run", str(study.path), "--dry_run", "--seeds", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0 and len([line for line in lines if " renaissance " in line]) == len(some) == 8
    assert "--seeds 2 --jobs 3 " in sbatch_script(study, 3, [], [2])
    for action in (["run"], ["table"], ["compare"], ["launch", "--slurm", "--jobs", "2"]):
        with pytest.raises(SystemExit) as end:
            main([action[0], str(study.path), *action[1:], "--seeds", "1", "7"])
        assert end.value.code == 2 and "seeds: study " in (told := capsys.readouterr().err)
        assert "has no seed 7; expected any of 1, 2" in told and told.count("\n") == 1
    with pytest.raises(ValueError, match="has no seed 1; it names none"):
        study_of(STUDY.replace("seeds: [1, 2]\n", ""), tmp_path).of_seeds([1])
    (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["table", str(tmp_path / "runs"), "--seeds", "1"])
    assert end.value.code == 2 and "seeds: without effect on a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "run_scripts" / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_studies_that_ship_ask_for_runs_that_can_be(path):
    """All options of each run go together, as the command itself finds before it reads data. Of one seed, for others have the same."""
    study = Study.read(path.stem)
    study = study.of_seeds(list(study.seeds[:1]) or None)
    check_runs(study, runs_of(study))


def run_in_process(path: Path, *more: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["run", str(path), *more])
    return end.value.code


#: Preparations stand for runs: they end with the same codes, and are over in seconds.
CHAIN = """
output_dir: {folder}/out
stages:
  data:
    command: prepare shapes
    options: {{num_train: 4, num_validation: 2, num_test: 2, only: [glue, captions], splits: [train]}}
  model:
    command: pretrain
    recipe: pretrain_shapes_two_tower
    options: {{train_datasets: ["{data}/captions"], tokenizer: "{data}/tokenizer", max_steps: 1, do_eval: false, use_cpu: true}}
axes:
  steps:
    one: {{}}
    broken: {{data: {{only: [glue]}}}}
"""


@pytest.mark.slow
def test_a_study_goes_on_when_a_run_fails_and_does_what_is_left(tmp_path, capsys):
    study = study_of(CHAIN, tmp_path)
    assert run_in_process(study.path, "--jobs", "2") == 1
    out = capsys.readouterr().out
    assert ("failed: model broken: " in out and "expected a folder" in out) or "captions" in out
    notes = {
        run.name.split("-")[0]: json.loads(run.folder.with_name(f"{run.folder.name}.json").read_text())
        for run in runs_of(study)
        if run.stage.name == "model"
    }
    assert notes["one"]["status"] == "done" and notes["broken"]["status"] == "failed"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert run_in_process(study.path) == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")} == before != {}


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on(tmp_path):
    """Time and again, by the signal of a scheduler: each run ends once, and the weights are those of a study that was never stopped."""
    text = CHAIN.replace("max_steps: 1,", "max_steps: 6, logging_steps: 1,").replace(
        "broken: {{data: {{only: [glue]}}}}", "other: {{model: {{seed: 5}}}}"
    )
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    whole, stopped = (study_of(text, tmp_path / folder) for folder in ("whole", "stopped"))
    command = [sys.executable, "-m", "renaissance_cli", "study", "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run([*command, str(whole.path)], env=environment).returncode == 0
    codes = []
    for marks in (["study.yaml"], ["step 2/6"], ["step 4/6"]):
        process = subprocess.Popen([*command, str(stopped.path)], env=environment)
        while (
            process.poll() is None
            and not any(mark in shown(stopped.output_dir) for mark in marks)
            and marks[0] != "study.yaml"
        ):
            time.sleep(0.05)
        time.sleep(2 if marks[0] == "study.yaml" else 0)
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(120))
    assert codes[1:] == [75, 75], codes
    assert subprocess.run([*command, str(stopped.path)], env=environment).returncode == 0
    for run, same in zip(runs_of(whole), runs_of(stopped), strict=True):
        assert run.key == same.key
        for file in run.folder.rglob("model.safetensors"):
            if "checkpoint-" not in str(file.relative_to(run.folder)):
                assert file.read_bytes() == (same.folder / file.relative_to(run.folder)).read_bytes()


def shown(folder: Path) -> str:
    """What the logs of all runs have so far."""
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*.log"))


#: A study whose finetuning is over in seconds.
WITH_BASELINES = """
output_dir: {folder}/out
stages:
  data: {{command: prepare shapes, options: {{num_train: 48, num_validation: 32, num_test: 16, only: [captions, nlvr2]}}}}
  pretraining:
    command: pretrain
    recipe: pretrain_shapes_two_tower
    options: {{train_datasets: ["{data}/captions"], tokenizer: "{data}/tokenizer", max_steps: 1, do_eval: false, use_cpu: true}}
  nlvr2:
    command: nlvr2
    recipe: nlvr2_shapes
    from: pretraining
    options: {{dataset: "{data}/nlvr2", num_train_epochs: 1, use_cpu: true}}
    baselines: [text_removed, image_removed, trained_without_text, trained_without_image]
"""


@pytest.mark.slow
def test_a_study_runs_its_baselines(tmp_path, capsys):
    """One command makes them, each with its own inputs; their metrics stand in one column, and their rows can be compared."""
    study = study_of(WITH_BASELINES, tmp_path)
    assert run_in_process(study.path) == 0
    runs = {run.stage.name: run for run in runs_of(study)}
    records = {name: RunRecord.read(run.folder) for name, run in runs.items() if name.startswith("nlvr2")}
    inputs = {name: (record.options.get("remove_input"), "train" in record.did) for name, record in records.items()}
    assert inputs == {
        "nlvr2": (None, True),
        "nlvr2_text_removed": ("text", False),
        "nlvr2_image_removed": ("image", False),
        "nlvr2_trained_without_text": ("text", True),
        "nlvr2_trained_without_image": ("image", True),
    }
    assert len({record.of_split("validation").fingerprint for record in records.values()}) == 1
    # Without its words, the model answers each pair by its images alone.
    losses = {name: next(m.value for m in record.metrics if m.name == "eval_loss") for name, record in records.items()}
    assert len(set(losses.values())) == 5
    # Without images, what is trained takes the same operations, but for shorter texts.
    flops = {name: record.flops for name, record in records.items()}
    assert flops["nlvr2_text_removed"] is None and flops["nlvr2_trained_without_image"] == flops["nlvr2"]
    assert 0 < flops["nlvr2_trained_without_text"] < flops["nlvr2"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["table", str(study.path)])
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["---", "all", *(f"all ({each.title})" for each in BASELINES.values()), "(majority)"]
    with pytest.raises(SystemExit):
        main(["compare", str(study.path)])
    assert "| all (text removed) |" in capsys.readouterr().out
