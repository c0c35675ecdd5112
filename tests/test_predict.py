"""`renaissance predict`: answers of every kind of model to one example and to files, as the model itself gives them."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, tiny_bert, tiny_model, tiny_vit
from datasets import Dataset
from own_files import png
from PIL import Image

from renaissance import RenaissanceProcessor
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives_labelled import AnswersData, ImageClassesData, RegionsData
from renaissance.processing.regions import crop_boxes
from renaissance.tasks.run_record import RunRecord
from renaissance_cli.main import main


NAMES = ["cat", "dog", "bird"]
WORDS = "a red circle"
KINDS = {
    "ForImagesAndTextClassification": {"num_labels": 3},
    "ForImageTextClassification": {"num_labels": 3},
    "ForVisualQuestionAnswering": {"num_labels": 3},
    "ForSequenceClassification": {"num_labels": 3},
    "ForImageClassification": {"num_labels": 3},
    "ForReferenceResolution": {},
    "ForImageTextRetrieval": {},
    "ForPreTraining": {},
    "ForMaskedLM": {},
    "Model": {},
}


@pytest.fixture(scope="module")
def checkpoints(tokenizer_folder, tmp_path_factory):
    """A folder with a tiny two-tower model of each kind, by its name."""
    root = tmp_path_factory.mktemp("checkpoints")
    processor = RenaissanceProcessor.from_encoders(str(tokenizer_folder), image_size=32)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}

    def make(kind: str, name: str, **fields):
        torch.manual_seed(0)
        sizes = {"cross_modal_hidden_size": 16, "cross_modal_layers": 1, "cross_modal_heads": 2}
        text = tiny_bert(vocab_size=len(processor.tokenizer))
        model = CLASSES["two-tower", kind].from_encoders(text, tiny_vit(), initializer_range=0.3, **sizes, **fields)
        processor.fit(model)
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)

    for kind, fields in KINDS.items():
        make(kind, kind, **(fields and names))
    make("ForImageTextClassification", "several", **names, problem_type="multi_label_classification")
    make("ForSequenceClassification", "score", num_labels=1, problem_type="regression")
    make("ForPreTraining", "words", objectives=["mlm"])
    make("ForPreTraining", "vectors", objectives=["contrastive"])
    answers = {"vqa_answers": ["yes", "no", "two"], "image_classes": NAMES}
    make("ForPreTraining", "labelled", objectives=["itm", "vqa", "grounding", "classification"], **answers)
    make("ForPreTraining", "classified", objectives=["mim", "classification"], **answers)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))
    Image.radial_gradient("L").resize((24, 16)).save(folder / "graded.png")
    return folder


def loaded(folder):
    kind = next((kind for kind in KINDS if folder.name == kind), "ForImageTextClassification")
    kind = {"score": "ForSequenceClassification"}.get(folder.name, kind)
    return CLASSES["two-tower", kind].from_pretrained(folder).eval(), RenaissanceProcessor.from_pretrained(folder)


def logits_of(folder, images=None, text=None, **options) -> torch.Tensor:
    model, processor = loaded(folder)
    with torch.inference_mode():
        return model(**processor(images, text, return_tensors="pt", as_uint8=images is not None, **options)).logits


def predict(tmp_path, folder, *argv) -> list[dict]:
    main(["predict", str(folder), *map(str, argv), "--output", str(tmp_path / "out.json")])
    return json.loads((tmp_path / "out.json").read_text())


def scores_of(entry: dict) -> list[float]:
    return [entry["scores"][name] for name in NAMES]


def test_one_pair_of_images(checkpoints, photos, tmp_path, capsys):
    folder, paths = checkpoints / "ForImagesAndTextClassification", [photos / "0.png", photos / "1.png"]
    (entry,) = predict(tmp_path, folder, "--image", *paths, "--text", WORDS)
    expected = logits_of(folder, [[Image.open(path) for path in paths]], [WORDS]).softmax(-1)[0]
    assert scores_of(entry) == pytest.approx(expected.tolist(), abs=1e-5)
    assert entry["answer"] == NAMES[expected.argmax()] and entry["id"] == 0
    assert capsys.readouterr().out.splitlines()[0] == entry["answer"]
    (other,) = predict(tmp_path, folder, "--image", *reversed(paths), "--text", WORDS)
    assert scores_of(other) != pytest.approx(scores_of(entry), abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "function"),
    [("ForImageTextClassification", torch.softmax), ("ForVisualQuestionAnswering", lambda x, dim: x.sigmoid())],
)
def test_one_image_and_text(kind, function, checkpoints, photos, tmp_path):
    folder = checkpoints / kind
    (entry,) = predict(tmp_path, folder, "--image", photos / "2.png", "--text", WORDS)
    expected = function(logits_of(folder, [Image.open(photos / "2.png")], [WORDS]), dim=-1)[0]
    assert scores_of(entry) == pytest.approx(expected.tolist(), abs=1e-5)
    assert entry["answer"] == NAMES[expected.argmax()]
    (best,) = predict(tmp_path, folder, "--image", photos / "2.png", "--text", WORDS, "--top_k", "1")
    assert list(best["scores"]) == [entry["answer"]]


def test_texts_alone_in_pairs_and_with_a_score(checkpoints, tmp_path):
    folder = checkpoints / "ForSequenceClassification"
    (single,) = predict(tmp_path, folder, "--text", WORDS)
    assert scores_of(single) == pytest.approx(logits_of(folder, text=[WORDS]).softmax(-1)[0].tolist(), abs=1e-5)
    (pair,) = predict(tmp_path, folder, "--text", WORDS, "--text_pair", "a blue square")
    expected = logits_of(folder, text=[WORDS], text_pair=["a blue square"]).softmax(-1)[0]
    assert scores_of(pair) == pytest.approx(expected.tolist(), abs=1e-5) != scores_of(single)
    (score,) = predict(tmp_path, checkpoints / "score", "--text", WORDS)
    number = logits_of(checkpoints / "score", text=[WORDS]).item()
    assert score["scores"] == {"score": pytest.approx(number, abs=1e-5)} and score["answer"] == f"{number:.3f}"


def test_an_image_alone(checkpoints, photos, tmp_path):
    folder = checkpoints / "ForImageClassification"
    (entry,) = predict(tmp_path, folder, "--image", photos / "1.png")
    expected = logits_of(folder, [Image.open(photos / "1.png")]).softmax(-1)[0]
    assert scores_of(entry) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["ForImageTextRetrieval", "ForPreTraining"])
def test_whether_image_and_text_match(kind, checkpoints, photos, tmp_path):
    folder = checkpoints / kind
    (entry,) = predict(tmp_path, folder, "--image", photos / "1.png", "--text", WORDS)
    logits = logits_of(folder, [Image.open(photos / "1.png")], [WORDS])
    match = logits["itm"].softmax(-1)[0, 1] if kind == "ForPreTraining" else logits[0, 0].sigmoid()
    assert entry["scores"] == {"match": pytest.approx(match.item(), abs=1e-5)}
    assert entry["answer"] == ("match" if match > 0.5 else "no match")


def test_the_box_that_an_expression_means(checkpoints, photos, tmp_path):
    folder, boxes = checkpoints / "ForReferenceResolution", [[0, 0, 10, 8], [10, 4, 12, 12], [2, 2, 6, 6]]
    argv = ["--image", photos / "graded.png", "--text", WORDS, "--boxes", *(",".join(map(str, box)) for box in boxes)]
    (entry,) = predict(tmp_path, folder, *argv)
    crops = crop_boxes(Image.open(photos / "graded.png"), boxes)
    expected = logits_of(folder, [crops], [WORDS]).softmax(-1)[0]
    assert [entry["scores"][f"box {number}"] for number in range(3)] == pytest.approx(expected.tolist(), abs=1e-4)
    assert max(expected) > 0.34
    assert entry["choice"] == expected.argmax().item() and entry["box"] == boxes[entry["choice"]]


def test_heads_of_pretraining_that_are_tasks(checkpoints, photos, tmp_path):
    """Each says what the objective scores; a model with none of matching or missing words is asked with the first."""
    folder, boxes = checkpoints / "labelled", [[0, 0, 10, 8], [10, 4, 12, 12], [2, 2, 6, 6]]
    model = CLASSES["two-tower", "ForPreTraining"].from_pretrained(folder).eval()
    processor = RenaissanceProcessor.from_pretrained(folder)
    image = Image.open(photos / "graded.png").convert("RGB")
    row = {"image": image, "image_id": "0", "sample_id": 0, "epoch": 0, "text": WORDS, "answers": ["no"]}
    row |= {"boxes": boxes, "label": 1, "class_name": "dog"}
    shown = {
        "vqa": model.config.vqa_answers,
        "grounding": [f"box {number}" for number in range(3)],
        "classification": NAMES,
    }
    given = ["--image", str(photos / "graded.png"), "--objective"]
    more = {
        "vqa": ["--text", WORDS],
        "grounding": ["--text", WORDS, "--boxes", *(",".join(map(str, box)) for box in boxes)],
        "classification": [],
    }
    for kind in (AnswersData, RegionsData, ImageClassesData):
        data = kind()
        data.fit(model.config)
        with torch.inference_mode():
            logits = model(**PretrainingCollator(processor, [data])([row])).logits[data.name][0]
        expected = logits.sigmoid() if data.name == "vqa" else logits.softmax(dim=-1)
        (entry,) = predict(tmp_path, folder, *given, data.name, *more[data.name])
        found = [entry["scores"][name] for name in shown[data.name]]
        assert found == pytest.approx(expected.tolist(), abs=1e-4), data.name
    (entry,) = predict(tmp_path, checkpoints / "classified", *given[:2])
    assert entry["scores"].keys() == set(NAMES)
    (entry,) = predict(tmp_path, folder, *given[:2], "--text", WORDS)
    assert entry["scores"].keys() == {"match"}


def test_an_objective_that_cannot_be_asked_for(checkpoints, photos, refused):
    argv = ["--image", str(photos / "0.png"), "--objective", "vqa"]
    fault = (
        "objective: expected one that this model was pretrained with and that is a task (classification), got 'vqa'"
    )
    assert fault in refused(main, ["predict", str(checkpoints / "classified"), *argv])
    folder = checkpoints / "ForImageClassification"
    assert "objective: without effect on " in refused(main, ["predict", str(folder), *argv])


def test_all_classes_above_one_half(checkpoints, photos, tmp_path):
    folder = checkpoints / "several"
    (entry,) = predict(tmp_path, folder, "--image", photos / "0.png", "--text", WORDS)
    shares = logits_of(folder, [Image.open(photos / "0.png")], [WORDS]).sigmoid()[0].tolist()
    assert scores_of(entry) == pytest.approx(shares, abs=1e-5)
    assert set(entry["answers"]) == {name for name, share in zip(NAMES, shares, strict=True) if share > 0.5}


def test_a_file_of_examples_answers_as_one_by_one(checkpoints, photos, tmp_path, capsys):
    folder = checkpoints / "ForImageTextClassification"
    # More than a batch, with texts of several lengths.
    rows = [(f"{number % 3}.png", WORDS + " left" * (number % 4)) for number in range(19)]
    lines = ["picture,words,key", *(f"{image},{text},k{number}" for number, (image, text) in enumerate(rows))]
    (photos / "own.csv").write_text("\n".join(lines) + "\n")
    columns = ["--image_column", "picture", "--text_column", "words", "--id_column", "key"]
    entries = predict(tmp_path, folder, "--file", photos / "own.csv", *columns)
    printed = capsys.readouterr().out.splitlines()
    assert [entry["id"] for entry in entries] == [f"k{number}" for number in range(19)]
    assert [line.split("\t")[:2] for line in printed] == [[entry["id"], entry["answer"]] for entry in entries]
    for number in (0, 7, 18):
        image, text = rows[number]
        (single,) = predict(tmp_path, folder, "--image", photos / image, "--text", text)
        assert scores_of(entries[number]) == pytest.approx(scores_of(single), abs=1e-5)


def test_files_of_pairs_boxes_and_texts(checkpoints, photos, tmp_path):
    (photos / "pairs.jsonl").write_text(
        "".join(json.dumps({"l": "0.png", "r": f"{number}.png", "text": WORDS}) + "\n" for number in (1, 2))
    )
    folder = checkpoints / "ForImagesAndTextClassification"
    entries = predict(tmp_path, folder, "--file", photos / "pairs.jsonl", "--images_column", "l", "r")
    (single,) = predict(tmp_path, folder, "--image", photos / "0.png", photos / "2.png", "--text", WORDS)
    assert scores_of(entries[1]) == pytest.approx(scores_of(single), abs=1e-5)
    boxes = [[0, 0, 10, 8], [10, 4, 12, 12]]
    (photos / "boxes.jsonl").write_text(json.dumps({"image": "1.png", "text": WORDS, "boxes": boxes}) + "\n")
    (entry,) = predict(tmp_path, checkpoints / "ForReferenceResolution", "--file", photos / "boxes.jsonl")
    argv = ["--image", photos / "1.png", "--text", WORDS, "--boxes", "0,0,10,8", "10,4,12,12"]
    (single,) = predict(tmp_path, checkpoints / "ForReferenceResolution", *argv)
    assert entry == single
    (photos / "texts.csv").write_text(f"text\n{WORDS}\na blue square\n")
    entries = predict(tmp_path, checkpoints / "ForSequenceClassification", "--file", photos / "texts.csv")
    (single,) = predict(tmp_path, checkpoints / "ForSequenceClassification", "--text", "a blue square")
    assert scores_of(entries[1]) == pytest.approx(scores_of(single), abs=1e-5)


def test_a_folder_of_images_with_one_text_for_all(checkpoints, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.png").write_bytes(png(number))
    entries = predict(tmp_path, checkpoints / "ForImageClassification", "--file", pictures)
    (single,) = predict(tmp_path, checkpoints / "ForImageClassification", "--image", pictures / "2.png")
    assert len(entries) == 3 and scores_of(entries[2]) == pytest.approx(scores_of(single), abs=1e-5)
    entries = predict(tmp_path, checkpoints / "ForImageTextRetrieval", "--file", pictures, "--text", WORDS)
    assert len({entry["scores"]["match"] for entry in entries}) == 3


@pytest.mark.parametrize("kind", ["ForImageTextRetrieval", "ForPreTraining"])
def test_images_are_ranked_for_a_text_and_texts_for_an_image(kind, checkpoints, photos, tmp_path, capsys):
    folder, texts = checkpoints / kind, [WORDS, "a blue square", "left"]
    names = [str(photos / name) for name in ("graded.png", "0.png", "1.png")]

    def alone(image: str, text: str) -> float:
        (entry,) = predict(tmp_path, folder, "--image", image, "--text", text)
        return entry["scores"]["match"]

    for given, ids in (
        (["--image", names[0], "--text", *texts], texts),
        (["--image", *names, "--text", WORDS], names),
    ):
        pairs = [(names[0], text) for text in texts] if ids is texts else [(image, WORDS) for image in names]
        expected = dict(zip(ids, (alone(*pair) for pair in pairs), strict=True))
        capsys.readouterr()
        entries = predict(tmp_path, folder, *given)
        assert [entry["id"] for entry in entries] == sorted(expected, key=lambda name: -expected[name])
        assert [entry["scores"]["match"] for entry in entries] == pytest.approx(
            sorted(expected.values())[::-1], abs=1e-5
        )
        assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [e["id"] for e in entries]
    # The same of a folder, whose images go by their names, of a list of images, and of a list of texts.
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in names:
        (pictures / Path(name).name).write_bytes(Path(name).read_bytes())
    (photos / "list.csv").write_text("photo\n0.png\n1.png\ngraded.png\n")
    (photos / "texts.txt.csv").write_text("words\n" + "\n".join(texts) + "\n")
    best = [Path(entry["id"]).name for entry in entries]
    entries = predict(tmp_path, folder, "--file", pictures, "--text", WORDS)
    assert [entry["id"] for entry in entries] == best
    entries = predict(tmp_path, folder, "--file", photos / "list.csv", "--image_column", "photo", "--text", WORDS)
    assert [entry["id"] for entry in entries] == best
    one = ["--image", names[0], "--text_column", "words"]
    entries = predict(tmp_path, folder, "--file", photos / "texts.txt.csv", *one)
    assert {entry["id"] for entry in entries} == set(texts) and entries == sorted(
        entries, key=lambda entry: -entry["scores"]["match"]
    )
    # Pairs are not ranked.
    (photos / "pairs.csv").write_text("image,text\n" + "\n".join(f"{n}.png,{WORDS}" for n in (2, 0, 1)) + "\n")
    assert [entry["id"] for entry in predict(tmp_path, folder, "--file", photos / "pairs.csv")] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["ForMaskedLM", "ForPreTraining", "words"])
@pytest.mark.parametrize("with_image", [False, True])
def test_words_for_the_masks_of_a_text(kind, with_image, checkpoints, photos, tmp_path, capsys):
    folder, text = checkpoints / kind, "a [MASK] circle left of a [MASK]"
    image = ["--image", photos / "graded.png"] if with_image else []
    (entry,) = predict(tmp_path, folder, *image, "--text", text, "--top_k", "2")
    model = CLASSES["two-tower", "ForMaskedLM"].from_pretrained(checkpoints / kind).eval()
    processor = RenaissanceProcessor.from_pretrained(folder)
    inputs = processor([Image.open(photos / "graded.png")] if with_image else None, [text], return_tensors="pt")
    with torch.inference_mode():
        scores = model(**inputs).logits[0, inputs["input_ids"][0] == processor.tokenizer.mask_token_id].softmax(-1)
    best = scores.topk(2)
    words = [[processor.tokenizer.decode([n]) for n in numbers] for numbers in best.indices.tolist()]
    assert [list(found) for found in entry["masks"]] == words
    assert [list(found.values()) for found in entry["masks"]] == [
        pytest.approx(each, abs=1e-5) for each in best.values.tolist()
    ]
    assert (
        entry["answer"] == f"a {words[0][0]} circle left of a {words[1][0]}" and entry["scores"] == entry["masks"][0]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == entry["answer"] and [line[10:] for line in printed[1:]] == [*words[0], "", *words[1]]


def test_a_folder_of_images_for_one_text_with_a_mask(checkpoints, photos, tmp_path):
    (photos / "masks.csv").write_text("image,text\n0.png,a [MASK]\n1.png,the [MASK] circle\n")
    entries = predict(tmp_path, checkpoints / "ForPreTraining", "--file", photos / "masks.csv")
    (single,) = predict(
        tmp_path, checkpoints / "ForPreTraining", "--image", photos / "1.png", "--text", "the [MASK] circle"
    )
    assert entries[1]["scores"] == pytest.approx(single["scores"], abs=1e-5) and "masks" not in single


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet", "tar"])
def test_every_kind_of_file(ending, checkpoints, photos, tmp_path):
    rows = [{"image": f"{number}.png", "text": WORDS + " left" * number} for number in range(3)]
    path = photos / f"every.{ending}"
    if ending == "tar":
        with tarfile.open(path, "w") as tar:
            for row in rows:
                for name, content in (("png", (photos / row["image"]).read_bytes()), ("txt", row["text"].encode())):
                    info = tarfile.TarInfo(f"{row['image'][:-4]}.{name}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    elif ending == "parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    elif ending.startswith("json"):
        text = json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text)
    else:
        separator = "," if ending == "csv" else "\t"
        path.write_text("".join(separator.join(line) + "\n" for line in [("image", "text"), *map(dict.values, rows)]))
    columns = ["--image_column", "png", "--text_column", "txt"] if ending == "tar" else []
    entries = predict(tmp_path, checkpoints / "ForImageTextClassification", "--file", path, *columns)
    for entry, row in zip(entries, rows, strict=True):
        image = photos / row["image"]
        (single,) = predict(
            tmp_path, checkpoints / "ForImageTextClassification", "--image", image, "--text", row["text"]
        )
        assert scores_of(entry) == pytest.approx(scores_of(single), abs=1e-5)


def test_one_tower_and_code_that_comes_with_a_checkpoint(processor, tmp_path):
    """Trust changes nothing for a model of this package: its own code is used."""
    folder = tmp_path / "model"
    tiny_model("one-tower-text", "ForSequenceClassification", num_labels=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    first = predict(tmp_path, folder, "--text", WORDS)
    assert predict(tmp_path, folder, "--text", WORDS, "--trust_remote_code") == first


def test_the_model_of_the_demo_answers_without_noise(checkpoints, caplog, capfd):
    main(["demo", str(checkpoints / "ForImagesAndTextClassification")])
    said = capfd.readouterr()
    assert "is a TwoTowerModel." in said.out and said.out.count("true with probability") == 8
    assert "UNEXPECTED" not in said.out + said.err + caplog.text


@pytest.mark.parametrize(
    ("checkpoint", "argv", "message"),
    [
        ("nowhere", ["--text", "x"], "no checkpoint there"),
        (".", ["--text", "x"], "no checkpoint there"),
        ("Model", ["--text", "x"], "is a TwoTowerModel, which gives no answers; finetune it first"),
        ("ForMaskedLM", ["--text", "x"], "text 'x': expected [MASK] in it"),
        ("words", ["--text", "x"], "text 'x': expected [MASK] in it"),
        ("words", ["--text", "[MASK] " + "x " * 600 + "[MASK]"], "lies beyond the 40 tokens"),
        ("vectors", ["--text", "x"], "was pretrained with contrastive alone, and gives no answers"),
        ("ForPreTraining", ["--text", "x"], "needs --image, or a text with [MASK]"),
        ("ForPreTraining", ["--file", "some.csv"], "text 'a': expected [MASK] in it, for each missing word, as in all texts"),
        ("ForImageTextRetrieval", ["--text", "x"], "needs --image"),
        ("ForImageTextRetrieval", ["--image", "0.png", "1.png", "--text", "x", "y"], "--image, --text: expected one of one"),
        ("ForImageTextRetrieval", ["--file", "some.csv", "--text", "x", "y"], "--text: expected 1 beside --file, got 2"),
        ("ForImageTextClassification", ["--image", "0.png", "--text", "x", "y"], "--text: expected 1 for this model, got 2"),
        ("ForImageClassification", ["--image", "."], "--image .: a folder, expected a file; --file . asks"),
        ("ForImageClassification", ["--image", "broken.png"], "broken.png"),
        ("ForSequenceClassification", ["--text", "x", "--output", "none/out.json"], "--output: none/out.json: no such folder"),
        ("ForSequenceClassification", ["--text", "x", "--token", ""], "token: expected an access token"),
        ("bert", ["--text", "x"], "is a bert model; expected a Renaissance checkpoint"),
        ("ForReferenceResolution", ["--image", "0.png", "--text", "x", "--boxes", "1,nan,3,4"], "--boxes: expected left,top"),
        ("ForReferenceResolution", ["--image", "0.png", "--text", "x", "--boxes", "a,b,c,d"], "--boxes: expected left,top"),
        ("ForImageClassification", ["--image", "0.png", "--boxes", "1,2,3,4"], "--boxes: without effect"),
        ("ForImageTextClassification", ["--text", "x"], "needs --image"),
        ("ForImageTextClassification", [], "needs --image and --text"),
        ("ForImageTextClassification", ["--image", "0.png", "1.png", "--text", "x"], "--image: expected 1 for this model"),
        ("ForImagesAndTextClassification", ["--image", "0.png", "--text", "x"], "--image: expected 2 for this model, got 1"),
        ("ForImageTextClassification", ["--image", "9.png", "--text", "x"], "--image 9.png: no such file"),
        ("ForImageClassification", ["--image", "0.png", "--text", "x"], "--text: without effect"),
        ("ForReferenceResolution", ["--image", "0.png", "--text", "x"], "needs --boxes"),
        ("ForReferenceResolution", ["--image", "0.png", "--text", "x", "--boxes", "1,2,3"], "--boxes: expected left,top"),
        ("ForReferenceResolution", ["--image", "0.png", "--text", "x", "--boxes", "90,0,9,9"], "expected a box inside the image"),
        ("ForSequenceClassification", ["--text", "x", "--text_column", "y"], "--text_column: without effect without --file"),
        ("ForSequenceClassification", ["--text", "x", "--top_k", "0"], "--top_k: expected at least 1"),
        ("ForSequenceClassification", ["--file", "none.csv"], "--file: no such file or folder: 'none.csv'"),
        ("ForImageTextClassification", ["--file", "bad.csv"], "row 1"),
        ("ForImageTextClassification", ["--file", "bad.csv", "--text_column", "wrods"], "wrods"),
        ("ForImageTextClassification", ["--file", "broken.png.csv"], "broken.png"),
        ("ForImageTextClassification", ["--image", "0.png", "--text", " "], "--text: expected a text, got a blank one"),
        ("ForImageTextClassification", ["--image", "0.png", "--text", "x", "--text_pair", ""], "--text_pair: expected a text"),
        ("ForImageTextClassification", ["--image", "", "--text", "x"], "--image: expected a name, got a blank one"),
        ("ForImageTextClassification", ["--file", "some.csv", "--text_column", ""], "--text_column: expected a name, got a blank"),
        ("ForImageTextClassification", ["--file", "blank.csv"], "2 of 4 rows cannot be used: row 2: the path of the image is blank"),
        ("ForImageTextClassification", ["--file", "blank.csv"], "row 1: the text in column 'text' is blank (2 such rows: 1, 2)"),
        ("ForImageTextClassification", ["--file", "lists.jsonl"], "expected text in column 'text', found lists of string"),
        ("ForSequenceClassification", ["--file", "blank.csv"], "row 1: the text in column 'text' is blank (2 such rows: 1, 2)"),
        ("ForSequenceClassification", ["--file", "pairs.csv"], "row 1: the text in column 'text_pair' is blank"),
        ("ForMaskedLM", ["--file", "blank.csv"], "row 1: the text in column 'text' is blank (2 such rows: 1, 2)"),
        ("ForImageTextRetrieval", ["--file", "blank.csv", "--text", "x"], "row 2: the path of the image is blank"),
        ("ForImagesAndTextClassification", ["--file", "sets.jsonl"], "row 1: expected 2 images in column 'images', got 1"),
        ("ForImagesAndTextClassification", ["--file", "some.csv"], "no column images, only image, text; name yours with --images_c"),
        ("ForReferenceResolution", ["--file", "boxes0.jsonl"], "boxes0.jsonl: 1 of 1 rows cannot be used: row 0: expected at least one"),
        ("ForReferenceResolution", ["--file", "boxes1.jsonl"], "expected lists of boxes of four numbers in column 'boxes', found lists of"),
        ("ForReferenceResolution", ["--file", "boxes2.jsonl"], "boxes2.jsonl: 1 of 1 rows cannot be used: row 0: box 1: expected a box"),
        ("ForReferenceResolution", ["--file", "boxes3.jsonl"], "row 0: box 0: expected left, top, and a width and a height above 0"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(checkpoint, argv, message, checkpoints, photos, monkeypatch, capsys):
    (photos / "bad.csv").write_text("image,text\n0.png,a\nmissing.png,b\n")
    (photos / "some.csv").write_text("image,text\n0.png,a [MASK]\n1.png,a\n")
    # A line without values is no row, and one of separators is.
    (photos / "blank.csv").write_text("image,text\n0.png,a [MASK]\n\n1.png, \n,\n2.png,a [MASK]\n")
    (photos / "pairs.csv").write_text("text,text_pair\na,b\na,\n")
    (photos / "lists.jsonl").write_text(json.dumps({"image": "0.png", "text": ["a", "b"]}) + "\n")
    sets = [{"images": ["0.png", "1.png"][:count], "text": "a"} for count in (2, 1)]
    (photos / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sets))
    for number, boxes in enumerate(([], [0, 0, 5, 5], [[0, 0, 5, 5], [0, 0, 99, 5]], [[0, 0, 5, 0]])):
        row = {"image": "0.png", "text": "a", "boxes": boxes}
        (photos / f"boxes{number}.jsonl").write_text(json.dumps(row) + "\n")
    tiny_bert().save_pretrained(checkpoints / "bert")
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "broken.png.csv").write_text("image,text\nbroken.png,a\n")
    monkeypatch.chdir(photos)
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(checkpoints / checkpoint), *argv])
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert stopped.value.code == 2 and len(errors) == 1 and message in errors[0], errors


def record_beside(output: Path, name: str = "run.json") -> dict:
    record = json.loads(output.with_name(name).read_text())
    assert (
        record["status"] == "finished" and record["did"] == ["predict"] and record["script"] == "renaissance predict"
    )
    return record


def test_answers_in_a_file_leave_a_record_of_the_run(checkpoints, photos, tmp_path, capsys):
    folder = checkpoints / "ForImageTextClassification"
    predict(tmp_path, folder, "--image", photos / "0.png", "--text", WORDS, "--top_k", "2")
    record, model = record_beside(tmp_path / "out.json"), loaded(folder)[0]
    assert str(tmp_path / "run.json") in capsys.readouterr().err
    assert (
        record["started_from"] == "./ForImageTextClassification"
        and record["history"][0]["name"] == record["started_from"]
    )
    assert record["model_class"] == type(model).__name__ and record["parameters"] == sum(
        map(torch.numel, model.parameters())
    )
    options = {"image": ["./0.png"], "text": [WORDS], "top_k": 2, "output": "out.json"}
    assert record["options"] == options and str(tmp_path) not in json.dumps(record)
    assert [(each["split"], each["sources"], each["rows"]) for each in record["data"]] == [("examples", [], 1)]
    known = {"versions", "host", "hardware", "started", "finished", "run_id", "peak_memory_bytes", "task"}
    assert all(record[name] for name in known) and record["metrics"] == []
    assert RunRecord.read(tmp_path).data[0].rows == 1


def test_the_record_of_a_file_of_examples_knows_its_rows(checkpoints, tmp_path):
    (tmp_path / "own.csv").write_text("text\na red circle\na star\na square\n")
    found = []
    for content in ("a star", "a star", "a dot"):
        (tmp_path / "own.csv").write_text(f"text\na red circle\n{content}\n")
        predict(tmp_path, checkpoints / "ForSequenceClassification", "--file", tmp_path / "own.csv")
        (data,) = record_beside(tmp_path / "out.json")["data"]
        assert (data["sources"], data["rows"]) == (["./own.csv"], 2)
        found.append(data["fingerprint"])
    assert found[0] == found[1] != found[2]


def test_the_record_of_something_else_stays(checkpoints, tmp_path):
    """That of a training whose folder the answers are written to, and that of other answers."""
    ask = ["predict", str(checkpoints / "ForSequenceClassification"), "--text", WORDS, "--output"]
    training = RunRecord(name="a", did=["train"], script="renaissance glue")
    training.write(tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("not a record")
    for name in ("run", "model", "broken"):
        main([*ask, str(tmp_path / name / "answers.json")])
        record_beside(tmp_path / name / "answers.json", "answers.run.json")
    assert (tmp_path / "run" / "run.json").read_bytes() == before and not (tmp_path / "model" / "run.json").exists()
    assert (tmp_path / "broken" / "run.json").read_text() == "not a record"
    (tmp_path / "two").mkdir()
    for name in ("first.json", "second.json", "first.json", "run.json"):
        main([*ask, str(tmp_path / "two" / name)])
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == ["first.json", "run.json", "run.run.json", "second.json", "second.run.json"]


def test_what_is_only_shown_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["predict", str(checkpoints / "ForSequenceClassification"), "--text", WORDS])
    assert not list(tmp_path.iterdir())
