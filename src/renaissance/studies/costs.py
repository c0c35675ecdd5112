"""What the runs of a study are expected to cost, before they run."""

import math
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq

from ..benchmarks.experiments import FASTEST, Rate, measured_on_h100
from .notes import DONE, Note
from .plan import Run, is_task


#: Rows of the public training splits, by command, where the data are not there to be counted (Suhr et al. 2019; Xie et al. 2019;
#: Yu et al. 2016; Goyal et al. 2017).
PUBLIC_ROWS = {"nlvr2": 86_373, "snli-ve": 529_527, "refcoco": 120_624, "vqa": 443_757}
#: Rows that `renaissance prepare shapes` writes for training, unless it is told otherwise.
SHAPES_ROWS = 8000
#: The models whose rates were measured on an H100: parts of the names of their encoders, and their sizes, by option.
MEASURED = {
    "small": {
        "text_encoder": "electra-small",
        "vision_encoder": "deit-tiny",
        "cross_modal_hidden_size": 256,
        "cross_modal_layers": 6,
    },
    "base": {
        "text_encoder": "electra-base",
        "vision_encoder": "vit-base",
        "cross_modal_hidden_size": 256,
        "cross_modal_layers": 10,
    },
    "one-tower": {"encoder": "bert-base", "patch_size": 16},
}
#: The pixels of the images, and the objectives, with which they were measured, in pretraining.
PIXELS, OBJECTIVES = 224, {"mlm", "itm"}
#: Images of a row by command, if it has as many in each row: of RefCOCO each box is one, and retrieval draws false captions.
IMAGES = {"pretrain": 1, "snli-ve": 1, "nlvr2": 2, "vqa": 1}


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
    try:
        per_second, basis = measured_rate(run)
    except ValueError as error:
        return None, f"{error}; give --rate"
    return samples / per_second, basis


def measured_rate(run: Run) -> tuple[float, str]:
    """
    Return the samples a second that a run does by the rates that were measured, and how they were taken. Time is taken to go with the
    number of patches, if its images are larger or more a row than those that were measured.

    Raises:
        ValueError: If nothing that was measured is like the run; it says why.
    """
    model, side = measured_model(run), "ours"
    if run.options.get("torch_compile") and run.options.get("cuda_graphs"):
        side = FASTEST
    if set(run.options.get("objectives") or OBJECTIVES) != OBJECTIVES:
        raise ValueError("no rate of its objectives was measured")
    name, unlike = next(((name, told) for name, told in variants_like(run) if rates_of(model, name, side)), (None, ""))
    if name is None:
        raise ValueError(f"no rate of its model was measured with {frozen_of(run)} frozen")
    patches = patches_of(run)
    batch = str(run.options.get("per_device_train_batch_size"))
    # A small batch leaves a GPU idle: the rate at a larger one is no rate of this run.
    found = min(
        rates_of(model, name, side),
        key=lambda each: (
            abs(math.log(each.batch / (int(batch) * patches))) if batch.isdecimal() else -each.samples_per_second
        ),
    )
    basis = f"{found.samples_per_second:.0f} samples/s on an H100, {found.batch} at a time{unlike}"
    if patches != 1:
        basis += f", divided by {patches:.2f} for as many times the patches"
    if run.stage.command[0] != "pretrain":
        basis += ", as in pretraining"
    return found.samples_per_second / patches, basis


def rates_of(model: str, variant: str, side: str) -> list[Rate]:
    """Return the rates of a model that were measured."""
    return [each for each in measured_on_h100() if (each.model, each.variant, each.side) == (model, variant, side)]


def variants_like(run: Run) -> list[tuple[str, str]]:
    """
    Return what was measured that is like a run by what is frozen and cached, the likest first, with what is unlike: never one in which
    less is computed.
    """
    frozen, cached = set(run.options.get("freeze") or []), run.options.get("cache_frozen_features")
    full = ("full", ", as if nothing were frozen" if frozen else "")
    if not (cached and "vision" in frozen):
        return [full]
    both = frozen == {"text", "vision"}
    vision = ("vision frozen, cached", ", as if its text tower were not frozen" if both else "")
    return [("both frozen, cached", ""), vision, full] if both else [vision, full]


def frozen_of(run: Run) -> str:
    """Return what is frozen in a run, in words."""
    return " and ".join(run.options.get("freeze") or ["nothing"])


def patches_of(run: Run) -> float:
    """
    Return how many times the patches of a pair that was measured a row of a run has. Raise `ValueError` if its images are not known.
    """
    images = IMAGES.get(run.stage.command[0])
    if images is None:
        raise ValueError(f"the images in a row of {run.stage.command[0]} differ in number")
    chain = [run, *reversed([*run.ancestors()])]
    pixels = next((size for each in chain if (size := each.options.get("image_size"))), None)
    if pixels is None:
        raise ValueError("the size of its images is not known")
    return images * (pixels / PIXELS) ** 2


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


def measured_model(run: Run) -> str:
    """
    Return which of the measured models a run, or the one that it started from, trains. Raise `ValueError` if it trains none of them.
    """
    for each in (run, *reversed([*run.ancestors()])):
        if each.options.get("text_encoder") or each.options.get("encoder"):
            for model, sizes in MEASURED.items():
                if all(is_like(each.options.get(name), size) for name, size in sizes.items()):
                    return model
            break
    raise ValueError("no rate of its model was measured")


def is_like(value: str | int | None, size: str | int) -> bool:
    """Return whether the value of an option is a size, or the name of an encoder has a part."""
    return size in value if isinstance(size, str) and isinstance(value, str) else value == size
