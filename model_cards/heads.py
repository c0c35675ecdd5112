"""What a card says of each kind of model: what it does, its task on the Hub, and how it is called."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from .loading import auto_class_of


#: A picture of the Hub's, for the widgets.
PICTURE = "https://huggingface.co/datasets/mishig/sample_images/resolve/main/tiger.jpg"


@dataclass(frozen=True)
class HeadFacts:
    """
    What a card says of a kind of model.

    Args:
        does: What the model does, after "It".
        pipeline_tag: Its task on the Hub; `None` if the Hub has none like it.
        inputs: Arguments of the processor in the example; `None` if the model needs more than that.
        result: What the example prints of the `outputs`.
        limit: What the head alone cannot do; may be empty.
        widget: The example of the Hub's widget, if the Hub has one for the task.
    """

    does: str
    pipeline_tag: str | None = None
    inputs: str | None = None
    result: str = "outputs.logits"
    limit: str = ""
    widget: dict | None = None


PAIR = 'images=image, text="a dog on a lawn"'
ANSWERS = "It tells apart the classes that it was trained on, and always names one of them."

FACTS = {
    "AutoModel": HeadFacts(
        "encodes texts, images, and pairs of them", "feature-extraction", PAIR, "outputs.pooled", "It has no head."
    ),
    "AutoModelForPreTraining": HeadFacts(
        "is a pretrained encoder of images with texts, with the heads of its pretraining",
        "feature-extraction",
        PAIR,
        "outputs.logits",
        "It is meant to be finetuned: of itself it solves no task.",
    ),
    "AutoModelForMaskedLM": HeadFacts("fills masked words of texts, with or without an image", "fill-mask", PAIR),
    "AutoModelForImageTextRetrieval": HeadFacts(
        "scores how well texts fit images",
        "zero-shot-image-classification",
        'images=image, text=["a dog on a lawn", "two cats"]',
        limit="Its scores order texts and images; they are no probabilities.",
        widget={"src": PICTURE, "candidate_labels": "a tiger, a dog on a lawn"},
    ),
    "AutoModelForImagesAndTextClassification": HeadFacts(
        "classifies a text about several images",
        "visual-question-answering",
        'images=[[image, image]], text="there is a dog in both images"',
        limit=ANSWERS,
    ),
    "AutoModelForImageTextClassification": HeadFacts(
        "classifies an image with a text", "visual-question-answering", PAIR, limit=ANSWERS
    ),
    "AutoModelForVisualQuestionAnswering": HeadFacts(
        "answers questions about images",
        "visual-question-answering",
        'images=image, text="what animal is it?"',
        limit="Its answers are those that were frequent in its training data, and no others.",
        widget={"src": PICTURE, "text": "What animal is it?"},
    ),
    "AutoModelForReferenceResolution": HeadFacts(
        "chooses the region of an image that a text refers to",
        "zero-shot-object-detection",
        limit="It chooses among regions that it is given; it finds none itself.",
    ),
    "AutoModelForSequenceClassification": HeadFacts(
        "classifies texts, or pairs of texts",
        "text-classification",
        'text="a dog on a lawn"',
        limit=ANSWERS,
        widget={"text": "a dog on a lawn"},
    ),
    "AutoModelForImageClassification": HeadFacts(
        "classifies images", "image-classification", "images=image", limit=ANSWERS, widget={"src": PICTURE}
    ),
}

#: The base model of an architecture that fuses no text with an image.
OF_VECTORS = HeadFacts(
    "makes vectors of texts and of images, which are near each other if they fit",
    "zero-shot-image-classification",
    'images=image, text=["a dog on a lawn", "two cats"]',
    "outputs.logits_per_image",
    "It has no head.",
    {"src": PICTURE, "candidate_labels": "a tiger, a dog on a lawn"},
)


def facts_of(model: PreTrainedModel, mask_token: str | None = None) -> HeadFacts:
    """Return the facts of a model's kind, those of a user's own head in general words. `mask_token` is for its widget."""
    auto_class, _ = auto_class_of(model)
    if auto_class == "AutoModel" and not model.config.fuses:
        return OF_VECTORS
    if auto_class == "AutoModelForMaskedLM" and mask_token:
        known = FACTS[auto_class]
        return HeadFacts(known.does, known.pipeline_tag, known.inputs, widget={"text": f"a dog on a {mask_token}."})
    own = HeadFacts(f"is a model {auto_class.removeprefix('AutoModel')}, with a head of its authors' own")
    return FACTS.get(auto_class, own)
