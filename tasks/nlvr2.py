"""NLVR2 (Suhr et al. 2019): is a sentence true of a pair of images?"""

from datasets import ClassLabel, Features, Image, List, Value


#: One row a sentence with its images, left first.
FEATURES = Features(
    {
        "identifier": Value("string"),
        "images": List(Image()),
        "text": Value("string"),
        "label": ClassLabel(names=["False", "True"]),
    }
)
