"""The columns of prepared data sets, one schema a task: readers write them, tasks read them."""

from collections.abc import Iterator, Sequence

from datasets import ClassLabel, Features, Image, List, Value


STRING = Value("string")


def with_label(classes: Sequence[str] | None = None, **columns: object) -> Features:
    """Return the schema of rows with an id, the given columns, and a label: a class, or a score if there are no classes."""
    label = ClassLabel(names=list(classes)) if classes else Value("float32")
    return Features({"id": STRING, **columns, "label": label})


#: One row an image; its captions lie together, so that an image is stored once.
CAPTIONS = Features({"image": Image(), "image_id": STRING, "captions": List(STRING)})

#: One row a sentence with its images, left first.
NLVR2 = with_label(["False", "True"], images=List(Image()), text=STRING)
#: The public rows also say whether they belong to the balanced or the unbalanced subset; some belong to none.
PUBLIC_NLVR2 = Features(NLVR2 | {"subset": STRING})

#: One row a hypothesis. The premise is the caption of the image that the hypothesis was written for.
SNLI_VE = with_label(["contradiction", "neutral", "entailment"], image=Image(), text=STRING, premise=STRING)

#: One row a text with its image, and a class or a list of classes of the user's own.
IMAGE_TEXT = Features({"id": STRING, "image": Image(), "text": STRING})

#: One row a question, with the answers that people gave to it; none in the test split.
VQAV2 = Features({"id": STRING, "image": Image(), "text": STRING, "answers": List(STRING)})

#: One row an expression, with all annotated boxes of its image, [left, top, width, height] in pixels, and the number of the
#: one that is meant.
REFCOCO = Features(
    {"id": STRING, "image": Image(), "text": STRING, "boxes": List(List(Value("float32"))), "label": Value("int64")}
)

#: One row a document of a text corpus.
TEXTS = Features({"id": STRING, "text": STRING})

#: One row an image.
CIFAR10 = with_label(
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"], image=Image()
)

#: The tasks of GLUE: one row a text, or a text and the text after it.
GLUE = {
    "cola": with_label(["unacceptable", "acceptable"], text=STRING),
    "mnli": with_label(["entailment", "neutral", "contradiction"], text=STRING, text_pair=STRING),
    "mrpc": with_label(["not_equivalent", "equivalent"], text=STRING, text_pair=STRING),
    "qnli": with_label(["entailment", "not_entailment"], text=STRING, text_pair=STRING),
    "qqp": with_label(["not_duplicate", "duplicate"], text=STRING, text_pair=STRING),
    "rte": with_label(["entailment", "not_entailment"], text=STRING, text_pair=STRING),
    "sst2": with_label(["negative", "positive"], text=STRING),
    "stsb": with_label(text=STRING, text_pair=STRING),
    "wnli": with_label(["not_entailment", "entailment"], text=STRING, text_pair=STRING),
}


def classes_of(schema: Features) -> list[str]:
    """Return the names of a schema's classes, in order; none if its labels are no classes."""
    return schema["label"].names if isinstance(schema["label"], ClassLabel) else []


def image_columns(features: Features) -> Iterator[tuple[str, bool]]:
    """Yield the columns that hold images, and whether they hold a list of them."""
    for column, feature in features.items():
        if isinstance(feature, Image):
            yield column, False
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            yield column, True
