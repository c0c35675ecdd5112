"""Retrieval: the image that a caption describes among all images, and the captions of an image among all captions."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from ..modeling.fields import option
from ..processing.collators import require_tokens
from ..processing.processing_renaissance import RenaissanceProcessor
from .data import schemas
from .data.captioned import CaptionedImages, check_captions
from .data.faults import Faults
from .data.image_checks import ImageCheck
from .data.keyed_rows import KeyedRows
from .metrics import Score, with_baselines
from .own_data import with_columns
from .ranking import (
    RECALLS,
    approximate,
    chance_metrics,
    chance_recall,
    first_stage_recall,
    rank_of_truth,
    recall_metrics,
    reranked,
    top,
)
from .scoring import GridScorer, PairScorer
from .supervised import SupervisedArguments, SupervisedTask


NEGATIVES = ("random", "batch", "hard")

#: Options about pairs that are fused, which not all architectures do.
OF_PAIRS = ("negatives", "num_negative_texts", "num_negative_images", "eval_pairs_per_batch", "rerank_top_k")


@with_columns(schemas.CAPTIONS)
@dataclass
class RetrievalArguments(SupervisedArguments):
    """Data of retrieval, the negatives of training, and the ranking of evaluation."""

    negatives: str = option(
        "random",
        "Where false captions and images come from: random (all of the data), batch (the rest of the batch), or hard "
        "(those of the batch that the model scores highest, found in a first pass over all pairs of the batch).",
        choices=NEGATIVES,
    )
    num_negative_texts: int = option(15, "False captions for each true pair.", within="[0, inf)")
    num_negative_images: int = option(0, "False images for each true pair.", within="[0, inf)")
    eval_pairs_per_batch: int | None = option(
        None,
        "Evaluation: pairs to fuse at a time on a device; 512, or 16 on a CPU, whose caches hold no more.",
        within="[1, inf)",
    )
    rerank_top_k: int | None = option(
        None,
        "Evaluation: score only the K best candidates of each query exactly. They are found by the vectors of "
        "contrastive_size or, if the model has none, by an approximation from the scores of K captions and K images "
        "with everything. Without it, all pairs are scored.",
        within=f"[{max(RECALLS)}, inf)",
    )
    eval_fold_size: int | None = option(
        None,
        "Evaluation: rank within folds of this many images, in the order of the data, and average: 1000 for COCO's 1k "
        "protocol. Without it, the whole split is one fold (5k).",
        within="[2, inf)",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.negatives not in NEGATIVES:
            raise ValueError(f"negatives: expected one of {', '.join(NEGATIVES)}, got {self.negatives!r}")
        if not self.num_negative_texts + self.num_negative_images:
            raise ValueError("num_negative_texts, num_negative_images: expected at least one false pair")


@dataclass
class RetrievalCollator:
    """
    Makes batches of candidate pairs, the true one first. The false ones are a function of the seed, of each row's
    epoch and sample id, and, if they come from the batch, of its rows.

    A row has the columns of `CaptionedImages`, its number there as `sample_id`, and its `epoch`. A batch has the
    outputs of the processor, the pairs as `text_index` and `image_index` (B, candidates), `labels` (B,), all 0, for
    hard negatives `num_hardest`, and for a contrastive loss `text_ids` (texts,) and `image_ids` (images, most texts of
    an image), the numbers of the texts' words and of those of each image's captions.
    """

    processor: RenaissanceProcessor
    data: CaptionedImages
    negatives: str
    num_texts: int
    num_images: int
    seed: int
    contrastive: bool = False

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        captions = np.array([row["sample_id"] for row in rows])
        images = self.data.image_of[captions]
        if self.negatives == "random":
            captions, images, false = self.drawn_from_data(rows, captions, images)
        else:
            false = self.drawn_from_batch(rows, captions, images)
        text_index = [[own, *places, *[own] * len(others)] for own, (places, others) in enumerate(false)]
        image_index = [[own, *[own] * len(others), *places] for own, (others, places) in enumerate(false)]
        # The rows have their own images, perhaps augmented.
        pictures = [row["image"] for row in rows] + [self.data.image(image) for image in images[len(rows) :]]
        texts = [self.data.captions[caption] for caption in captions]
        batch = dict(self.processor(images=pictures, text=texts, as_uint8=True, return_tensors="pt"))
        require_tokens(rows, texts, batch["attention_mask"])
        batch |= {"text_index": padded_rows(text_index), "image_index": padded_rows(image_index)}
        batch["labels"] = torch.zeros(len(rows), dtype=torch.long)
        if self.negatives == "hard":
            batch["num_hardest"] = self.num_texts + self.num_images
        if self.contrastive:
            batch["text_ids"] = torch.from_numpy(self.data.text_ids[captions])
            batch["image_ids"] = torch.from_numpy(self.data.texts_of(images))
        return batch

    def rng(self, row: dict) -> np.random.Generator:
        return np.random.default_rng((self.seed, row["epoch"], row["sample_id"]))

    def drawn_from_data(
        self, rows: list[dict], own_captions: np.ndarray, own_images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[Sequence[int], Sequence[int]]]]:
        """
        Return the rows' captions (B,) and images (B,), followed by false ones from all of the data; and for each row
        the places of its false captions and of its false images there.
        """
        captions, images, places = [*own_captions], [*own_images], []
        for row, own_caption, own_image in zip(rows, own_captions, own_images, strict=True):
            rng = self.rng(row)
            of_texts = range(len(captions), len(captions) + self.num_texts)
            of_images = range(len(images), len(images) + self.num_images)
            captions += [*self.data.draw_false_captions(own_image, self.num_texts, rng)]
            images += [*self.data.draw_false_images(own_caption, self.num_images, rng)]
            places.append((of_texts, of_images))
        return np.array(captions), np.array(images), places

    def drawn_from_batch(
        self, rows: list[dict], captions: np.ndarray, images: np.ndarray
    ) -> list[tuple[Sequence[int], Sequence[int]]]:
        """
        Return for each row the places of its false captions and false images in the captions (B,) and images (B,) of
        the batch: at most as many as asked for or, for hard negatives to choose from, all.
        """
        false, places = self.data.mismatch(images, captions), []
        for number, row in enumerate(rows):
            rng, found = self.rng(row), []
            for count, is_false in ((self.num_texts, false[number]), (self.num_images, false[:, number])):
                others = rng.permutation(np.flatnonzero(is_false))
                found.append(others[: None if count and self.negatives == "hard" else count].tolist())
            places.append(tuple(found))
        return places


def padded_rows(index: list[list[int]]) -> torch.LongTensor:
    """Return the rows as one tensor, filled up with -1 to the length of the longest, at least 2."""
    longest = max(2, *(len(row) for row in index))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in index])


class Retrieval(SupervisedTask):
    """Retrieval of images by caption and of captions by image."""

    kind = "ForImageTextRetrieval"
    arguments = RetrievalArguments
    best_metric = "eval_mean_recall"
    metric_names = ("mean_recall", "*_r*", "*_median_rank")
    # An `image_id` of one's own data may be a number.
    features = Features({name: kind for name, kind in schemas.CAPTIONS.items() if name != "image_id"})
    optional = ("image_id",)

    def __init__(self, data_arguments: RetrievalArguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        # Random false images are not augmented: a model could tell them from augmented true ones.
        drawn = data_arguments.negatives == "random" and data_arguments.num_negative_images
        self.augmentable = () if drawn else ("image",)
        self.train_data: CaptionedImages | None = None
        #: Whether the model fuses pairs, from when its configuration is known. One that does not learns from true pairs alone, each of
        #: which is compared with all others of a step.
        self.fuses = True

    def check_rows(self, data: Dataset, faults: Faults, check: ImageCheck) -> None:
        check_captions(data, faults)

    def load(self, split: str) -> CaptionedImages:
        arguments = self.data_arguments
        data = CaptionedImages(super().load(split), self.source(split))
        if split == "train":
            self.train_data = data
            data.bad_rows = self.bad_rows
            for name, most in zip(("num_negative_texts", "num_negative_images"), data.fewest_false(), strict=True):
                count = getattr(arguments, name)
                if self.fuses and arguments.negatives == "random" and count > most:
                    raise ValueError(f"{name}: the training data has {most} false ones for some pairs, got {count}")
        elif arguments.eval_fold_size and len(data.image_ids) % arguments.eval_fold_size:
            expected = f"a divisor of the {len(data.image_ids)} images of split {split!r}"
            raise ValueError(f"eval_fold_size: expected {expected}, got {arguments.eval_fold_size}")
        return data

    def text_lengths(self, data: CaptionedImages, epoch: int) -> np.ndarray:
        return data.lengths()

    def texts(self, data: CaptionedImages, rows: np.ndarray) -> list[list[str]]:
        return [data.texts_at(rows)]

    def config_fields(self) -> dict[str, Any]:
        return {}

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        super().check(args, config, processor)
        if args.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor: does not fit pairs that are ranked, whose number may differ; leave it out"
            )
        self.fuses = config.fuses
        if not self.fuses:
            self.refuse_pairs(config)
        of_batch = [] if self.data_arguments.negatives == "random" else [f"negatives {self.data_arguments.negatives}"]
        if config.contrastive_size:
            of_batch.append("those of the contrastive loss")
        if args.do_train and of_batch and args.per_device_train_batch_size < 2:
            reason = f"{' and '.join(of_batch)} come from the other rows of a batch"
            rows = args.per_device_train_batch_size
            raise ValueError(f"per_device_train_batch_size: {reason}, expected at least 2, got {rows}")

    def refuse_pairs(self, config: PreTrainedConfig) -> None:
        """Raise `ValueError` if the user chose an option about fused pairs, for a model that fuses none."""
        arguments = self.data_arguments
        defaults = {entry.name: entry.default for entry in dataclasses.fields(arguments)}
        if chosen := [name for name in OF_PAIRS if getattr(arguments, name) != defaults[name]]:
            name = config.model_type.removeprefix("renaissance-")
            raise ValueError(
                f"{', '.join(chosen)}: without effect on a {name} model, which ranks by vectors of texts alone and of images alone "
                "and learns from all pairs of a batch; leave it out"
            )

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> RetrievalCollator:
        arguments = self.data_arguments
        if not self.fuses:
            return RetrievalCollator(processor, self.train_data, "batch", 0, 0, seed, contrastive=True)
        counts = arguments.num_negative_texts, arguments.num_negative_images
        contrastive = model.config.contrastive_size is not None
        return RetrievalCollator(processor, self.train_data, arguments.negatives, *counts, seed, contrastive)

    def evaluate(self, trainer: Trainer, data: KeyedRows) -> tuple[dict[str, list[np.ndarray]], dict[str, float]]:
        """
        Rank all images of a fold for each of its captions and the converse.

        Returns:
            The numbers of the ten best `images` for each caption and `captions` for each image; and the metrics with
            their baselines, and the recall of a first stage if there is one, averaged over the folds, the numbers of
            images and captions, and, if there are several folds, of those that are ranked at a time.
        """
        data, arguments = data.data, self.data_arguments
        pairs = arguments.eval_pairs_per_batch
        scorer = PairScorer(trainer, data, pairs) if self.fuses else GridScorer(trainer, data)
        size = arguments.eval_fold_size or len(data.image_ids)
        metrics, best = [], {"images": [None] * len(data.captions), "captions": [None] * len(data.image_ids)}
        for first in range(0, len(data.image_ids), size):
            images = np.arange(first, first + size)
            captions = np.flatnonzero((data.image_of >= first) & (data.image_of < first + size))
            truth, k = data.image_of[captions, None] == images, arguments.rerank_top_k
            found = {}
            if k and k < len(captions):
                approximated = first_stage(scorer, captions, images, k)
                for_captions, for_images = reranked(scorer.score, approximated, captions, images, k)
                for name, scores, true in both_ways(approximated, approximated, truth):
                    found[f"{name}_first_stage_recall"] = Score(first_stage_recall(scores, true, k), len(true))
                    best_alone = first_stage_recall(scores, true, 1)
                    found[f"{name}_first_stage_r1"] = Score(best_alone, len(true), chance_recall(true, 1), "chance")
            else:
                for_captions = for_images = scorer.score_grid(captions, images)
            metrics.append(retrieval_metrics(for_captions, for_images, truth) | found)
            for caption, chosen in zip(captions, images[top(for_captions, max(RECALLS))], strict=True):
                best["images"][caption] = chosen
            for image, chosen in zip(images, captions[top(for_images.T, max(RECALLS))], strict=True):
                best["captions"][image] = chosen
        counts = {"images": len(data.image_ids), "captions": len(data.captions)}
        if len(metrics) > 1:
            counts |= {f"{name}_per_fold": count / len(metrics) for name, count in counts.items()}
        return best, with_baselines(mean_scores(metrics), **counts)

    def same_answer(self, predictions: dict[str, list[np.ndarray]]) -> str | None:
        first = {int(best[0]) for best in predictions["images"]}
        alone = len(first) == 1 and len(predictions["captions"]) > 1
        return f"one image to all {len(predictions['images'])} captions" if alone else None

    def write_predictions(self, predictions: dict[str, list[np.ndarray]], data: CaptionedImages, path: Path) -> Path:
        """Write a JSON file: the ids of the ten best images of each caption, in the order of the split, and the ten best
        captions of each image, in the order of their first rows. Return it."""
        ids, images = data.image_ids, predictions["images"]
        content = {
            "images_for_captions": [
                {
                    "caption": data.captions[caption],
                    "image_id": ids[data.image_of[caption]],
                    "best": [ids[image] for image in images[caption]],
                }
                for caption in data.order
            ],
            "captions_for_images": [
                {"image_id": image_id, "best": [data.captions[caption] for caption in best]}
                for image_id, best in zip(ids, predictions["captions"], strict=True)
            ],
        }
        path = path.with_suffix(".json")
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        return path


def first_stage(scorer: PairScorer, captions: np.ndarray, images: np.ndarray, k: int) -> np.ndarray:
    """
    Return scores (C, I) of captions (C,) and images (I,) that choose the pairs to score exactly: cosines of the
    model's vectors of both or, if it has none, an approximation from the exact scores of k captions and k images with
    everything.
    """
    if scorer.model.config.contrastive_size:
        return scorer.similarities(captions, images)
    return approximate(scorer.score_grid, captions, images, k)


def both_ways(
    for_captions: np.ndarray, for_images: np.ndarray, truth: np.ndarray
) -> tuple[tuple[str, np.ndarray, np.ndarray], ...]:
    """Return name in metrics, scores and truth, a row per query, of images by caption and of captions by image."""
    return ("image_retrieval", for_captions, truth), ("text_retrieval", for_images.T, truth.T)


def retrieval_metrics(for_captions: np.ndarray, for_images: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """
    Return recall at 1, 5 and 10 and the median rank of images by caption and of captions by image, and the mean of the
    six recalls (a sixth of RSUM, as a share). Their baseline is chance; their rows are the captions or images that
    others are ranked for.

    Args:
        for_captions: Scores (captions, images) that rank the images of a caption.
        for_images: Scores (captions, images) that rank the captions of an image.
        truth: Which pairs are true, of the same shape. An image has the rank of the best of its captions.
    """
    metrics, recalls = {}, []
    for name, scores, true in both_ways(for_captions, for_images, truth):
        chance = chance_metrics(true)
        found = {
            metric: Score(value, len(true), chance[metric], "chance", lower_is_better=metric == "median_rank")
            for metric, value in recall_metrics(rank_of_truth(scores, true)).items()
        }
        metrics |= {f"{name}_{metric}": score for metric, score in found.items()}
        recalls += [found[f"r{k}"] for k in RECALLS]
    mean, chance = np.mean(recalls), np.mean([recall.baseline for recall in recalls])
    return with_baselines(metrics | {"mean_recall": Score(mean, sum(truth.shape), float(chance), "chance")})


def mean_scores(folds: list[dict[str, float]]) -> dict[str, Score]:
    """Return the mean of each score over folds, beside the mean of its baselines, over the rows of all folds."""
    means = {}
    for name, first in folds[0].items():
        if not isinstance(first, Score):
            continue
        of_folds = [fold[name] for fold in folds]
        baseline = None if first.baseline is None else float(np.mean([score.baseline for score in of_folds]))
        rows = sum(score.rows for score in of_folds)
        means[name] = Score(np.mean(of_folds), rows, baseline, first.kind, first.lower_is_better)
    return means
