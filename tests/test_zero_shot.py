"""What a dual encoder says without training: images by prompts, by the pipeline of transformers, and by `renaissance predict`."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, TWO_TOWER, tiny_model
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.runner import run_task
from renaissance_cli.main import main


@pytest.fixture
def folder_of_classes(tmp_path) -> Path:
    """Six images in folders with the names of their classes."""
    rng = np.random.default_rng(0)
    for number in range(6):
        place = tmp_path / "images" / ("red circle", "blue star", "square")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(coarse).save(place / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def checkpoint(tmp_path, processor) -> Path:
    """A dual encoder from pretraining, with its processor."""
    model = tiny_model("dual-encoder", "ForPreTraining")
    processor.fit(model)
    # Random images are much alike: without what they share they differ in their class.
    head = model.model.contrastive_head
    with torch.no_grad():
        images = model.model.encode_image(
            torch.randint(0, 256, (16, 3, 4, 4), dtype=torch.uint8).repeat_interleave(8, -1).repeat_interleave(8, -2)
        )
        head.image_projection.bias -= head.image_projection(model.model.summary(images)).mean(dim=0)
    model.save_pretrained(tmp_path / "dual")
    processor.save_pretrained(tmp_path / "dual")
    return tmp_path / "dual"


@pytest.mark.parametrize("prompts", [["a photo of a {}"], ["a {}", "{} right of {}, small"]])
def test_images_are_classified_by_prompts(prompts, checkpoint, folder_of_classes, options):
    argv = [*options[:-2], "--model_name_or_path", str(checkpoint), "--do_eval", "--do_predict", "--prompts", *prompts]
    argv += ["--validation_file", str(folder_of_classes), "--test_file", str(folder_of_classes)]
    metrics = run_task(CIFAR10, "", argv)
    names = sorted(folder.name for folder in folder_of_classes.iterdir())
    files = sorted(folder_of_classes.rglob("*.png"))
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        classes = []
        for name in names:
            texts = processor(text=[prompt.replace("{}", name) for prompt in prompts], return_tensors="pt")
            vector = model.get_text_features(**texts).pooler_output.mean(dim=0)
            classes.append(vector / vector.norm())
        images = processor(images=[str(file) for file in files], as_uint8=True, return_tensors="pt")
        scores = model.get_image_features(**images).pooler_output @ torch.stack(classes).T
    expected = [names[number] for number in scores.argmax(dim=1).tolist()]
    written = list(csv.reader((Path(options[1]) / "predictions.csv").read_text().splitlines()))
    assert [row[1] for row in written] == expected and len(set(expected)) > 1
    right = np.mean([file.parent.name == name for file, name in zip(files, expected, strict=True)])
    assert metrics["eval_accuracy"] == pytest.approx(right)


def test_prompts_that_cannot_be_used_are_refused(checkpoint, folder_of_classes, options, refused, tmp_path):
    start = [*options[:-2], "--model_name_or_path", str(checkpoint), "--validation_file", str(folder_of_classes)]
    for prompts, said in (
        (["a photo"], "prompts: expected {} for the name of the class in each, got 'a photo'"),
        (
            ["a {}", "--do_train", "--train_file", str(folder_of_classes)],
            "prompts: images are classified without training",
        ),
        ([" ".join(["red"] * 90) + " {}"], "are the same to the model: it reads "),
    ):
        assert said in refused(run_task, CIFAR10, "", [*start, "--do_eval", "--prompts", *prompts])
    rows = [f"{file},{number % 2}" for number, file in enumerate(sorted(folder_of_classes.rglob("*.png")))]
    (tmp_path / "numbers.csv").write_text("\n".join(["image,label", *rows]))
    argv = [*start[:-1], str(tmp_path / "numbers.csv"), "--do_eval", "--prompts", "a {}"]
    assert "prompts: expected classes with names, got the numbers 0, 1" in refused(run_task, CIFAR10, "", argv)
    (tmp_path / "none.csv").write_text("\n".join(["image", *(row.split(",")[0] for row in rows)]))
    argv = [*start[:-2], "--test_file", str(tmp_path / "none.csv"), "--do_predict", "--prompts", "a {}"]
    assert "prompts: the data has no labels" in refused(run_task, CIFAR10, "", argv)
    argv = [*options, *TWO_TOWER, "--validation_file", str(folder_of_classes), "--do_eval", "--prompts", "a {}"]
    assert "prompts: expected a dual encoder" in refused(run_task, CIFAR10, "", argv)


def test_the_pipeline_of_zero_shot_classification(checkpoint, folder_of_classes):
    pipe = pipeline("zero-shot-image-classification", model=str(checkpoint), device="cpu")
    files = [str(file) for file in sorted(folder_of_classes.rglob("*.png"))[:2]]
    labels = ["red circle", "blue star left of a square"]
    found = pipe(files, candidate_labels=labels, hypothesis_template="a {}")
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    inputs = processor(images=files, text=[f"a {label}" for label in labels], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.softmax(dim=1).tolist()
    for entries, scores in zip(found, expected, strict=True):
        by_label = {entry["label"]: entry["score"] for entry in entries}
        assert [by_label[label] for label in labels] == pytest.approx(scores, abs=1e-5)


def ask(checkpoint: Path, *argv) -> list[dict]:
    """The answers of `renaissance predict`."""
    output = checkpoint.parent / "answers.json"
    main(["predict", str(checkpoint), *map(str, argv), "--output", str(output)])
    return json.loads(output.read_text())


@pytest.fixture(params=["ForPreTraining", "Model", "ForImageTextRetrieval"])
def any_kind(request, checkpoint) -> Path:
    """The same vectors in the checkpoint of each kind."""
    model = CLASSES["dual-encoder", request.param].from_pretrained(checkpoint)
    model.save_pretrained(checkpoint)
    return checkpoint


TEXTS = ["a blue star", "a red circle", "a square left of a circle"]


def vectors_of(checkpoint: Path, files: list[Path], texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors of images and of texts, by the model itself, text by text."""
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        images = processor(images=[str(file) for file in files], as_uint8=True, return_tensors="pt")
        text = [model.get_text_features(**processor(text=[each], return_tensors="pt")).pooler_output for each in texts]
        return model.get_image_features(**images).pooler_output, torch.cat(text)


def test_images_are_ranked_for_a_text_and_texts_for_an_image(any_kind, folder_of_classes, tmp_path, capsys):
    files = sorted(folder_of_classes.rglob("*.png"))
    images, texts = vectors_of(any_kind, files, TEXTS)
    cosines = dict(zip(map(str, files), (images @ texts[0]).tolist(), strict=True))
    best = sorted(cosines, key=lambda name: -cosines[name])
    for given in (["--image", *files], ["--file", folder_of_classes]):
        found = ask(any_kind, *given, "--text", TEXTS[0])
        assert [Path(entry["id"]).name for entry in found] == [Path(name).name for name in best]
        assert [entry["scores"]["cosine"] for entry in found] == pytest.approx([cosines[n] for n in best], abs=1e-5)
    assert capsys.readouterr().out.splitlines()[0].split("\t")[1] == f"{cosines[best[0]]:.3f}"
    (tmp_path / "texts.csv").write_text("\n".join(["text", *TEXTS]))
    found = ask(any_kind, "--file", tmp_path / "texts.csv", "--image", files[0])
    order = (texts @ images[0]).argsort(descending=True).tolist()
    assert [entry["id"] for entry in found] == [TEXTS[number] for number in order]
    (single,) = ask(any_kind, "--image", files[0], "--text", TEXTS[1])
    assert single["scores"]["cosine"] == pytest.approx(float(images[0] @ texts[1]), abs=1e-5)
    # Pairs keep their order.
    rows = [f"{file},{text}" for file, text in zip(files, TEXTS * 2, strict=True)]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,text", *rows]))
    expected = (images * texts[[0, 1, 2] * 2]).sum(dim=1).tolist()
    found = ask(any_kind, "--file", tmp_path / "pairs.csv")
    assert [entry["scores"]["cosine"] for entry in found] == pytest.approx(expected, abs=1e-5)


def test_predict_chooses_among_texts_as_the_pipeline_does(checkpoint, folder_of_classes):
    files = sorted(folder_of_classes.rglob("*.png"))
    pipe = pipeline("zero-shot-image-classification", model=str(checkpoint), device="cpu")
    expected = pipe([str(file) for file in files], candidate_labels=TEXTS, hypothesis_template="{}")
    for given in (["--image", *files], ["--file", folder_of_classes]):
        found = ask(checkpoint, *given, "--text", *TEXTS)
        for entry, choices in zip(found, expected, strict=True):
            scores = {choice["label"]: choice["score"] for choice in choices}
            assert entry["scores"] == pytest.approx(scores, abs=1e-3) and entry["answer"] == choices[0]["label"]
    assert len({entry["answer"] for entry in found}) > 1
    (entry,) = ask(checkpoint, "--image", files[0], "--text", *TEXTS, "--top_k", "1")
    assert list(entry["scores"]) == [found[0]["answer"]]
