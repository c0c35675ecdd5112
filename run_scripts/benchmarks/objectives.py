"""
What each objective of pretraining costs beside masked language modelling and matching, in one pass of all rows, and in a pass of its own.

Each row of a batch has a caption, an answer of 3,129, four boxes and one of ten classes, and serves all objectives of a set. `a pass each`
is what a step costs that makes a batch for each objective, calls the model on it and adds up the losses, which are the same. In one pass an
image is encoded once for all objectives that see it whole. `grounding` reads regions and `mim` covered images: those are further images, each
encoded too.
"""

import argparse
import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from renaissance.commands.parsing import number_in
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import OBJECTIVE_DATA

from .device import Place, add_device_arguments
from .measure import Spread, interleaved, ratios
from .models import MODELS, BatchSettings, build_model, build_processor, draw_rows, objectives_of
from .options import add_batch_size
from .report import Report, Table
from .training import Trainee


#: What all other objectives are measured beside.
BASE = ("mlm", "itm")
#: Answers to choose from, as many as of VQAv2 (Teney et al. 2018), and classes of images.
ANSWERS = tuple(f"w{number}" for number in range(3129))
CLASSES = tuple(f"class {number}" for number in range(10))
#: Boxes of a row.
BOXES = 4
#: Between the names of an objective and of its input, where several batches are one.
SEPARATOR = "/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this group."""
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["small"], help="(default: small)")
    more = [name for name in OBJECTIVE_DATA if name not in BASE]
    parser.add_argument("--objectives", nargs="*", choices=more, default=more, help="to add one by one (default: all)")
    parser.add_argument("--threads", type=number_in(int, "[1, 1024]"), default=1, help="of the CPU (default: 1)")
    add_batch_size(parser)
    add_device_arguments(parser)


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure what the command line asks for."""
    place = Place.of(args)
    table = report.table(f"Objectives beside {' and '.join(BASE)}, {place.device.type}, {place.precision}")
    if wrong := [name for name in args.models if objectives_of(name)[0].name not in BASE]:
        raise ValueError(f"--models: {', '.join(wrong)}: expected one that fuses, for {' and '.join(BASE)}")
    for name in args.models:
        measure(name, args, place, table)


def measure(name: str, args: argparse.Namespace, place: Place, table: Table) -> None:
    """Add the rows of a model to the table: of the base, and of it and each further objective."""
    sets = [BASE, *((*BASE, each) for each in args.objectives)]
    settings = BatchSettings(args.batch_size, seed=args.seed)
    sides = {}
    for names in sets:
        built = build_model(
            name,
            seed=args.seed,
            objectives=list(names),
            vqa_answers=list(ANSWERS),
            image_classes=list(CLASSES),
            # So that losses can be compared.
            classifier_dropout=0.0,
        )
        together, alone = batches(built, names, settings)
        sides[names, "one pass"] = Trainee(built, [together], place)
        sides[names, "a pass each"] = Trainee(Passes(copy.deepcopy(built)), [alone], place)
    outputs = {key: side.output(0) for key, side in sides.items()}
    flops = {key: side.flops(0)[0] / args.batch_size / 1e9 for key, side in sides.items()}
    clock = place.clock(args.threads)
    runs = interleaved({key: lambda run, side=side: side.seconds(0, clock) for key, side in sides.items()}, args.runs)
    for names, way in sides:
        own, base = runs[names, way], runs[BASE, way]
        table.add(
            {
                "model": name,
                "objectives": " ".join(names),
                "batch": args.batch_size,
                "side": way,
                "GFLOP a sample": flops[names, way],
                "ms a sample": Spread.of([1e3 * value / args.batch_size for value in own]),
                "times the base": ratios(own, base),
                "times faster": ratios(runs[names, "a pass each"], own),
                "largest difference of losses": difference(outputs[names, way], outputs[names, "a pass each"]),
            }
        )


class Passes(nn.Module):
    """
    A model that is called once for each of its objectives.

    Args:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        """Return the `loss` and the `losses` by objective of inputs whose names begin with that of an objective."""
        passes, losses = defaultdict(dict), {}
        for key, value in batch.items():
            name, _, entry = key.partition(SEPARATOR)
            passes[name][entry] = value
        for inputs in passes.values():
            losses |= self.model(**inputs).losses
        return {"loss": sum(losses.values()), "losses": losses}


def batches(
    model: PreTrainedModel, names: Sequence[str], settings: BatchSettings
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return a batch for some objectives, and the batches of the same rows for each of them, which are told apart by the beginnings of
    the names of inputs."""
    rows, processor = [*labelled(settings)], build_processor(settings.image_size)

    def collated(chosen: Sequence[str]) -> dict[str, torch.Tensor]:
        # In the order in which all are registered, which the model has too.
        data = [kind() for name, kind in OBJECTIVE_DATA.items() if name in chosen]
        for each in data:
            each.fit(model.config)
        return PretrainingCollator(processor, data, seed=settings.seed)(rows)

    apart = {f"{name}{SEPARATOR}{key}": value for name in names for key, value in collated([name]).items()}
    return collated(names), apart


def labelled(settings: BatchSettings) -> Iterator[dict]:
    """Yield the rows of a batch, with what any objective reads."""
    rng = np.random.default_rng((settings.seed, len(ANSWERS)))
    for row in draw_rows(settings, 1)[0]:
        corners = rng.uniform(0, settings.image_size / 2, (BOXES, 2))
        sizes = rng.uniform(8, settings.image_size / 2, (BOXES, 2))
        yield row | {
            "answers": [str(rng.choice(ANSWERS))],
            "boxes": np.concatenate([corners, sizes], axis=1).tolist(),
            "label": int(rng.integers(BOXES)),
            "class_name": str(rng.choice(CLASSES)),
        }


def difference(ours: dict, theirs: dict) -> float:
    """Return the largest difference between the losses of two sides."""
    return max(abs(ours["losses"][name].item() - loss.item()) for name, loss in theirs["losses"].items())
