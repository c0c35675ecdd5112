"""The data sets that `prepare_data.py` prepares, one entry each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from datasets import Features

from .. import cifar10, glue, nlvr2, pretraining, refcoco, snli_ve, vqav2
from .cifar10 import read_cifar10
from .easy_vqa import read_easy_vqa
from .glue import LAYOUTS, read_glue
from .karpathy import read_karpathy
from .nlvr2 import read_nlvr2
from .refcoco import PARTITIONS, read_refcoco
from .snli_ve import read_snli_ve
from .visual_genome import read_visual_genome
from .vqav2 import read_vqav2
from .web_captions import IMAGE_NAME, read_web_captions


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

VISUAL_GENOME_HELP = """Visual Genome's region descriptions as captions: train, and a share of the images as validation.

Images:  https://homes.cs.washington.edu/~ranjay/visualgenome/api.html, images.zip and images2.zip
Regions: the same page, region_descriptions.json; image_data.json for --without_coco

Expected layout:
    SOURCE/annotations/region_descriptions.json, image_data.json
    SOURCE/images/VG_100K/2.jpg ...
    SOURCE/images/VG_100K_2/1.jpg ..."""

PUBLIC_LAYOUT = """
The images are downloaded beforehand, for instance with img2dataset (--output_format files, 10,000 samples a folder), whose
names are the default of --image_name. Many will be gone: say with --max_broken how many may be."""

GCC_HELP = f"""Conceptual Captions: train, validation.

Captions: https://ai.google.com/research/ConceptualCaptions/download

Expected layout:
    SOURCE/train_annot.json, val_annot.json    lists of ["images_train/0000/0000000", "caption"]
    SOURCE/images_train/0000/0000000 ...
    SOURCE/images_val/0000/0000000 ...
or, with --layout public:
    SOURCE/Train_GCC-training.tsv, Validation_GCC-1.1.0-Validation.tsv    lines of caption, tab, URL
    SOURCE/train/00000/000000000.jpg ...
    SOURCE/validation/00000/000000000.jpg ...
{PUBLIC_LAYOUT}"""

SBU_HELP = f"""SBU captioned photos: train, and a share of the images as validation.

Captions: https://www.cs.rice.edu/~vo9/sbucaptions/

Expected layout:
    SOURCE/annot.json                          list of ["images_train/0000/0000000", "caption"]
    SOURCE/images_train/0000/0000000 ...
or, with --layout public:
    SOURCE/SBU_captioned_photo_dataset_captions.txt, SBU_captioned_photo_dataset_urls.txt
    SOURCE/train/00000/000000000.jpg ...
{PUBLIC_LAYOUT}"""

NLVR2_HELP = """NLVR2: train, dev -> validation, test1 -> test.

Sentences: https://github.com/lil-lab/nlvr, folder nlvr2/data
Images:    on request, see https://lil.nlp.cornell.edu/nlvr/

Expected layout:
    SOURCE/nlvr2/data/train.json, dev.json, test1.json
    SOURCE/images/train/<directory>/train-10171-0-img0.png ...
    SOURCE/dev/dev-0-0-img0.png ...
    SOURCE/test1/test1-0-0-img0.png ..."""

LAYOUT_OPTIONS = {
    "layout": {
        "choices": ("list", "public"),
        "default": "list",
        "help": "lists of image files and captions, or the published captions and URLs (default: %(default)s)",
    },
    "image_name": {
        "default": IMAGE_NAME,
        "help": "public layout: name of a line's image in the folder of its split, of {row}, the number of the line from 0 on, "
        "{shard}, row // 10,000, and {md5}, of the URL (default: %(default)s)",
    },
}


def validation_share(default: float) -> dict:
    """The option that holds images out for validation."""
    return {
        "type": float,
        "default": default,
        "help": "share of the images, by a digest of their ids, that form the validation split (default: %(default)s)",
    }


GLUE_HELP = """{name} of GLUE: train, dev -> validation, test (without labels).

Files: https://gluebenchmark.com/tasks

Expected layout, the task's own folder:
    SOURCE/{files}

Of MRPC, whose files come from a script, the test file may be missing. run_glue.py reads the folder as it is too."""

CIFAR10_HELP = """CIFAR-10: train, test. There is no validation split: run_cifar10.py holds out rows of train (--held_out).

Batches: https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz

Expected layout:
    SOURCE/cifar-10-batches-py/data_batch_1 ... data_batch_5, test_batch, batches.meta"""

SNLI_VE_HELP = """SNLI-VE: train, dev -> validation, test. Pairs without a gold label (-) are left out and counted.

Pairs:  https://github.com/necla-ml/SNLI-VE
Images: those of Flickr30k, on request, https://shannon.cs.illinois.edu/DenotationGraph/; a link to the folder will do

Expected layout:
    SOURCE/snli_ve_train.jsonl, snli_ve_dev.jsonl, snli_ve_test.jsonl
    SOURCE/Flickr30K/images/1000092795.jpg ..."""

VQAV2_HELP = """VQA v2: train2014 -> train, val2014 -> validation, test2015 -> test (no answers; it may be missing).

Questions and annotations: https://visualqa.org/download.html
Images:                    http://images.cocodataset.org/zips/train2014.zip, val2014.zip and test2015.zip

Expected layout:
    SOURCE/v2_OpenEnded_mscoco_train2014_questions.json, ..._val2014_..., ..._test2015_...
    SOURCE/v2_mscoco_train2014_annotations.json, ..._val2014_...
    SOURCE/train2014/COCO_train2014_000000000009.jpg ...
    SOURCE/val2014/COCO_val2014_000000000042.jpg ...
    SOURCE/test2015/COCO_test2015_000000000001.jpg ..."""

EASY_VQA_HELP = """easy-VQA, questions about one drawn shape: train, test; every tenth training image -> validation.

Questions and images: https://github.com/vzhou842/easy-VQA, folder easy_vqa/data

Expected layout:
    SOURCE/train/questions.json, SOURCE/train/images/0.png ...
    SOURCE/test/questions.json, SOURCE/test/images/0.png ..."""

REFCOCO_HELP = """{title}: train, val -> validation, {tests}.

References: https://github.com/lichengunc/refer, {name}.zip
Images:     http://images.cocodataset.org/zips/train2014.zip

Boxes are in pixels of the images, which are therefore never shrunk.

Expected layout:
    SOURCE/{name}/refs({partition}).p
    SOURCE/{name}/instances.json
    SOURCE/images/mscoco/train2014/COCO_train2014_000000000009.jpg ..."""


def refcoco_entry(name: str, title: str, tests: str) -> Entry:
    """RefCOCO or one of its siblings."""
    partitions = PARTITIONS[name]
    text = REFCOCO_HELP.format(name=name, title=title, tests=tests, partition="|".join(partitions))
    options = {}
    if len(partitions) > 1:
        options["partition"] = {
            "choices": partitions,
            "default": partitions[0],
            "help": "who drew up the splits; google has no test split (default: %(default)s)",
        }
    return Entry(text, refcoco.FEATURES, partial(read_refcoco, name=name), options)


#: The public data sets, by the name that the command line gives them.
CATALOGUE = {
    "coco": Entry(COCO_HELP, pretraining.FEATURES, partial(read_karpathy, name="coco")),
    "flickr30k": Entry(FLICKR30K_HELP, pretraining.FEATURES, partial(read_karpathy, name="flickr30k")),
    "vg": Entry(
        VISUAL_GENOME_HELP,
        pretraining.FEATURES,
        read_visual_genome,
        {
            "min_words": {"type": int, "default": 1, "help": "fewest words of a phrase (default: %(default)s)"},
            "validation_share": validation_share(0.02),
            "without_coco": {
                "metavar": "FILE",
                "help": "Karpathy's dataset_coco.json: leave out the images of its validation and test splits",
            },
        },
    ),
    "gcc": Entry(GCC_HELP, pretraining.FEATURES, partial(read_web_captions, name="gcc"), LAYOUT_OPTIONS),
    "sbu": Entry(
        SBU_HELP,
        pretraining.FEATURES,
        partial(read_web_captions, name="sbu"),
        {**LAYOUT_OPTIONS, "validation_share": validation_share(0.01)},
    ),
    "nlvr2": Entry(NLVR2_HELP, nlvr2.PUBLIC_FEATURES, read_nlvr2),
    "cifar10": Entry(CIFAR10_HELP, cifar10.FEATURES, read_cifar10),
    "snli_ve": Entry(SNLI_VE_HELP, snli_ve.FEATURES, read_snli_ve),
    "vqav2": Entry(VQAV2_HELP, vqav2.FEATURES, read_vqav2),
    "easy_vqa": Entry(EASY_VQA_HELP, vqav2.FEATURES, read_easy_vqa),
    "refcoco": refcoco_entry("refcoco", "RefCOCO", "testA (people), testB (other things)"),
    "refcoco+": refcoco_entry(
        "refcoco+", "RefCOCO+, without words for places", "testA (people), testB (other things)"
    ),
    "refcocog": refcoco_entry("refcocog", "RefCOCOg, with longer expressions", "test"),
} | {
    task: Entry(
        GLUE_HELP.format(name=layout.folder, files=", ".join(layout.splits.values())),
        glue.schema(task),
        partial(read_glue, task_name=task),
    )
    for task, layout in LAYOUTS.items()
}
