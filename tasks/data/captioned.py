"""Images with their captions, and captions and images that do not belong together."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from datasets import Dataset, List, Value
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from ...processing.decoding import named


class CaptionedImages(TorchDataset):
    """
    The images of a data set, each once, and all captions. Item i is caption i with its image. Rows with the same `image_id` are
    one image, that of the first of them, with the captions of all.

    Args:
        data: Columns `image`, `captions` (a string or a list of strings) and, optionally, `image_id`; without it every row
            is another image.
        source: What the data is called in messages.

    Attributes:
        image_ids: What identifies each image (N), strings; row numbers where the data has none.
        captions: All captions (M), those of an image together where they are in one row.
        image_of: The number of each caption's image (M,).
        text_ids: Numbers (M,) that captions of the same words share.

    Raises:
        ValueError: Where a row has no caption or no image id, that is no name or number, or two images have the same.
    """

    def __init__(self, data: Dataset, source: str):
        self.data = data
        self.source = source
        named = "image_id" in data.column_names
        if named and not isinstance(data.features["image_id"], Value):
            raise ValueError(
                f"{source}: expected names or numbers in column 'image_id', found {data.features['image_id']}"
            )
        row_ids = data.data.column("image_id").to_pylist() if named else range(len(data))
        images = data.data.column("image")
        numbers, self._rows = {}, []
        self.captions, image_of = [], []
        listed = isinstance(data.features["captions"], List)
        for row, (row_id, captions) in enumerate(zip(row_ids, data.data.column("captions").to_pylist(), strict=True)):
            if row_id is None or not captions:
                raise ValueError(f"{source}, row {row}: expected an image id and at least one caption")
            if row_id not in numbers:
                numbers[row_id] = len(numbers)
                self._rows.append(row)
            elif not same_image(images[row], images[first := self._rows[numbers[row_id]]]):
                raise ValueError(f"{source}, row {row}: 'image_id' is {row_id!r}, as in row {first}, of another image")
            captions = captions if listed else [captions]
            self.captions += captions
            image_of += [numbers[row_id]] * len(captions)
        self.image_ids = [str(row_id) for row_id in numbers]
        self.image_of = np.array(image_of)
        words = [" ".join(caption.casefold().split()) for caption in self.captions]
        self.text_ids = np.unique(np.array(words), return_inverse=True)[1]

        self._of_image = lists_by(self.image_of, len(self.image_ids))
        self._of_text = lists_by(self.text_ids, self.text_ids.max() + 1)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict:
        image = int(self.image_of[index])
        return {"image": self.image(image), "text": self.captions[index], "caption": index, "image_number": image}

    def image(self, number: int) -> dict | Image.Image:
        """An image by its number, undecoded where the data has it so."""
        row = self._rows[number]
        return named(self.data[row]["image"], f"{self.source}, row {row}")

    def mismatch(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Whether each of `captions` (C,) is false of each of `images` (I,): (I, C); false are those of none of its texts."""
        return np.stack([~np.isin(self.text_ids[captions], self.text_ids[self._of_image[image]]) for image in images])

    def fewest_false(self) -> tuple[int, int]:
        """The number of false captions of the image that has fewest, and of false images of the caption that has fewest."""
        image, text = np.unique(np.stack([self.image_of, self.text_ids]), axis=1)
        true_captions = np.bincount(image, weights=np.bincount(self.text_ids)[text])
        return len(self.captions) - int(true_captions.max()), len(self.image_ids) - int(np.bincount(text).max())

    def draw_false_captions(self, image: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers (count,) of different captions of other images, uniform over those with none of its captions' words."""
        own = self.text_ids[self._of_image[image]]
        return draw(len(self.captions), count, lambda drawn: ~np.isin(self.text_ids[drawn], own), rng)

    def draw_false_images(self, caption: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers (count,) of different images, uniform over those without a caption of the same words."""
        own = self.image_of[self._of_text[self.text_ids[caption]]]
        return draw(len(self.image_ids), count, lambda drawn: ~np.isin(drawn, own), rng)


def same_image(image: pa.StructScalar, other: pa.StructScalar) -> bool:
    """Whether two stored images are the same file, by its bytes or, where those are not there, its path."""
    key = "path" if image["bytes"].as_py() is None else "bytes"
    return image[key].equals(other[key])


def lists_by(keys: np.ndarray, count: int) -> list[np.ndarray]:
    """For each key from 0 to `count` - 1 the positions in `keys` where it is."""
    ends = np.cumsum(np.bincount(keys, minlength=count))
    return np.split(np.argsort(keys, kind="stable"), ends[:-1])


def draw(total: int, count: int, allowed: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Different numbers (count,) below `total`, uniform over those that `allowed` says true of, of which there are enough."""
    drawn = rng.choice(total, size=min(total, 2 * count + 16), replace=False)
    found = drawn[allowed(drawn)]
    if len(found) < count:
        drawn = rng.permutation(total)
        found = drawn[allowed(drawn)]
    assert len(found) >= count
    return found[:count]
