"""The pipeline for an image and a text, which transformers has none for: matching, answers, classes."""

from typing import Any
from urllib.request import Request, urlopen

from transformers import Pipeline

from .answers import ANSWERING, CLASSIFICATION, MATCHING, best_choices, score_choices


#: The Auto class that finds the very model that was saved, by task. A pipeline can name one of transformers only, which has
#: none for most heads of images with texts.
AUTO_CLASSES = {
    MATCHING: "AutoModelForZeroShotImageClassification",
    ANSWERING: "AutoModelForVisualQuestionAnswering",
    CLASSIFICATION: "AutoModelForZeroShotImageClassification",
}

#: Other names of what an example has.
NAMES = {"image": "images", "question": "text"}

#: How images are fetched from web addresses: seconds until one is given up, and who asks, which some servers want to know.
TIMEOUT, HEADERS = 30.0, {"User-Agent": "renaissance"}

#: How to give examples, for messages.
EXAMPLES = 'give several examples as [{"image": ..., "text": ...}, ...]'


class ImageTextPipeline(Pipeline):
    """
    Runs a model on examples of an image, or several, and a text. The head of the model decides what comes out:

    - matching (retrieval, pretraining): the probability that they match, `{"text": ..., "score": ...}`; of several texts
      for one image a list, the best first;
    - question answering: the best answers, `{"answer": ..., "score": ...}`, each with its own probability;
    - classification, also of several images with one text (NLVR2): the best classes, `{"label": ..., "score": ...}`.

    Example:

    ```python
    >>> pipe = pipeline("image-text-matching", model="org/name", trust_remote_code=True)
    >>> pipe("dog.jpg", ["a dog on a lawn", "a cat"])
    >>> pipe([{"image": "dog.jpg", "text": "a dog"}, {"image": "cat.jpg", "text": "a dog"}], batch_size=2)
    ```
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("processor: expected the processor of the model, got none")
        if getattr(self.model, "pipeline_task", None) not in AUTO_CLASSES:
            expected = "a model that matches or classifies images with texts, or answers questions"
            raise ValueError(f"model: expected {expected}, got {type(self.model).__name__}")

    def __call__(self, images: Any = None, text: str | list[str] | None = None, **kwargs) -> Any:
        """
        Return what the model says of one example, or a list of it of several.

        Args:
            images: An image, or the images of one text, in any form that the processor takes, or as a URL. Without `text`: an
                example as `{"image": ..., "text": ...}`, or a list of them; `"question"` is as good as `"text"`.
            text: The text; for matching also several, each matched with the image.
            kwargs: `top_k`, the number of texts, classes or answers to return, by default all texts and 5 of the others;
                `batch_size`, of examples with one text each; `num_workers`; `image` and `question` for `images` and `text`.

        Examples may also come from a generator or a data set with the columns `image` and `text`; an iterator comes back then.

        Raises:
            ValueError: If an example lacks an image or a text, an image cannot be read, or there are not as many as the model
                reads.
        """
        given = {"images": images, "text": text}
        for name, value in ((name, kwargs.pop(name)) for name in NAMES if name in kwargs):
            if given[NAMES[name]] is not None:
                raise ValueError(f"{NAMES[name]}, {name}: expected one of them")
            given[NAMES[name]] = value
        examples = given["images"] if given["text"] is None else given
        if hasattr(examples, "column_names"):
            # transformers takes data sets of torch only.
            examples = (row for row in examples)
        return [] if isinstance(examples, list) and not examples else super().__call__(examples, **kwargs)

    def _sanitize_parameters(self, top_k: int | None = None, **others) -> tuple[dict, dict, dict]:
        if others:
            raise ValueError(
                f"{', '.join(others)}: no option of this pipeline, which has top_k, batch_size, num_workers"
            )
        if top_k is not None and not (isinstance(top_k, int) and top_k >= 1):
            raise ValueError(f"top_k: expected at least 1, got {top_k}")
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, example: dict[str, Any]) -> dict[str, Any]:
        """Return the model's inputs for an example, and its texts."""
        if not isinstance(example, dict):
            raise ValueError(f"expected an image and a text, or examples with both, got a {type(example).__name__}")
        example = {NAMES.get(name, name): value for name, value in example.items()}
        missing = [name for name in ("images", "text") if example.get(name) is None]
        if missing or len(example) != 2:
            raise ValueError(f"expected an example with an image and a text, got {', '.join(example) or 'nothing'}")
        images, text = example["images"], example["text"]
        images = [fetch(image) if is_url(image) else image for image in as_list(images)]
        texts = as_list(text)
        if any(not isinstance(each, str) for each in texts):
            raise ValueError(f"text: expected a string, got {text!r}")
        if len(texts) != 1 and (self.model.pipeline_task != MATCHING or not texts):
            raise ValueError(f"text: expected one text an example, got {len(texts)}; {EXAMPLES}")
        several = self.model.images_a_text
        if len(images) != (several or 1):
            raise ValueError(f"images: expected {several or 1} with a text, got {len(images)}; {EXAMPLES}")
        inputs = self.processor(images=[images] if several else images, text=texts, return_tensors="pt")
        return {**inputs, "texts": [text]}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        texts = inputs.pop("texts")
        if len(texts) > 1 and any(len(as_list(text)) > 1 for (text,) in texts):
            raise ValueError("batch_size: expected 1 for examples with several texts, which are a batch by themselves")
        scores = score_choices(self.model, inputs)
        # Several texts of one example are rows of the model.
        return {"scores": scores.view(len(texts), -1), "texts": texts}

    def postprocess(self, outputs: dict[str, Any], top_k: int | None = None) -> Any:
        """Return the scores of an example under the names of what they are of."""
        scores, text = outputs["scores"][0], outputs["texts"][0]
        if self.model.pipeline_task == MATCHING:
            if isinstance(text, str):
                return {"text": text, "score": scores.item()}
            return [
                {"text": text[number], "score": score} for number, score in best_choices(scores, top_k or len(text))
            ]
        name = "answer" if self.model.pipeline_task == ANSWERING else "label"
        labels = self.model.config.id2label
        return [{name: labels[number], "score": score} for number, score in best_choices(scores, top_k or 5)]

    def save_pretrained(self, save_directory: str, **kwargs) -> None:
        """Save the model, with its code, and the processor."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def as_list(value: Any) -> list:
    """Return what is in a list or tuple, or the value alone."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def fetch(url: str) -> bytes:
    """Return the file at a web address; raise `ValueError` if there is none."""
    try:
        with urlopen(Request(url, headers=HEADERS), timeout=TIMEOUT) as answer:
            return answer.read()
    except (OSError, ValueError) as error:
        raise ValueError(f"{url}: the image cannot be fetched ({error})") from error


def is_url(image: Any) -> bool:
    """Return whether an image is given as a web address."""
    return isinstance(image, str) and image.startswith(("http://", "https://"))
