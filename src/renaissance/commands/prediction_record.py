"""The record of a prediction, beside the file of its answers: what was asked, of which model, and on which machine."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from transformers import PreTrainedModel

from ..model_cards.lineage import history_of
from ..modeling.encoders import source_name
from ..tasks import machine
from ..tasks.run_record import FILE_NAME, DataSplit, RunRecord, of_model, public


SCRIPT = "renaissance predict"


def record_of(
    model: PreTrainedModel, task: str, start: str, options: dict[str, Any], data: DataSplit, begun: float
) -> RunRecord:
    """
    Return the record of a prediction that has ended.

    Args:
        model: The model.
        task: The name of the pipeline that answers as it does.
        start: Hub id or folder of its checkpoint.
        options: The options of the command line that are not at their defaults.
        data: What it was asked.
        begun: When that began, by `time.time`.
    """
    revision = getattr(model.config, "_commit_hash", None)
    commit, changed = machine.commit()
    times = {name: as_text(at) for name, at in (("started", begun), ("finished", time.time()))}
    return RunRecord(
        name=options["output"],
        run_id=uuid4().hex,
        status="finished",
        did=["predict"],
        task=task,
        script=SCRIPT,
        duration_seconds=round(time.time() - begun, 3),
        versions=machine.versions(),
        commit=commit,
        uncommitted_changes=changed,
        host=machine.platform.node(),
        hardware=machine.hardware(model.device),
        precision=str(model.dtype).removeprefix("torch."),
        peak_memory_bytes=machine.peak_memory(),
        peak_gpu_memory_bytes=machine.peak_gpu_memory(model.device),
        started_from=source_name(start),
        started_from_revision=revision,
        history=history_of(start, revision),
        options=public(options),
        data=[data],
        **of_model(model),
        **times,
    )


def as_text(seconds: float) -> str:
    """Return a time of `time.time` in UTC (ISO 8601)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def write_record(record: RunRecord, output: Path) -> Path:
    """
    Write the record of the answers in the file `output`, and return its file. It is `run.json` beside the answers. If the folder
    has the record of something else, or a model, whose `run.json` says how it was trained, the file is called after the answers,
    as `answers.run.json`.
    """
    name = FILE_NAME if may_be_usual(output) else f"{output.stem}.{FILE_NAME}"
    record.write(output.parent, name)
    return output.with_name(name)


def may_be_usual(output: Path) -> bool:
    """Return whether `run.json` beside the answers in `output` is free, or the record of answers in that file before."""
    if output.name == FILE_NAME or (output.parent / "config.json").exists():
        return False
    try:
        found = RunRecord.find(output.parent)
    except ValueError:
        return False
    return found is None or (found.script, found.name) == (SCRIPT, output.name)
