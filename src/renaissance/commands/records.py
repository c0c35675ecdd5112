"""
The records of commands that are no task: of a prediction, beside the file of its answers, of a conversion, and of an encoder that is taken
out of a model. They say what was asked, of which model, and on which machine.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from transformers import PreTrainedModel

from ..model_cards.lineage import commit_of, encoder_history, read_history
from ..modeling.encoders import at_revision, source_name
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
        start: Hub id, perhaps with a revision (`org/name@v1`), or folder of its checkpoint.
        options: The options of the command line that are not at their defaults.
        data: What it was asked.
        begun: When that began, by `time.time`.
    """
    start, chosen = at_revision(start)
    revision = commit_of(start, chosen.get("revision"))
    times = {name: as_text(at) for name, at in (("started", begun), ("finished", time.time()))}
    return RunRecord(
        name=options["output"],
        run_id=uuid4().hex,
        status="finished",
        did=["predict"],
        task=task,
        script=SCRIPT,
        duration_seconds=round(time.time() - begun, 3),
        precision=str(model.dtype).removeprefix("torch."),
        peak_memory_bytes=machine.peak_memory(),
        peak_gpu_memory_bytes=machine.peak_gpu_memory(model.device),
        started_from=source_name(start),
        started_from_revision=revision,
        history=read_history(start, revision),
        options=public(options),
        data=[data],
        **machine.facts(model.device),
        **of_model(model),
        **times,
    )


def conversion_record(model: PreTrainedModel, source: str, name: str, options: dict[str, Any]) -> RunRecord:
    """
    Return the record of a conversion that has ended.

    Args:
        model: The model that came out.
        source: Hub id, perhaps with a revision (`org/name@v1`), or folder of the checkpoint that was converted.
        name: The name of the folder that the model is written to.
        options: The options of the command line.
    """
    start, chosen = at_revision(source)
    revision = commit_of(start, chosen.get("revision"))
    now, options = as_text(time.time()), {key: value for key, value in options.items() if value}
    encoders = encoder_history(model.config, {part: options.get(f"{part}_encoder") for part in ("text", "vision")})
    return RunRecord(
        name=name,
        run_id=uuid4().hex,
        status="finished",
        did=["convert"],
        script="renaissance convert",
        started=now,
        finished=now,
        started_from=source_name(start),
        started_from_revision=revision,
        history=[*encoders, *read_history(start, revision)],
        seed=options.get("seed", 0),
        options=public(options),
        **machine.facts(model.device),
        **of_model(model),
    )


def extraction_record(
    encoder: PreTrainedModel, model: PreTrainedModel, source: str, name: str, options: dict[str, Any]
) -> RunRecord:
    """
    Return the record of an encoder that has been taken out of a model.

    Args:
        encoder: The encoder.
        model: The model.
        source: Hub id, perhaps with a revision (`org/name@v1`), or folder of the model's checkpoint.
        name: The name of the folder that the encoder is written to.
        options: The options of the command line.
    """
    whole = conversion_record(model, source, name, options)
    parameters = {
        "parameters": encoder.num_parameters(),
        "trainable_parameters": encoder.num_parameters(only_trainable=True),
    }
    return replace(
        whole,
        script="renaissance encoder",
        model_class=type(encoder).__name__,
        model_type=encoder.config.model_type,
        frozen=[],
        weights_from={},
        **parameters,
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
