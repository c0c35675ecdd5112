"""
Cross-modal ablation (Frank et al. 2021): evaluate a pretrained model on pairs of which one part is spoilt. How much worse it predicts the
other part says how much it used the one that is spoilt.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..processing.decoding import to_rgb
from ..processing.regions import touched


#: The objective that is evaluated under each ablation: the one that predicts something of the part that stays.
ABLATIONS = {"image_removed": "mlm", "image_replaced": "mlm", "object_masked": "mlm", "text_shuffled": "itm"}
#: Columns that are read beside images and captions, by ablation: those of RefCOCO, whose label is the number of the box that is meant.
COLUMNS = {"object_masked": ("boxes", "label")}
#: Keeps what is drawn here apart from what objectives draw for the same row.
PURPOSE = 0xAB1A7E


def objective_of(ablation: str, objectives: Collection[str]) -> str:
    """Return the objective that an ablation is about; raise `ValueError` if it is none of `objectives`, which are those of the model."""
    wanted = ABLATIONS[ablation]
    if wanted not in objectives:
        raise ValueError(f"ablation: {ablation} is of the objective {wanted}, the model has {', '.join(objectives)}")
    return wanted


@dataclass
class AblatingCollator:
    """
    Spoils a part of each row, and leaves the rest to another collator. What is drawn depends only on the seed and the row, and words are
    masked as without an ablation: rows can be compared one by one.

    Args:
        collator: Makes batches of the rows of pretraining.
        ablation: One of `ABLATIONS`.
        colour: What covers an image or an object: the one that is 0 after normalisation.
        draw: Gives, for a row and a source of randomness, a row with another image.
        seed: Seed of the run.
        max_pixels: Largest number of pixels of an image.
    """

    collator: Callable[[list[dict]], dict[str, Tensor]]
    ablation: str
    colour: Sequence[float]
    draw: Callable[[dict, np.random.Generator], dict]
    seed: int
    max_pixels: int

    def __call__(self, rows: list[dict]) -> dict[str, Tensor]:
        return self.collator([self.spoilt(row) for row in rows])

    def spoilt(self, row: dict) -> dict:
        """Return a row whose image or text is spoilt."""
        rng = np.random.default_rng((self.seed, row["epoch"], row["sample_id"], PURPOSE))
        if self.ablation == "text_shuffled":
            words = row["text"].split()
            return row | {"text": " ".join(words[place] for place in rng.permutation(len(words)))}
        if self.ablation == "image_replaced":
            other = self.draw(row, rng)
            return row | {"image": other["image"], "image_id": other["image_id"]}
        image, colour = to_rgb(row["image"], self.max_pixels), tuple(round(level) for level in self.colour)
        left, top, width, height = (
            row["boxes"][row["label"]] if self.ablation == "object_masked" else (0, 0, *image.size)
        )
        (left, right), (top, bottom) = touched(left, width, image.width), touched(top, height, image.height)
        image = image.copy()
        image.paste(colour, (left, top, right, bottom))
        # Two rows with one image have different objects.
        return row | {"image": image, "image_id": f"{row['image_id']}, spoilt for row {row['sample_id']}"}
