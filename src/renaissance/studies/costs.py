"""What the runs of a study are expected to cost, before they run."""

import math
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq

from ..benchmarks.experiments import FASTEST, measured_on_h100
from .notes import DONE, Note
from .plan import Run, is_task


#: Rows of the public training splits, by command, where the data are not there to be counted (Suhr et al. 2019; Xie et al. 2019;
#: Yu et al. 2016).
PUBLIC_ROWS = {"nlvr2": 86_373, "snli-ve": 529_527, "refcoco": 120_624}
#: Rows that `renaissance prepare shapes` writes for training, unless it is told otherwise.
SHAPES_ROWS = 8000
#: The models whose rates were measured on an H100, by a part of the name of their text encoder.
MEASURED = {"electra-small": "small", "electra-base": "base"}


def expected_cost(run: Run, runs: list[Run], rate: float | None = None) -> tuple[float | None, str]:
    """
    Return the seconds on one device that a run is expected to take, and what they are taken from; `None` if nothing is known.

    Args:
        run, runs: The run, and all of its study.
        rate: Samples a second, if the user knows.
    """
    same = [Note.find(each) for each in runs if each.stage == run.stage]
    if seconds := [note.seconds for note in same if note is not None and note.status == DONE]:
        return fmean(seconds), "runs of its stage that are done"
    samples = samples_of(run)
    if samples is None:
        by_compute = run.options.get("max_flops")
        return None, "its steps are counted when it begins" if by_compute else "the size of its data is not known"
    if samples == 0:
        return 0.0, "nothing is trained, and evaluation is not counted"
    if rate is not None:
        return samples / rate, f"{rate:g} samples/s"
    model = measured_model(run)
    side = FASTEST if run.options.get("torch_compile") and run.options.get("cuda_graphs") else "ours"
    of_model = [each for each in measured_on_h100() if each.model == model and each.side == side]
    rates = [each for each in of_model if (each.variant == "full") != frozen_and_cached(run)] or of_model
    if not rates:
        return None, "no rate of its model was measured; give --rate"
    batch = str(run.options.get("per_device_train_batch_size"))
    # A small batch leaves a GPU idle: the rate at a larger one is no rate of this run.
    found = min(
        rates,
        key=lambda each: abs(math.log(each.batch / int(batch))) if batch.isdecimal() else -each.samples_per_second,
    )
    return (
        samples / found.samples_per_second,
        f"{found.samples_per_second:.0f} samples/s on an H100, {found.batch} at a time",
    )


def samples_of(run: Run) -> int | None:
    """Return the samples that a run trains on; `None` if that is not known."""
    options = run.options
    if is_task(run) and not options.get("do_train"):
        return 0
    if options.get("max_flops"):
        return None
    batch = options.get("total_batch_size") or options.get("per_device_train_batch_size")
    if options.get("max_steps", 0) > 0 and str(batch).isdecimal():
        return options["max_steps"] * int(batch)
    rows = rows_of(run)
    return None if rows is None else round(float(options.get("num_train_epochs", 3)) * rows)


def rows_of(run: Run) -> int | None:
    """
    Return the rows of training data: those that the run is limited to, of Parquet files that are there, of a preparation of `shapes` that comes before the run, or of the
    public data set.
    """
    sources = [Path(each) for each in options_list(run, "train_datasets") or options_list(run, "dataset")]
    if limit := run.options.get("max_train_samples"):
        return limit * len(sources)
    files = [path for source in sources for path in source.glob("train*.parquet")]
    if files:
        return sum(pq.read_metadata(path).num_rows for path in files)
    made = [each for each in run.ancestors() if any(source.is_relative_to(each.folder) for source in sources)]
    if made:
        drawn = made[0].stage.command == ("prepare", "shapes")
        return made[0].options.get("num_train", SHAPES_ROWS) * len(sources) if drawn else None
    return PUBLIC_ROWS.get(run.stage.command[0])


def options_list(run: Run, name: str) -> list[str]:
    """Return an option as a list."""
    value = run.options.get(name) or []
    return value if isinstance(value, list) else [value]


def measured_model(run: Run) -> str | None:
    """Return which of the measured models a run, or the one that it started from, trains."""
    for each in (run, *run.ancestors()):
        if text := each.options.get("text_encoder"):
            return next((model for part, model in MEASURED.items() if part in text), None)
        if each.options.get("encoder") and not each.options.get("vision_encoder"):
            return "one-tower"
    return None


def frozen_and_cached(run: Run) -> bool:
    """Return whether a run reads the features of a frozen vision tower."""
    frozen = run.options.get("freeze") or []
    return bool(run.options.get("cache_frozen_features")) and any(part in ("vision", "encoder") for part in frozen)
