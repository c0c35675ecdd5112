"""
What ranking costs: every pair through the whole model, against each image and caption encoded once, and against re-ranking.

    python tests/retrieval_cost.py MODEL DATASET

MODEL is a folder of a model for retrieval or from pretraining, DATASET a prepared folder, whose test split is ranked. Times are
CPU seconds of this process; those of the second way on have the processing of images and captions in them, the first has not.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from renaissance import AutoModelForImageTextRetrieval, RenaissanceProcessor
from renaissance.tasks.arguments import RunArguments, parse_arguments
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.loading import open_split
from renaissance.tasks.ranking import reranked
from renaissance.tasks.retrieval import retrieval_metrics
from renaissance.tasks.scoring import PairScorer
from renaissance.tasks.trainer import RenaissanceTrainer


PAIRS_PER_BATCH = 256


class Stopwatch:
    """CPU seconds, and how many images, captions and pairs went through the model, until now."""

    def __init__(self, model):
        self.counts = dict.fromkeys(("encode_image", "encode_text", "fuse"), 0)
        for name in self.counts:
            setattr(model.model, name, self.counting(name, getattr(model.model, name)))
        self.start = time.process_time()

    def counting(self, name, function):
        def call(*args, **kwargs):
            output = function(*args, **kwargs)
            self.counts[name] += len(output.pooled if name == "fuse" else output.states)
            return output

        return call

    def report(self, name, for_captions, for_images, truth):
        seconds = time.process_time() - self.start
        metrics = retrieval_metrics(for_captions, for_images, truth)
        numbers = " | ".join(f"{self.counts[step]:,}" for step in self.counts)
        print(f"| {name} | {numbers} | {seconds:.1f} | {metrics['mean_recall']:.4f} |", flush=True)


@torch.no_grad()
def brute_force(model, processor, data: CaptionedImages) -> np.ndarray:
    """Scores (captions, images), each pair through the whole model."""
    images = [data.image(number) for number in range(len(data.image_ids))]
    pixels = processor(images=images, as_uint8=True, return_tensors="pt")
    texts = dict(processor(text=data.captions, return_tensors="pt"))
    stopwatch = Stopwatch(model)
    scores = torch.zeros(len(data.captions), len(data.image_ids))
    for first in range(0, scores.numel(), PAIRS_PER_BATCH):
        pairs = torch.arange(first, min(first + PAIRS_PER_BATCH, scores.numel()))
        caption, image = pairs // scores.shape[1], pairs % scores.shape[1]
        batch = {name: value[caption] for name, value in texts.items()}
        scores[caption, image] = model(**batch, pixel_values=pixels["pixel_values"][image]).logits[:, 0]
    scores = scores.numpy()
    stopwatch.report("every pair through the whole model", scores, scores, truth_of(data))
    return scores


def truth_of(data: CaptionedImages) -> np.ndarray:
    return data.image_of[:, None] == np.arange(len(data.image_ids))


def main(folder: str, source: str) -> None:
    data = CaptionedImages(open_split(source, "test"), source)
    processor = RenaissanceProcessor.from_pretrained(folder)
    captions, images = np.arange(len(data.captions)), np.arange(len(data.image_ids))
    argv = [
        "--output_dir",
        tempfile.mkdtemp(),
        "--do_eval",
        "--use_cpu",
        "--report_to",
        "none",
        "--disable_tqdm",
        "true",
    ]
    args = parse_arguments((RunArguments,), [*argv, "--per_device_eval_batch_size", "64"], "")[0]

    def load():
        return AutoModelForImageTextRetrieval.from_pretrained(folder).eval()

    print(
        "| | images encoded | captions encoded | pairs fused | CPU seconds | mean recall |\n|---|---|---|---|---|---|"
    )
    expected = brute_force(load(), processor, data)
    for k in (None, 50, 20, 10):
        model = load()
        trainer = RenaissanceTrainer(model=model, args=args, processing_class=processor, data_collator=list)
        stopwatch = Stopwatch(model)
        scorer = PairScorer(trainer, data, PAIRS_PER_BATCH)
        if k is None:
            scores = scorer.score_grid(captions, images)
            stopwatch.report("each encoded once, all pairs", scores, scores, truth_of(data))
            print(f"(largest difference of a score: {np.abs(scores - expected).max():.1e})")
        else:
            both = reranked(scorer.score, scorer.score_grid, captions, images, k)
            stopwatch.report(f"`rerank_top_k` {k}", *both, truth_of(data))


if __name__ == "__main__":
    main(*map(str, map(Path, sys.argv[1:3])))
