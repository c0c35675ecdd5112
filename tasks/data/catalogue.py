"""The data sets that `prepare_data.py` prepares, one entry each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from datasets import Features

from .. import nlvr2, pretraining
from . import shapes
from .karpathy import read_karpathy
from .nlvr2 import read_nlvr2


@dataclass(frozen=True)
class Entry:
    """
    A public data set.

    Args:
        help: What `--help` says: its first line what the data set is and which splits it has, then where the public files
            come from and how they are laid out under SOURCE.
        features: The schema of its rows.
        read: Called with the source folder, and with `options` by name; returns the rows by split, images by path. It raises
            `ValueError` where the files are not what it expects.
        options: Options of `read`, each with the keyword arguments of `ArgumentParser.add_argument`.
    """

    help: str
    features: Features
    read: Callable[..., Mapping[str, Sequence[dict]]]
    options: dict[str, dict] = field(default_factory=dict)


COCO_HELP = """COCO captions with Karpathy's splits: train and restval -> train, val -> validation, test -> test.

Images:   http://images.cocodataset.org/zips/train2014.zip and val2014.zip
Captions: https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip

Expected layout:
    SOURCE/karpathy/dataset_coco.json
    SOURCE/train2014/COCO_train2014_000000000009.jpg ...
    SOURCE/val2014/COCO_val2014_000000000042.jpg ..."""

FLICKR30K_HELP = """Flickr30k with Karpathy's splits: train, val -> validation, test.

Images:   on request, https://shannon.cs.illinois.edu/DenotationGraph/
Captions: https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip

Expected layout:
    SOURCE/karpathy/dataset_flickr30k.json
    SOURCE/flickr30k-images/1000092795.jpg ..."""

NLVR2_HELP = """NLVR2: train, dev -> validation, test1 -> test.

Sentences: https://github.com/lil-lab/nlvr, folder nlvr2/data
Images:    on request, see https://lil.nlp.cornell.edu/nlvr/

Expected layout:
    SOURCE/nlvr2/data/train.json, dev.json, test1.json
    SOURCE/images/train/<directory>/train-10171-0-img0.png ...
    SOURCE/dev/dev-0-0-img0.png ...
    SOURCE/test1/test1-0-0-img0.png ..."""

#: The public data sets, by the name that the command line gives them.
CATALOGUE = {
    "coco": Entry(COCO_HELP, pretraining.FEATURES, partial(read_karpathy, name="coco")),
    "flickr30k": Entry(FLICKR30K_HELP, pretraining.FEATURES, partial(read_karpathy, name="flickr30k")),
    "nlvr2": Entry(NLVR2_HELP, nlvr2.FEATURES, read_nlvr2),
}

#: The parts of `shapes`: for each what draws its rows, called with split, number, seed and image size, and their schema.
GENERATED: dict[str, tuple[Callable[[str, int, int, int], Iterator[dict]], Features]] = {
    "captions": (shapes.caption_rows, pretraining.FEATURES),
    "nlvr2": (shapes.pair_rows, nlvr2.FEATURES),
}
