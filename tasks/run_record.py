"""The record of a run, `run.json`: what was run, on what, from what, and what came out. Cards, summaries and tables are made of it."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..modeling.encoders import source_name
from ..modeling.fields import described
from .checkpoints import replace_file
from .folder_files import fits, made_of, read_mapping


#: The name of the record in the folder of a run.
FILE_NAME = "run.json"
#: The version of the fields below. It rises when one changes its meaning or goes away.
FORMAT = 1


@dataclass
class DataSplit:
    """The data of one split."""

    split: str = described("", "Name of the split, such as `train`; `examples` are those of `renaissance predict`.")
    sources: list[str] = described([], "Hub ids and files; a folder is `./` and its name.")
    rows: int | None = described(
        None, "Number of rows. An image with several captions is a row for each of them. None of a stream."
    )
    fingerprint: str | None = described(
        None, "A digest of the data itself, the same wherever it lies (see docs/runs.md). None of a stream."
    )
    bad_rows: int = described(
        0, "Number of rows of training data that could not be used and were skipped; `bad_rows.jsonl` lists them."
    )
    parts: list[str] = described([], "The splits that its rows are of, if others than its name says.")


@dataclass
class MetricValue:
    """One metric of one split."""

    name: str = described("", "The name in the log, such as `eval_accuracy`.")
    split: str = described("", "Name of the split, such as `validation`; `train` for the loss of training.")
    metric: str = described("", "The name without what says the split, such as `accuracy`.")
    value: float | None = described(None, "The value; null if it is not a finite number.")
    rows: int | None = described(None, "Number of rows, or of what else the metric counts.")
    baseline: float | None = described(None, "The value that an answer reaches which ignores its input.")
    baseline_kind: str | None = described(None, "What that answer is: majority, chance or constant.")
    lower_is_better: bool = described(False, "Whether a lower value is better, as of a loss.")
    beats_baseline: bool | None = described(None, "Whether the value is better than the baseline.")


@dataclass
class Ancestor:
    """A run that came before: the one whose checkpoint a run started from, or one that this one started from, or made an encoder of it."""

    name: str = described("", "Hub id of its checkpoint; a folder is `./` and its name.")
    revision: str | None = described(None, "Commit on the Hub.")
    run_id: str | None = described(None, "`run_id` of its record.")
    task: str | None = described(None, "What it was trained on.")
    model_class: str | None = described(None, "Class of the model.")
    sources: list[str] = described([], "Its training data.")
    rows: int | None = described(None, "Number of rows of that.")
    steps: int | None = described(None, "Steps of training.")
    samples: int | None = described(None, "Samples seen in training.")
    epochs: float | None = described(None, "Epochs of training.")
    seed: int | None = described(None, "Seed.")
    splits: list[str] = described(["train"], "The splits of that data which it was trained on.")
    objectives: list[str] = described([], "Objectives of pretraining.")
    frozen: list[str] = described([], "Frozen parts.")
    started: str | None = described(None, "When it began, in UTC (ISO 8601).")
    version: str | None = described(None, "Version of renaissance.")
    commit: str | None = described(None, "Commit of the code.")
    uncommitted_changes: bool | None = described(None, "Whether there were changes that are in no commit.")
    part: str = described("", "The encoder of the model that it became, such as `text`; empty of a whole checkpoint.")
    digest: str | None = described(
        None,
        "SHA-256 of the weights as they were read; of several files, of the lines that `sha256sum` prints of them.",
    )


@dataclass
class RunRecord:
    """
    The record of a training, an evaluation or a prediction, or of several in one folder. All fields are plain: text, numbers,
    and lists and dictionaries of these; `data`, `metrics` and `history` are lists of flat rows.
    """

    format: int = described(FORMAT, "Version of these fields.")
    name: str = described(
        "", "Hub id of the model, or the name of the run's folder, or of the file of answers of `renaissance predict`."
    )
    run_id: str = described("", "A random name of the run, by which others refer to it.")
    status: str = described("running", "`running`, also of a run that was killed, or `finished`.")
    did: list[str] = described([], "Any of `train`, `eval`, `predict` and `convert`.")
    task: str = described(
        "",
        "Name of the task's class, such as `NLVR2`; of `renaissance predict` and `renaissance encoder`, that of the pipeline that answers alike.",
    )
    script: str = described("", "The command, such as `renaissance nlvr2`, or the file name of the script.")
    started: str = described("", "When the run began, in UTC (ISO 8601).")
    finished: str | None = described(None, "When it ended.")
    duration_seconds: float = described(
        0.0, "Time of all parts, from loaded data on; of a resumed run, the sum of its sessions."
    )
    train_seconds: float = described(0.0, "Time of training alone, the evaluations in it included.")
    versions: dict[str, str] = described({}, "Versions of python, renaissance, torch, transformers and datasets.")
    commit: str | None = described(None, "Commit of the code, if it is a git checkout.")
    uncommitted_changes: bool | None = described(None, "Whether the checkout had changes that are in no commit.")
    host: str = described("", "Name of the machine.")
    hardware: str = described("", "Processors that the model ran on, such as `1 x NVIDIA A100-SXM4-40GB`.")
    num_processes: int = described(1, "Number of processes.")
    precision: str = described("float32", "bf16, bf16_weights, fp16 or float32.")
    peak_memory_bytes: int | None = described(None, "Most memory of the main process, its data loaders not included.")
    peak_gpu_memory_bytes: int | None = described(
        None, "Most memory that tensors of the main process took on its GPU."
    )
    energy_joules: float | None = described(
        None,
        "Energy of training: of all GPUs, by that of the main process; without one of the machine's processors, other programs included. "
        "None if the machine does not tell it.",
    )
    model_class: str = described("", "Class of the model, such as `TwoTowerForPreTraining`.")
    model_type: str = described("", "Its architecture, such as `renaissance-two-tower`.")
    parameters: int = described(0, "Number of parameters.")
    trainable_parameters: int = described(0, "Number of those that are not frozen.")
    frozen: list[str] = described([], "Frozen parts.")
    weights_from: dict[str, str] = described({}, "The checkpoint of each encoder; one that is not named began random.")
    started_from: str | None = described(
        None, "Hub id of the Renaissance checkpoint that the run started from; a folder is `./` and its name."
    )
    started_from_revision: str | None = described(None, "Its commit on the Hub.")
    history: list[Ancestor] = described(
        [],
        "The runs that led to the model, as far as they are known, the last one first. Those of encoders follow the run that took them in.",
    )
    objectives: list[str] = described([], "Objectives of pretraining.")
    seed: int = described(0, "Seed.")
    batch_size: int | None = described(
        None, "Rows of a step, over all processes and accumulated batches. Only of trainings."
    )
    learning_rate: float | None = described(None, "Highest learning rate. Only of trainings.")
    steps: int | None = described(None, "Steps of training.")
    samples: int | None = described(None, "Samples seen in training: rows, each as often as it was seen.")
    flops: float | None = described(
        None,
        "Floating-point operations of training, over all processes: matrix products, convolutions and attention, forward and backward, "
        "counted in the first batch of each kind, or with max_flops in a few before, and taken to be the same for each row. None of an evaluation.",
    )
    epochs: float | None = described(None, "Epochs of training.")
    resumed_at: list[int] = described([], "Steps at which training was taken up again after an interruption.")
    changes: list[dict[str, Any]] = described(
        [],
        "Options that were changed when training was taken up again: `step`, `option`, and its `old` and `new` value.",
    )
    skipped_steps: int | None = described(
        None, "Steps that were not applied, because their loss, gradients or weights were not finite."
    )
    checkpoint: str | None = described(None, "Which step the saved weights are of, and why, in words.")
    checkpoint_step: int | None = described(None, "The step that the saved weights are of.")
    best_metric: str | None = described(None, "The metric by which that step was chosen; none if it is the last one.")
    best_value: float | None = described(None, "Its value there.")
    options: dict[str, Any] = described({}, "The options that differ from their defaults and matter to a reader.")
    data: list[DataSplit] = described([], "The data of each split.")
    metrics: list[MetricValue] = described([], "The metrics of each split.")

    @classmethod
    def read(cls, folder: str | Path, name: str = FILE_NAME) -> "RunRecord":
        """
        Return the record in the folder of a run. Raise `ValueError` if there is none, or it is not one of this format.
        """
        path = Path(folder) / name
        try:
            content = read_mapping(path)
            if (found := content.get("format")) != FORMAT:
                raise ValueError(f"expected format {FORMAT}, got {found}")
            for name, kind in ROWS.items():
                rows = content.get(name, [])
                if not fits(rows, list[dict[str, Any]]):
                    raise ValueError(f"the entry {name} is no list of rows")
                content[name] = [made_of(kind, row) for row in rows]
            return made_of(cls, content)
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such file; expected the record of a run") from error
        except ValueError as error:
            raise ValueError(f"{path}: not the record of a run ({error})") from error

    @classmethod
    def find(cls, folder: str | Path) -> "RunRecord | None":
        """Return the record in a folder; `None` if it has none. Raise `ValueError` as `read` does."""
        return cls.read(folder) if (Path(folder) / FILE_NAME).exists() else None

    def write(self, folder: str | Path, name: str = FILE_NAME) -> None:
        """Write the record to a folder, as a whole or not at all. Numbers that are not finite become null."""
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(finite(dataclasses.asdict(self)), indent=2, ensure_ascii=False, allow_nan=False)
        replace_file(path, text + "\n")

    @property
    def is_conversion(self) -> bool:
        """Whether it is of a checkpoint that was converted, and of nothing that was done with it since."""
        return self.did == ["convert"]

    def of_split(self, split: str) -> DataSplit | None:
        """Return the data of a split, if the run had it."""
        return next((found for found in self.data if found.split == split), None)

    def add_data(self, found: DataSplit) -> None:
        """Add the data of a split, in place of what the record had of it."""
        self.data = [other for other in self.data if other.split != found.split] + [found]

    def add_metrics(self, values: list[MetricValue]) -> None:
        """Add metrics; those of the same name are replaced."""
        names = {value.name for value in values}
        self.metrics = [other for other in self.metrics if other.name not in names] + values

    def as_ancestor(self, name: str, revision: str | None = None) -> Ancestor:
        """Return this run as one that others start from, by the name of its checkpoint."""
        train = self.of_split("train")
        fields = {
            key: getattr(self, key)
            for key in ("run_id", "task", "model_class", "steps", "samples", "epochs", "seed", "objectives", "frozen")
        }
        fields |= {key: getattr(self, key) for key in ("started", "commit", "uncommitted_changes")}
        data = {"sources": list(train.sources), "rows": train.rows} if train else {}
        if train and train.parts:
            data["splits"] = list(train.parts)
        return Ancestor(name, revision=revision, version=self.versions.get("renaissance"), **data, **fields)


#: The fields that are lists of rows.
ROWS = {"data": DataSplit, "metrics": MetricValue, "history": Ancestor}


def public(value: Any) -> Any:
    """Return the value of an option without the paths of folders and files here, of which the last names are kept."""
    if isinstance(value, dict):
        return {name: public(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(entry) for entry in value]
    return source_name(value) if isinstance(value, str) and "/" in value else value


def of_model(model: PreTrainedModel) -> dict[str, Any]:
    """Return the fields of a record that describe a model."""
    total, trainable = model.count_parameters()["total"]
    return {
        "model_class": type(model).__name__,
        "model_type": model.config.model_type,
        "parameters": total,
        "trainable_parameters": trainable,
        "frozen": list(model.config.frozen),
        "objectives": list(model.config.objectives) if type(model).__name__.endswith("ForPreTraining") else [],
        "weights_from": dict(model.config.weights_from),
    }


def finite(value: Any) -> Any:
    """Return a plain value with `None` for each number in it that is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {str(name): finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float):
        # Also of subclasses, such as scores.
        return float(value) if math.isfinite(value) else None
    return value
