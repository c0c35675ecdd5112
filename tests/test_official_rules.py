"""
The benchmarks' own rules, each written down here a second time from what is published, and compared with the package on random
and on tricky inputs: NLVR2, retrieval, RefCOCO, GLUE, SNLI-VE. That of VQA is in test_official_vqa.py.
"""

import json
import math
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_model
from datasets import Dataset
from PIL import Image
from test_retrieval import make_trainer
from transformers import EvalPrediction

from renaissance.tasks.data import schemas
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.refcoco import read_refcoco
from renaissance.tasks.data.snli_ve import read_snli_ve
from renaissance.tasks.glue import GLUE, GLUEArguments
from renaissance.tasks.nlvr2 import NLVR2, NLVR2Arguments
from renaissance.tasks.refcoco import RefCOCO, RefCOCOArguments
from renaissance.tasks.retrieval import Retrieval, RetrievalArguments, retrieval_metrics
from renaissance.tasks.scoring import PairScorer
from renaissance.tasks.snli_ve import SNLIVE, SNLIVEArguments


# NLVR2: eval.py of github.com/lil-lab/nlvr, folder nlvr2.


def nlvr2_official(lines: list[str], examples: list[dict]) -> tuple[float, float]:
    """Accuracy, and the share of sentences, which one identifier's parts but the third name, of which all pairs are right."""
    answers = dict(line.split(",") for line in lines)
    right = {example["identifier"]: answers[example["identifier"]] == example["label"] for example in examples}
    of_sentence = defaultdict(list)
    for identifier, correct in right.items():
        split, images, _, sentence = identifier.split("-")
        of_sentence[split, images, sentence].append(correct)
    return sum(right.values()) / len(right), sum(map(all, of_sentence.values())) / len(of_sentence)


def test_nlvr2(tmp_path):
    rng = np.random.default_rng(0)
    identifiers = [
        f"{split}-{images}-{pair}-{sentence}"
        for split in ("dev", "test1")
        for images in (1, 11, 111)
        for sentence in (0, 1, 10)
        for pair in range(rng.integers(1, 5))
    ]
    rng.shuffle(identifiers)
    task = NLVR2(NLVR2Arguments(dataset="x"))
    data = Dataset.from_dict({"id": identifiers})
    seen = set()
    for share in (0.0, 0.5, 0.8, 0.95, 1.0):
        labels = rng.integers(0, 2, len(identifiers))
        predictions = np.where(rng.random(len(labels)) < share, labels, 1 - labels)
        examples = [{"identifier": i, "label": str(bool(v))} for i, v in zip(identifiers, labels, strict=True)]
        task.write_predictions(predictions, data, tmp_path / "predictions")
        lines = (tmp_path / "predictions.csv").read_text().split()
        expected = nlvr2_official(lines, examples)
        found = task.metrics(EvalPrediction(predictions, labels), data)
        assert (found["accuracy"], found["consistency"]) == pytest.approx(expected)
        seen.add(round(expected[1], 6))
        constant = [nlvr2_official([f"{i},{answer}" for i in identifiers], examples) for answer in ("False", "True")]
        assert (found["majority_accuracy"], found["majority_consistency"]) == pytest.approx(max(constant))
        assert found["rows"] == len(identifiers) and found["sentences"] == 18
    assert len(seen) >= 4


# Retrieval: Karpathy and Fei-Fei 2015, section 4.1; COCO's 1k figures are means over five folds of 1,000 test images.


def official_recalls(scores: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """By sorting: `scores` (captions, images), `owner` (captions,) the image of each caption."""
    found = {}
    for name, rows in (("image", range(len(scores))), ("text", range(scores.shape[1]))):
        ranks = []
        for row in rows:
            if name == "image":
                order = np.argsort(-scores[row], kind="stable").tolist()
                ranks.append(order.index(owner[row]))
            else:
                order = np.argsort(-scores[:, row], kind="stable").tolist()
                ranks.append(min(order.index(caption) for caption in np.flatnonzero(owner == row)))
        for k in (1, 5, 10):
            found[f"{name}_retrieval_r{k}"] = sum(rank < k for rank in ranks) / len(ranks)
        found[f"{name}_retrieval_median_rank"] = float(np.median(ranks) + 1)
    return found


def captioned(images: int) -> CaptionedImages:
    """Images with 1 to 3 captions each, no two of which are alike."""
    rng, rows, number = np.random.default_rng(0), [], 0
    for image in range(images):
        pixels = rng.integers(0, 255, (24, 36, 3), dtype=np.uint8)
        captions = [f"a red circle{' star' * (number + n)}" for n in range(image % 3 + 1)]
        number += len(captions)
        rows.append({"image": Image.fromarray(pixels), "image_id": str(image), "captions": captions})
    return CaptionedImages(Dataset.from_list(rows, features=schemas.CAPTIONS), "data")


@pytest.mark.parametrize("folds", [1, 2])
def test_retrieval_recalls(folds, processor, tmp_path):
    """One fold is Flickr30k's 1k and COCO's 5k protocol, several are COCO's 1k protocol; images have 1 to 3 captions."""
    data, images = captioned(12), 12 // folds
    trainer = make_trainer(tiny_model("two-tower", "ForImageTextRetrieval"), processor, tmp_path)
    scores = PairScorer(trainer, data).score_grid(np.arange(len(data.captions)), np.arange(12))
    assert len(np.unique(scores)) == scores.size
    expected = []
    for first in range(0, 12, images):
        captions = np.flatnonzero((data.image_of >= first) & (data.image_of < first + images))
        part = scores[captions, first : first + images]
        expected.append(official_recalls(part, data.image_of[captions] - first))
    task = Retrieval(RetrievalArguments(dataset="x", eval_fold_size=None if folds == 1 else images))
    _, found = task.evaluate(trainer, KeyedRows(data, training=False))
    for name in expected[0]:
        assert found[name] == pytest.approx(np.mean([fold[name] for fold in expected])), name
    six = [
        np.mean([fold[f"{way}_retrieval_r{k}"] for fold in expected]) for way in ("image", "text") for k in (1, 5, 10)
    ]
    assert found["mean_recall"] == pytest.approx(np.mean(six))
    # None of it can be mistaken for another.
    assert found["image_retrieval_r1"] < found["image_retrieval_r5"] < found["image_retrieval_r10"]
    assert (found["images"], found["captions"]) == (12, len(data.captions))


def test_chance_of_retrieval_is_that_of_all_orders():
    """Counted over random orders, with images of 1 to 3 captions."""
    data, rng = captioned(15), np.random.default_rng(0)
    truth = data.image_of[:, None] == np.arange(15)
    orders = [official_recalls(rng.random(truth.shape), data.image_of) for _ in range(600)]
    found = retrieval_metrics(np.zeros(truth.shape), np.zeros(truth.shape), truth)
    for name in orders[0]:
        way, _, metric = name.rpartition("_retrieval_")
        mean = np.mean([order[name] for order in orders])
        assert found[f"chance_{name}"] == pytest.approx(mean, abs=0.6 if "rank" in name else 0.01), (way, metric)


# RefCOCO: refer.py of github.com/lichengunc/refer. A reference is one annotation of an image, with sentences; a split is a name in it.


def write_refer(folder: Path, rng: np.random.Generator) -> tuple[list[dict], dict]:
    """References and instances of 12 images with 1 to 4 annotations, of categories in any order."""
    (folder / "images" / "mscoco" / "train2014").mkdir(parents=True)
    (folder / "refcoco").mkdir()
    images, annotations, refs = [], [], []
    for number in range(12):
        image_id, name = 1000 - number, f"COCO_train2014_{number:012d}.jpg"
        Image.new("RGB", (60, 40)).save(folder / "images" / "mscoco" / "train2014" / name)
        images.append({"id": image_id, "file_name": name, "width": 60, "height": 40})
        for _ in range(rng.integers(1, 5)):
            box = [*rng.uniform(0, 20, 2).round(2).tolist(), *rng.uniform(2, 20, 2).round(2).tolist()]
            annotations.append({"id": int(rng.integers(1 << 30)), "image_id": image_id, "bbox": box, "category_id": 1})
    rng.shuffle(annotations)
    sentence = 0
    for number, annotation in enumerate(annotations):
        split = ("train", "val", "testA", "testB")[number % 4]
        sentences = []
        for _ in range(rng.integers(1, 4)):
            sentences.append({"sent_id": sentence, "sent": f" thing {sentence} ", "raw": "?", "tokens": []})
            sentence += 1
        refs.append(
            {"ref_id": number, "ann_id": annotation["id"], "image_id": annotation["image_id"], "split": split,
             "file_name": "unused.jpg", "category_id": 1, "sentences": sentences, "sent_ids": []}
        )  # fmt: skip
    instances = {"images": images, "annotations": annotations}
    (folder / "refcoco" / "instances.json").write_text(json.dumps(instances))
    (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return refs, instances


def test_refcoco_splits_and_boxes(tmp_path):
    refs, instances = write_refer(tmp_path, np.random.default_rng(0))
    splits = read_refcoco(tmp_path, "refcoco")
    assert list(splits) == ["train", "validation", "testA", "testB"]
    boxes = {annotation["id"]: annotation["bbox"] for annotation in instances["annotations"]}
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    for split, theirs in zip(splits, ("train", "val", "testA", "testB"), strict=True):
        rows = {row["id"]: row for row in splits[split]}
        official = {str(s["sent_id"]): (ref, s) for ref in refs if ref["split"] == theirs for s in ref["sentences"]}
        assert rows.keys() == official.keys() and len(rows) == len(splits[split]) > 3
        for identifier, (ref, sentence) in official.items():
            row = rows[identifier]
            assert row["text"] == sentence["sent"].strip()
            assert row["image"]["path"].endswith(files[ref["image_id"]])
            assert row["boxes"][row["label"]] == boxes[ref["ann_id"]]
            candidates = [a["bbox"] for a in instances["annotations"] if a["image_id"] == ref["image_id"]]
            assert sorted(row["boxes"]) == sorted(candidates)


def test_refcoco_accuracy(tmp_path):
    """Among the annotated boxes, the one that is meant is right and no other."""
    write_refer(tmp_path, np.random.default_rng(1))
    rows, rng = read_refcoco(tmp_path, "refcoco")["train"], np.random.default_rng(2)
    labels = np.array([row["label"] for row in rows])
    counts = np.array([len(row["boxes"]) for row in rows])
    chosen = rng.integers(0, counts)
    right = [row["boxes"][choice] == row["boxes"][row["label"]] for row, choice in zip(rows, chosen, strict=True)]
    assert 0 < sum(right) < len(right)
    found = RefCOCO(RefCOCOArguments(dataset="x")).metrics(EvalPrediction(chosen, (labels, counts)), None)
    assert found["accuracy"] == pytest.approx(sum(right) / len(right)) and found["rows"] == len(rows)
    assert found["chance_accuracy"] == pytest.approx(sum(1 / len(row["boxes"]) for row in rows) / len(rows))


# GLUE: Wang et al. 2019, section 3 and table 1.


def ranks(values: list[float]) -> list[float]:
    """Ranks from 1 on; equal values have the mean of theirs."""
    return [sum(o < v for o in values) + (1 + sum(o == v for o in values)) / 2 for v in values]


def correlation(first: list[float], second: list[float]) -> float:
    means = sum(first) / len(first), sum(second) / len(second)
    one, two = [v - means[0] for v in first], [v - means[1] for v in second]
    norm = math.sqrt(sum(v * v for v in one) * sum(v * v for v in two))
    return sum(a * b for a, b in zip(one, two, strict=True)) / norm if norm else 0.0


def of_counts(predictions: list[int], labels: list[int]) -> dict[str, float]:
    """Accuracy, F1 of class 1 and Matthews correlation from the four counts."""
    counts = Counter(zip(predictions, labels, strict=True))
    true, false, missed, other = counts[1, 1], counts[1, 0], counts[0, 1], counts[0, 0]
    product = (true + false) * (true + missed) * (other + false) * (other + missed)
    return {
        "accuracy": (true + other) / len(labels),
        "f1": 2 * true / (2 * true + false + missed) if true else 0.0,
        "matthews_correlation": (true * other - false * missed) / math.sqrt(product) if product else 0.0,
    }


def glue(name: str, predictions: list, labels: list) -> dict[str, float]:
    task = GLUE(GLUEArguments(task_name=name, train_file="x"))
    return task.metrics(EvalPrediction(np.array(predictions), np.array(labels)), None)


@pytest.mark.parametrize("seed", range(8))
def test_glue_of_two_classes(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random(37) < (0.1, 0.5, 0.9, 0.7)[seed % 4]).astype(int).tolist()
    # The last ones say one thing to every row.
    predictions = [[0] * 37, [1] * 37][seed - 6] if seed >= 6 else rng.integers(0, 2, 37).tolist()
    expected = of_counts(predictions, labels)
    majority = of_counts([int(sum(labels) * 2 > 37)] * 37, labels)
    for name in ("mrpc", "qqp"):
        found = glue(name, predictions, labels)
        mean = (expected["accuracy"] + expected["f1"]) / 2
        assert (found["f1"], found["accuracy"]) == pytest.approx((expected["f1"], expected["accuracy"]))
        assert found["accuracy_and_f1"] == pytest.approx(mean)
        assert (found["majority_f1"], found["majority_accuracy"]) == pytest.approx(
            (majority["f1"], majority["accuracy"])
        )
        assert found["majority_accuracy_and_f1"] == pytest.approx((majority["f1"] + majority["accuracy"]) / 2)
    found = glue("cola", predictions, labels)
    assert found["matthews_correlation"] == pytest.approx(expected["matthews_correlation"])
    assert found["constant_matthews_correlation"] == 0
    for name in ("sst2", "qnli", "rte", "wnli"):
        found = glue(name, predictions, labels)
        assert found["accuracy"] == pytest.approx(expected["accuracy"]) and found["rows"] == 37


@pytest.mark.parametrize("case", ["random", "ties", "opposite", "constant"])
def test_glue_correlations(case):
    rng = np.random.default_rng(0)
    labels = rng.uniform(0, 5, 30).round(0 if case == "ties" else 3).tolist()
    predictions = {
        "random": rng.normal(size=30).tolist(),
        "ties": rng.integers(0, 3, 30).astype(float).tolist(),
        "opposite": [-(value**3) for value in labels],
        "constant": [2.5] * 30,
    }[case]
    found = glue("stsb", predictions, labels)
    pearson, spearman = correlation(predictions, labels), correlation(ranks(predictions), ranks(labels))
    assert found["pearson"] == pytest.approx(pearson, abs=1e-6)
    assert found["spearman"] == pytest.approx(spearman, abs=1e-6)
    assert found["pearson_and_spearman"] == pytest.approx((pearson + spearman) / 2, abs=1e-6)
    assert found["constant_pearson"] == found["constant_spearman"] == 0


def test_glue_mnli():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 3, 50).tolist(), rng.integers(0, 3, 50).tolist()
    found = glue("mnli", predictions, labels)
    assert found["accuracy"] == pytest.approx(sum(map(int.__eq__, labels, predictions)) / 50)
    assert found["majority_accuracy"] == pytest.approx(max(labels.count(label) for label in range(3)) / 50)


# SNLI-VE: github.com/necla-ml/SNLI-VE. `gold_label` is the label, and "-" where annotators did not agree.


def test_snli_ve_labels(tmp_path):
    rng = np.random.default_rng(0)
    names = ["contradiction", "neutral", "entailment"]
    (tmp_path / "Flickr30K" / "images").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "Flickr30K" / "images" / "7.jpg")
    official = {}
    for split in ("train", "dev", "test"):
        gold = rng.choice([*names, "-"], size=25).tolist()
        lines = [
            {"Flickr30K_ID": "7", "pairID": f"{split}-{row}", "gold_label": label, "sentence1": "a", "sentence2": "b",
             "annotator_labels": rng.choice(names, size=5).tolist()}
            for row, label in enumerate(gold)
        ]  # fmt: skip
        (tmp_path / f"snli_ve_{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        official[split] = {line["pairID"]: line["gold_label"] for line in lines if line["gold_label"] != "-"}
    task = SNLIVE(SNLIVEArguments(dataset="x"))
    for (split, rows), theirs in zip(read_snli_ve(tmp_path).items(), ("train", "dev", "test"), strict=True):
        assert {row["id"]: task.names[row["label"]] for row in rows} == official[theirs], split
        labels = np.array([row["label"] for row in rows])
        predictions = rng.integers(0, 3, len(labels))
        # What is kept of a row is its logits.
        found = task.metrics(EvalPrediction(np.eye(3)[predictions], labels), None)
        said = [names[number] for number in predictions]
        right = [answer == gold for answer, gold in zip(said, official[theirs].values(), strict=True)]
        assert found["accuracy"] == pytest.approx(sum(right) / len(right))
        for name in names:
            of_class = [ok for ok, gold in zip(right, official[theirs].values(), strict=True) if gold == name]
            assert found[f"accuracy_{name}"] == pytest.approx(sum(of_class) / len(of_class))
            assert found[f"rows_{name}"] == len(of_class)
        counts = Counter(official[theirs].values())
        assert found["majority_accuracy"] == pytest.approx(max(counts.values()) / sum(counts.values()))
