"""Baselines of a stage: runs of its task without one of the inputs, which is removed at evaluation or from training on."""

from dataclasses import dataclass

from ..tasks.run_record import RunRecord


@dataclass(frozen=True)
class Baseline:
    """
    A kind of baseline.

    Attributes:
        title: How tables call it.
        removed: The input that is removed, as the option `remove_input` has it.
        trains: Whether a model is trained without it, from what the stage starts from; else the stage's own model is evaluated.
    """

    title: str
    removed: str
    trains: bool


#: The kinds, as the file of a study names them.
BASELINES = {
    "text_removed": Baseline("text removed", "text", False),
    "image_removed": Baseline("image removed", "image", False),
    "trained_without_text": Baseline("trained without text", "text", True),
    "trained_without_image": Baseline("trained without image", "image", True),
}


def baseline_of(record: RunRecord) -> Baseline | None:
    """Return the kind of baseline that a run is, as its record tells; `None` if its model reads whole rows."""
    removed, trains = record.options.get("remove_input"), "train" in record.did
    return next((each for each in BASELINES.values() if (each.removed, each.trains) == (removed, trains)), None)
