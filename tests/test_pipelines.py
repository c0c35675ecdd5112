"""
Pipelines: those of transformers, and our own for images and texts, on saved folders in a process where this package is not
installed; a loop that masks one token at a time.
"""

import json
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, tiny_model
from hub import keep_modules_in
from PIL import Image
from pipeline_calls import OTHER, TEXT, draw_pictures, run_pipelines, save_models
from strangers import run_elsewhere
from transformers import AutoProcessor, pipeline

from renaissance import ImageTextPipeline


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Image.Image]:
    return draw_pictures()


#: In this process, with the package; and in one that cannot import it.
PROCESSES = [("two-tower", "here"), *((name, "elsewhere") for name in ARCHITECTURES)]


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, marks=[pytest.mark.slow] * (case[1] == "elsewhere")) for case in PROCESSES],
    ids=lambda case: "-".join(case),
)
def ran(request, tmp_path_factory, processor) -> dict:
    """The models by kind under `models`, and the results of `run_pipelines` on what was saved of them."""
    root = tmp_path_factory.mktemp("pipelines")
    architecture, process = request.param
    models = save_models(root / "models", architecture, processor)
    if process == "here":
        with pytest.MonkeyPatch.context() as patch:
            keep_modules_in(root / "modules", patch)
            run_pipelines(str(root / "models"))
    else:
        done = run_elsewhere(root, run_pipelines, root / "models", HF_HUB_OFFLINE="1")
        assert "UNEXPECTED" not in done.stderr and "newly initialized" not in done.stderr
    return {"models": models, "results": json.loads((root / "models" / "results.json").read_text())}


def assert_scores(found: list[dict], expected: torch.Tensor, name: str = "label") -> None:
    """The entries are the best ones, best first, with the scores (classes,)."""
    best = expected.topk(len(found))
    assert [entry[name] for entry in found] == [f"LABEL_{number}" for number in best.indices.tolist()]
    torch.testing.assert_close(torch.tensor([entry["score"] for entry in found]), best.values, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_pipelines_of_text(ran, processor):
    models, results, tokenizer = ran["models"], ran["results"], processor.tokenizer
    classify = models["ForSequenceClassification"]
    for found, text in zip(results["text-classification"], (TEXT, OTHER), strict=True):
        assert_scores(found, classify(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1))
    assert_scores(results["pair"], classify(**tokenizer(TEXT, OTHER, return_tensors="pt")).logits[0].softmax(-1))
    inputs = tokenizer("a [MASK] circle", return_tensors="pt")
    expected = models["ForMaskedLM"](**inputs).logits[0, 2].softmax(-1).topk(3)
    assert [entry["token"] for entry in results["fill-mask"]] == expected.indices.tolist()
    states = models["Model"](**tokenizer(TEXT, return_tensors="pt")).text_states
    torch.testing.assert_close(torch.tensor(results["feature-extraction"]), states, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_pipelines_of_images(ran, processor, pictures):
    models, results = ran["models"], ran["results"]
    pixels = processor(images=list(pictures.values()), return_tensors="pt")
    for found, logits in zip(
        results["image-classification"], models["ForImageClassification"](**pixels).logits, strict=True
    ):
        assert_scores(found, logits.softmax(-1))
    base = models["Model"](pixel_values=pixels["pixel_values"][:1])
    torch.testing.assert_close(
        torch.tensor(results["image-feature-extraction"]), base.image_states, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(torch.tensor(results["pooled image"]), base.pooled, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_our_pipeline(ran, processor, pictures):
    models, results = ran["models"], ran["results"]
    left, right = pictures.values()

    def inputs(images, texts) -> dict:
        return processor(images=images, text=texts, return_tensors="pt")

    score = models["ForImageTextRetrieval"](**inputs([left], [TEXT])).logits.sigmoid().item()
    assert results["matching"] == {"text": TEXT, "score": pytest.approx(score, abs=1e-5)}
    matching = models["ForPreTraining"](**inputs([left, left], [TEXT, OTHER])).logits["itm"].softmax(-1)[:, 1].tolist()
    expected = sorted(zip((TEXT, OTHER), matching, strict=True), key=lambda pair: -pair[1])
    assert results["matching of pretraining"] == [
        {"text": t, "score": pytest.approx(s, abs=1e-5)} for t, s in expected
    ]
    classes = models["ForImageTextClassification"](**inputs([left], [TEXT])).logits[0].softmax(-1)
    assert_scores(results["classification"], classes)
    classes = models["ForImagesAndTextClassification"](**inputs([[left, right]], [TEXT])).logits[0].softmax(-1)
    assert_scores(results["two images"], classes)
    answers = models["ForVisualQuestionAnswering"](**inputs([left, right], [TEXT, OTHER])).logits.sigmoid()
    for found, expected in zip(results["question"], answers, strict=True):
        assert_scores(found, expected, name="answer")


def test_our_pipeline_takes_images_and_examples_in_all_forms(ran):
    results, one = ran["results"], ran["results"]["matching"]
    assert results["forms of an image"] == [pytest.approx(one)] * 5 and results["keywords"] == [one] * 2
    expected = [pytest.approx(found, abs=1e-5) for found in results["examples one by one"]]
    assert results["examples one by one"][0] == one and len({str(found) for found in expected}) == 3
    assert results["examples in batches"] == [expected] * 3
    best, every, of_none = results["best texts"]
    assert best == every[:2] and len(every) == 3 and of_none == []
    assert results["no such address"] == "URL.jpg: the image cannot be fetched (HTTP Error 404: File not found)"


@torch.no_grad()
def test_pipelines_of_transformers_with_candidates_and_data_sets(ran, processor, pictures):
    models, results = ran["models"], ran["results"]
    inputs = processor(images=[pictures["left"]] * 2, text=[TEXT, OTHER], return_tensors="pt")
    scores = models["ForImageTextRetrieval"](**inputs).logits.squeeze(1).softmax(dim=0).tolist()
    found = {entry["label"]: entry["score"] for entry in results["zero-shot"]}
    assert found == pytest.approx(dict(zip((TEXT, OTHER), scores, strict=True)), abs=1e-5)
    batched, single = results["texts of a data set"]
    assert batched == [pytest.approx(found, abs=1e-5) for found in single] and len(batched) == 3


def test_tokenizer_and_image_processor_load_alone(ran, processor, pictures):
    results, ids = ran["results"], processor.tokenizer(TEXT)["input_ids"]
    assert results["tokens"] == [ids] * 3
    expected = processor(images=pictures["left"], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(torch.tensor(results["pixels"]), expected)


def test_pipelines_of_transformers_get_the_pixels_of_training(processor, tmp_path):
    """With the processor's own image processor, as docs/sharing.md says; beside torchvision they load another by themselves."""
    model = tiny_model("two-tower", "ForImageClassification").eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    picture = Image.radial_gradient("L").resize((300, 200))
    pixels = processor(images=picture, return_tensors="pt")
    with torch.no_grad():
        states, logits = model.base_model(**pixels).image_states, model(**pixels).logits[0]
    images = AutoProcessor.from_pretrained(tmp_path).image_processor
    features = pipeline("image-feature-extraction", model=str(tmp_path), image_processor=images)
    assert torch.equal(features.preprocess(picture)["pixel_values"], pixels["pixel_values"])
    assert torch.equal(torch.tensor(features(picture)), states)
    classes = pipeline("image-classification", model=str(tmp_path), image_processor=images)
    assert torch.equal(classes.preprocess(picture)["pixel_values"], pixels["pixel_values"])
    assert_scores(classes(picture), logits.softmax(-1))


@torch.no_grad()
def test_one_token_masked_at_a_time(ran, processor, pictures):
    """Padding on the right and the image are no matter: each row has the scores of its sentence alone."""
    model, results = ran["models"]["ForMaskedLM"], ran["results"]
    pixels = processor(images=pictures["left"], return_tensors="pt")
    for name, images in (("text alone", {}), ("text and image", pixels)):
        for total, text in zip(results[name], (TEXT, OTHER), strict=True):
            ids = processor(text=text, return_tensors="pt")["input_ids"]
            expected = 0.0
            for place in range(1, ids.shape[1] - 1):
                masked = ids.clone()
                masked[0, place] = processor.tokenizer.mask_token_id
                expected += model(input_ids=masked, **images).logits[0, place].log_softmax(-1)[ids[0, place]].item()
            assert total == pytest.approx(expected, abs=1e-3)
    assert results["text alone"] != results["text and image"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, processor) -> Path:
    folder = tmp_path_factory.mktemp("matching")
    tiny_model("two-tower", "ForImageTextRetrieval").save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_importing_the_package_registers_the_pipeline(folder, processor, pictures, tmp_path):
    """No trust in code beside the checkpoint is needed then; saving a pipeline saves all of it."""
    pipe = pipeline("image-text-matching", model=str(folder), device="cpu")
    assert isinstance(pipe, ImageTextPipeline)
    assert type(pipe.model).__module__ == "renaissance.modeling.modeling_two_tower"
    expected = pipe(pictures["left"], TEXT)
    pipe.save_pretrained(tmp_path)
    assert pipeline("image-text-matching", model=str(tmp_path), device="cpu")(pictures["left"], TEXT) == expected
    given = ImageTextPipeline(model=pipe.model, processor=processor, device="cpu")
    assert given(pictures["left"], TEXT) == expected
    assert "custom_pipelines" in json.loads((tmp_path / "config.json").read_text())
    assert "image-text-matching" in repr(pipe.model.config)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"image": "left.png"}, "expected an example with an image and a text, got images"),
        ({}, "expected an example with an image and a text, got nothing"),
        ({"image": "left.png", "text": "a", "label": 1}, "got images, text, label"),
        ("left.png", "expected an image and a text, or examples with both, got a str"),
        ({"image": ["left", "right"], "text": "a"}, "images: expected 1 with a text, got 2"),
        ({"image": "left.png", "text": []}, "text: expected one text an example, got 0"),
        ({"image": "nothing.png", "text": "a"}, "nothing.png"),
        ({"image": "left.png", "text": 5}, "text: expected a string, got 5"),
        ({"image": ["left", "right"], "text": "a"}, r"give several examples as \[\{"),
        ({"image": "http://127.0.0.1:1/a.png", "text": "a"}, "http://127.0.0.1:1/a.png: the image cannot be fetched"),
    ],
)
def test_examples_that_are_not(folder, example, message):
    pipe = pipeline("image-text-matching", model=str(folder), device="cpu")
    with pytest.raises(ValueError, match=message):
        pipe(example)


def test_what_the_pipeline_cannot_do(folder, processor, pictures):
    pipe = pipeline("image-text-matching", model=str(folder), device="cpu")
    several = [{"image": pictures["left"], "text": [TEXT, OTHER]}] * 2
    assert len(pipe(several)) == 2
    with pytest.raises(ValueError, match="batch_size: expected 1"):
        pipe(several, batch_size=2)
    for number in (0, "two"):
        with pytest.raises(ValueError, match=f"top_k: expected at least 1, got {number}"):
            pipe(pictures["left"], TEXT, top_k=number)
    with pytest.raises(ValueError, match="threshold: no option of this pipeline, which has top_k"):
        pipe(pictures["left"], TEXT, threshold=0.5)
    with pytest.raises(ValueError, match="images, image: expected one of them"):
        pipe(pictures["left"], image=pictures["left"], text=TEXT)
    with pytest.raises(ValueError, match="processor: expected the processor of the model"):
        ImageTextPipeline(model=pipe.model, tokenizer=processor.tokenizer, device="cpu")
    for kind in ("Model", "ForMaskedLM"):
        with pytest.raises(ValueError, match=f"model: expected a model that matches.*, got TwoTower{kind}"):
            ImageTextPipeline(model=tiny_model("two-tower", kind), processor=processor, device="cpu")
