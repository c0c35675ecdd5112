"""
What ranking costs: every pair through everything, against each image and caption encoded once, and against re-ranking.

Times are CPU seconds of the process on one thread, or on a GPU wall seconds, over the number of pairs that are ranked. The first
way is measured on some pairs, drawn at random, for all would take hours; it has the images decoded and the text cut into tokens
beforehand, the others do that in their time. The columns in between count what went through the model.

The model is that of Experiment 1 with vectors for a first stage, at random weights, on drawn images and captions, and the first way
is the reference of the group `step`, with the same weights: what it costs is that of a trained model, and what it recalls means
nothing. A dual encoder (--model dual-encoder) makes all vectors once, and one matrix product scores all pairs; a table says what each of that
costs. Re-ranking is measured there alone, without ranking all pairs exactly, so that sets can be larger. With
--model_name_or_path and --dataset the recalls are those of a trained model on its test split, and what re-ranking loses can be read
from them; the first way is then that model itself.
"""

import argparse
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset, Features, Image, List, Value
from transformers import PreTrainedConfig, PreTrainedModel

from renaissance import RenaissanceProcessor
from renaissance.auto import AUTO_CLASSES
from renaissance.checkpoints import add_loading_options, checkpoint_of, load_config, load_model, load_processor
from renaissance.commands.parsing import number_in
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.opening import open_split
from renaissance.tasks.parsing import parse_arguments
from renaissance.tasks.retrieval import Retrieval, RetrievalArguments, retrieval_metrics
from renaissance.tasks.scoring import GridScorer, PairScorer
from renaissance.tasks.trainer import RenaissanceTrainer

from .device import Place, add_device_arguments
from .measure import Spread, interleaved, ratios
from .models import (
    DUAL_ENCODERS,
    TWO_TOWERS,
    build_config,
    build_model,
    build_processor,
    caption,
    caption_lengths,
    noise,
)
from .options import add_count
from .reference import TEXT_LENGTH, Reference, build_reference
from .report import Report


#: Pairs that are fused at a time, in every way, by device: few enough for the caches of a processor, or enough to fill a GPU.
PAIRS_PER_BATCH = {"cpu": 16, "cuda": 512}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    parser.add_argument("--model_name_or_path", help="folder of a model for retrieval or from pretraining")
    parser.add_argument("--dataset", help="prepared folder, whose test split is ranked")
    models = (*TWO_TOWERS, *DUAL_ENCODERS)
    parser.add_argument("--model", choices=models, default="small", help="random model (default: %(default)s)")
    add_count(parser, "num_images", 32, "drawn images")
    add_count(parser, "captions_per_image", 2, "of drawn images")
    parser.add_argument(
        "--rerank_top_k",
        nargs="*",
        type=number_in(int, "[10, inf)"),
        default=[],
        help="candidates of a query, at least 10 (default: none)",
    )
    add_count(parser, "pairs", 256, "through everything, a run")
    add_device_arguments(parser)
    add_loading_options(parser)


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure what the command line asks for."""
    place = Place.of(args)
    if bool(args.model_name_or_path) != bool(args.dataset):
        raise ValueError("--model_name_or_path and --dataset: expected both or neither")
    processor = build_processor()
    if args.dataset:
        checkpoint = checkpoint_of(args, "model_name_or_path")
        load_config(checkpoint)
        model, reference = load_model("ForImageTextRetrieval", checkpoint).eval(), None
        processor = load_processor(checkpoint)
        data = CaptionedImages(open_split(args.dataset, "test"), args.dataset)
    elif args.model in DUAL_ENCODERS:
        model, reference, data = retrieval_model(build_config(args.model), args.seed), None, draw_data(args)
    else:
        pretrained = build_model(args.model, seed=args.seed)
        reference = build_reference(pretrained).eval()
        model = retrieval_model(build_config(args.model, contrastive_size=256), args.seed)
        model.load_state_dict(pretrained.state_dict(), strict=False)
        data = draw_data(args)
    if args.rerank_top_k and not model.config.fuses:
        raise ValueError("--rerank_top_k: without effect on a dual encoder, which fuses no pairs; leave it out")
    ranking = Ranking(model, processor, data, reference, place)
    ranking.compare(args, report)
    ranking.agreement(args, report)
    if not model.config.fuses:
        ranking.parts(args, report)


def retrieval_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Return a model for retrieval with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return AUTO_CLASSES["ForImageTextRetrieval"].from_config(config).eval()


def draw_data(args: argparse.Namespace) -> CaptionedImages:
    """Images of noise with captions of real lengths."""
    rng = np.random.default_rng(args.seed)
    rows = [
        {
            "image": noise(224, rng),
            "captions": [caption(length, rng) for length in caption_lengths(args.captions_per_image, rng)],
        }
        for _ in range(args.num_images)
    ]
    features = Features({"image": Image(), "captions": List(Value("string"))})
    return CaptionedImages(Dataset.from_list(rows, features=features), "drawn")


class Ranking:
    """
    A model with what it ranks.

    Args:
        model: With a retrieval head.
        processor: Its processor.
        data: The images and captions.
        reference: What pairs go through everything of, with the weights of `model`; the model itself by default.
        place: The device and the precision; the CPU and float32 by default.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: RenaissanceProcessor,
        data: CaptionedImages,
        reference: Reference | None = None,
        place: Place | None = None,
    ):
        # Weights are rounded in training alone.
        self.place = (place or Place()).of_others
        self.pairs_per_batch = PAIRS_PER_BATCH[self.place.device.type]
        options = ["--do_eval", "--report_to", "none", "--disable_tqdm", "true"]
        options += [] if self.place.is_cuda else ["--use_cpu"]
        options += ["--bf16", str(self.place.precision == "bf16")]
        options += ["--per_device_eval_batch_size", "64", "--output_dir", tempfile.gettempdir()]
        args = parse_arguments((RunArguments,), options, "")[0]
        self.model, self.data = model.to(self.place.device), data
        self.trainer = RenaissanceTrainer(model=model, args=args, processing_class=processor, data_collator=list)
        images = [data.image(number) for number in range(len(data.image_ids))]
        padding = {"padding": "max_length", "max_length": TEXT_LENGTH} if reference else {}
        inputs = processor(images=images, text=data.captions, as_uint8=not reference, return_tensors="pt", **padding)
        inputs = self.place.moved(inputs)
        self.images = {name: inputs.pop(name) for name in ("pixel_values", "pixel_mask") if name in inputs}
        self.texts = inputs
        self.reference = reference and reference.to(self.place.device)
        self.counts = dict.fromkeys(("encode_image", "encode_text", "fuse"), 0)
        for name in self.counts:
            setattr(model.model, name, self.counting(name, getattr(model.model, name)))

    def counting(self, name: str, function: Callable) -> Callable:
        """`function`, which from now on counts the rows that it makes."""

        def call(*args, **kwargs):
            output = function(*args, **kwargs)
            if name != "fuse":
                self.counts[name] += len(output.states)
            # A text or an image alone, for its vector, is no pair.
            elif args[0] is not None and args[1] is not None:
                self.counts[name] += len(output.pooled)
            return output

        return call

    @torch.no_grad()
    def through_everything(self, pairs: np.ndarray) -> torch.Tensor:
        """Scores (P,) of pairs, numbers below captions times images, each through the whole model."""
        caption, image = (
            torch.from_numpy(index).to(self.place.device) for index in np.divmod(pairs, len(self.data.image_ids))
        )
        scores = []
        for rows in torch.arange(len(pairs), device=self.place.device).split(self.pairs_per_batch):
            texts = {name: values[caption[rows]] for name, values in self.texts.items()}
            images = {name: values[image[rows]] for name, values in self.images.items()}
            with self.place.autocast():
                if self.reference:
                    no_match, match = self.reference.matching(**texts, **images).float().unbind(dim=1)
                    scores.append(match - no_match)
                else:
                    scores.append(self.model(**texts, **images).logits[:, 0])
        return torch.cat(scores).cpu()

    def rank(self, k: int | None) -> dict[str, float]:
        """The metrics of ranking all pairs exactly, or the best k of each query."""
        arguments = RetrievalArguments(dataset="-", rerank_top_k=k, eval_pairs_per_batch=self.pairs_per_batch)
        task = Retrieval(arguments)
        task.fuses = self.model.config.fuses
        return task.evaluate(self.trainer, KeyedRows(self.data, training=False))[1]

    def compare(self, args: argparse.Namespace, report: Report) -> None:
        """Add the cost of all ways, in turns."""
        captions = len(self.data.captions)
        if too_many := [k for k in args.rerank_top_k if k >= captions]:
            raise ValueError(f"--rerank_top_k: expected fewer than the {captions} captions, got {too_many[0]}")
        clock, total = self.place.clock(1), captions * len(self.data.image_ids)
        sample = np.random.default_rng(args.seed).choice(total, min(args.pairs, total), replace=False)
        ways = {"every pair through everything": lambda: self.through_everything(sample)}
        exact = None
        if self.reference is None or not args.rerank_top_k:
            exact = "each encoded once, all pairs"
            ways[exact] = lambda: self.rank(None)
        ways |= {f"--rerank_top_k {k}": lambda k=k: self.rank(k) for k in args.rerank_top_k}

        def measured(way: Callable) -> tuple[float, dict[str, int], object]:
            self.counts.update(dict.fromkeys(self.counts, 0))
            start = clock()
            result = way()
            return clock() - start, dict(self.counts), result

        runs = interleaved({name: lambda run, way=way: measured(way) for name, way in ways.items()}, args.runs)
        first = next(iter(ways))
        ranked = {name: len(sample) if name == first else total for name in ways}
        seconds = {name: [found[0] / ranked[name] for found in runs[name]] for name in ways}
        table = report.table(f"Ranking {len(self.data.image_ids)} images for {len(self.data.captions)} captions")
        for name in ways:
            _, counts, metrics = runs[name][0]
            if name == first:
                # Of the reference nothing is counted: everything is done anew for each pair.
                counts = dict.fromkeys(self.counts, len(sample))
            row = {"way": name, "pairs ranked": ranked[name]}
            row |= {"images encoded": counts["encode_image"], "captions encoded": counts["encode_text"]}
            row |= {"pairs fused": counts["fuse"], "ms a pair": Spread.of([1e3 * value for value in seconds[name]])}
            row["pairs/s"] = 1 / Spread.of(seconds[name]).median
            row["times faster"] = ratios(seconds[first], seconds[name])
            row["seconds"] = None if name == first else Spread.of([total * value for value in seconds[name]])
            recalled = name != first and self.reference is None
            for metric in ("mean_recall", "chance_mean_recall"):
                row[metric] = metrics[metric] if recalled else None
            row["lost"] = runs[exact][0][2]["mean_recall"] - metrics["mean_recall"] if recalled else None
            table.add(row)

    def agreement(self, args: argparse.Namespace, report: Report) -> None:
        """Add how far the scores of the exact ways are from each other."""
        total = len(self.data.captions) * len(self.data.image_ids)
        sample = np.random.default_rng(args.seed).choice(total, min(args.pairs, total), replace=False)
        captions, images = np.divmod(sample, len(self.data.image_ids))
        if self.model.config.fuses:
            once = PairScorer(self.trainer, self.data, self.pairs_per_batch).score(captions, images)
        else:
            grid = GridScorer(self.trainer, self.data).score_grid(*map(np.arange, self.shape))
            head = self.model.contrastive_head
            with torch.no_grad():
                once = head.biased(head.scale().cpu() * torch.from_numpy(grid[captions, images])).numpy()
        difference = np.abs(once - self.through_everything(sample).numpy()).max()
        row = {"pairs": len(sample), "largest difference": float(difference)}
        report.table("Scores of pairs encoded once, and through everything").add(row)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of captions and of images."""
        return len(self.data.captions), len(self.data.image_ids)

    def parts(self, args: argparse.Namespace, report: Report) -> None:
        """Add what ranking by vectors consists of: to make them, the matrix product, and to rank by it."""
        clock, found = self.place.clock(1), {"vectors": [], "matrix product": [], "ranks and recalls": []}
        numbers = [np.arange(count) for count in self.shape]
        truth = self.data.image_of[:, None] == numbers[1]
        for _ in range(args.runs):
            times = [clock()]
            scorer = GridScorer(self.trainer, self.data)
            times.append(clock())
            scores = scorer.score_grid(*numbers)
            times.append(clock())
            retrieval_metrics(scores, scores, truth)
            times.append(clock())
            for name, seconds in zip(found, np.diff(times), strict=True):
                found[name].append(float(seconds))
        table = report.table(f"Parts of ranking {self.shape[1]} images for {self.shape[0]} captions")
        for name, seconds in found.items():
            table.add({"part": name, "seconds": Spread.of(seconds)})
