"""Studies whose runs have left what runs leave, without being run."""

import json
from pathlib import Path

from renaissance.studies.notes import DONE, Note, log_of
from renaissance.studies.plan import Run, runs_of
from renaissance.studies.spec import Study
from renaissance.tasks.run_record import DataSplit, MetricValue, RunRecord


#: Two variants, one of which has a name that is markup, of two seeds each.
STUDY = """
output_dir: {folder}/out
seeds: [1, 2]
stages:
  data: {command: prepare shapes}
  pretraining: {command: pretrain, recipe: pretrain_shapes_two_tower, options: {train_datasets: ["{data}/captions"]}}
  nlvr2: {command: nlvr2, recipe: nlvr2_shapes, from: pretraining, options: {dataset: "{folder}/pairs"}}
axes:
  frozen:
    nothing: {}
    "<b>text & |": {pretraining: {freeze: [text]}}
"""
#: Floating-point operations and seconds of a run, by stage.
FLOPS, SECONDS = {"pretraining": 3e12, "nlvr2": 1e12}, {"pretraining": 7200.0, "nlvr2": 3600.0}
STEPS = 4


def write_study(folder: Path, text: str = STUDY) -> Study:
    """Write the file of a study."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "freezing.yaml").write_text(text.replace("{folder}", str(folder)))
    return Study.read(str(folder / "freezing.yaml"))


def finish(run: Run, value: float, logged: tuple[str, ...] = ("eval_accuracy",)) -> RunRecord | None:
    """
    Leave what a run with this accuracy leaves when it is done, with the `logged` values in its log, of each of which a page has a picture;
    return its record, if it has one.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    Note(DONE, seconds=60.0).write(run)
    log_of(run).write_text("done\n")
    stage = run.stage.name
    if stage not in FLOPS:
        return None
    before = [each for each in run.before if each.stage.name in FLOPS]
    earlier = RunRecord.read(before[0].folder) if before else None
    ancestors = [earlier.as_ancestor(f"./{before[0].folder.name}"), *earlier.history] if earlier else []
    values = [
        MetricValue("eval_accuracy", "validation", "accuracy", value, 200, 0.5, "majority", False, value > 0.5),
        MetricValue("eval_loss", "validation", "loss", 1 - value, 200, lower_is_better=True),
    ]
    record = RunRecord(
        name=run.folder.name,
        run_id=run.key,
        task={"pretraining": "Pretraining", "nlvr2": "NLVR2"}[stage],
        status="finished",
        did=["train", "eval"],
        seed=run.seed,
        steps=STEPS,
        samples=8 * STEPS,
        train_seconds=SECONDS[stage],
        parameters=1000,
        trainable_parameters=600,
        history=ancestors,
        data=[DataSplit(split, [f"./{stage}"], 200, "same") for split in ("train", "validation")],
        metrics=values,
    )
    record.write(run.folder)
    lines = [
        {"step": step, "loss": 2.0 - value * step / STEPS, "learning_rate": 1e-4 * step}
        for step in range(1, STEPS + 1)
    ]
    lines += [{"step": step, "eval_accuracy": value * step / STEPS} for step in (2, 4)]
    lines = [{name: line[name] for name in ("step", *logged) if name in line} for line in lines]
    state = {"log_history": lines, "total_flos": FLOPS[stage], "global_step": STEPS}
    (run.folder / "trainer_state.json").write_text(json.dumps(state))
    return record


def runs_by(study: Study) -> dict[tuple[str, str, int], Run]:
    """Return the runs of a study by stage, label and seed."""
    return {(run.stage.name, run.variants[0]["frozen"], run.seed): run for run in runs_of(study)}


def finish_all(study: Study, values: dict[tuple[str, int], float], *logged: str) -> None:
    """Finish the runs of all stages that have a value, by label and seed, and preparations."""
    for run in runs_of(study):
        value = values.get((run.variants[0]["frozen"], run.seed))
        if value is not None or run.stage.name not in FLOPS:
            finish(run, value or 0.0, logged or ("eval_accuracy",))
