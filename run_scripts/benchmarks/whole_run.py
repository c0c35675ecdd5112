"""
A whole run of `renaissance pretrain`, from JPEGs to trained weights, against the step alone.

The run reads a prepared data set of drawn JPEGs of 640x480 with five captions each, decodes them in worker processes, and moves the
batches to the device. Its samples a second are the median of what it logs after the first quarter of its steps. The step alone has its
batches on the device; it is timed before and after the run, by wall seconds. The files stay in the memory of the machine: reading
from a disk is not in it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from renaissance.commands.parsing import COUNTS, number_in
from renaissance.tasks.compilation import LENGTH_MULTIPLE, compile_layers
from renaissance.tasks.data.schemas import CAPTIONS
from renaissance.tasks.data.writer import write_split

from .device import Place, add_compile_argument, add_device_arguments, add_graphs_argument, check_backend, check_graphs
from .loading import draw_files
from .models import (
    MODELS,
    BatchSettings,
    build_model,
    build_processor,
    caption,
    caption_lengths,
    draw_own_batches,
    objectives_of,
)
from .options import add_batch_size, add_count
from .reference import TEXT_LENGTH
from .report import Report
from .training import Trainee


CAPTIONS_PER_IMAGE = 5
#: Different files; further images have the bytes of one of them.
DRAWN = 64
#: Parts of the run whose rates are logged. The first has the start of the worker processes and is left out.
WINDOWS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this group."""
    parser.add_argument("--model", choices=MODELS, default="small", help="(default: %(default)s)")
    add_batch_size(parser, 88, "[2, 65536]")
    add_count(parser, "steps", 80, "of the run", among="[8, 1000000]")
    parser.add_argument(
        "--num_images",
        type=number_in(int, COUNTS),
        default=2048,
        help="JPEG files (default: %(default)s, so that the run is less than an epoch)",
    )
    parser.add_argument(
        "--workers",
        type=number_in(int, "[0, 1024]"),
        default=len(os.sched_getaffinity(0)),
        help="worker processes of the loader (default: one a core)",
    )
    add_device_arguments(parser)
    add_compile_argument(parser)
    add_graphs_argument(parser, "let the run and the step alone record their passes")


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure what the command line asks for."""
    place = Place.of(args)
    check_backend(args, place)
    check_graphs(args, place)
    model = build_model(args.model, seed=args.seed)
    table = report.table(f"A whole run and the step alone, {place.device.type}, {place.precision}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "model")
        build_processor().save_pretrained(folder / "model")
        write_data(folder / "data", args)
        if args.compile:
            compile_layers(model, args.compile)
        multiple = LENGTH_MULTIPLE if args.compile or args.cuda_graphs else 1
        settings = BatchSettings(args.batch_size, seed=args.seed)
        batches = draw_own_batches(settings, min(args.runs, 5), objectives_of(args.model), length_multiple=multiple)
        trainee = Trainee(model, batches, place)
        if args.cuda_graphs:
            trainee.record()
        before = seconds_alone(trainee, args.runs)
        rate = rate_of_run(folder, args)
        after = seconds_alone(trainee, args.runs)
    alone = 2 * args.batch_size / (before + after)
    table.add(
        {
            "model": args.model,
            "batch": args.batch_size,
            "compiled": args.compile or "no",
            "CUDA graphs": "yes" if args.cuda_graphs else "no",
            "workers": args.workers,
            "samples/s, run": rate,
            "samples/s, step alone": alone,
            "run over step": rate / alone,
        }
    )


def write_data(folder: Path, args: argparse.Namespace) -> None:
    """Write a prepared data set with a split for training."""
    files, rng = draw_files(min(args.num_images, DRAWN), args.seed), np.random.default_rng(args.seed)
    rows = [
        {
            "image": {"bytes": files[number % DRAWN], "path": None},
            "image_id": str(number),
            "captions": [caption(length, rng) for length in caption_lengths(CAPTIONS_PER_IMAGE, rng)],
        }
        for number in range(args.num_images)
    ]
    write_split(rows, CAPTIONS, folder, "train", num_rows=len(rows))


def seconds_alone(trainee: Trainee, runs: int) -> float:
    """Return the median wall seconds of a step, after one on each batch."""
    for number in range(len(trainee.batches)):
        trainee.run(number)
    return median(trainee.seconds(number, trainee.place.wall) for number in range(runs))


def rate_of_run(folder: Path, args: argparse.Namespace) -> float:
    """
    Run `renaissance pretrain` on the model and the data in a folder; return its samples a second.

    Raises:
        ValueError: If it fails.
    """
    words = ["--model_name_or_path", folder / "model", "--train_datasets", folder / "data", "--do_train"]
    words += ["--output_dir", folder / "run", "--max_steps", args.steps, "--logging_steps", args.steps // WINDOWS]
    words += ["--per_device_train_batch_size", args.batch_size, "--max_length", TEXT_LENGTH, "--seed", args.seed]
    # As if there were an epoch of millions.
    words += ["--dataloader_drop_last"]
    words += ["--dataloader_num_workers", args.workers, "--save_strategy", "no", "--disable_tqdm", "true"]
    words += ["--dataloader_persistent_workers"] if args.workers else []
    words += ["--bf16", "false"] if args.precision == "float32" else [f"--{args.precision}"]
    words += [] if args.device == "cuda" else ["--use_cpu"]
    words += ["--torch_compile", "--torch_compile_backend", args.compile] if args.compile else []
    words += ["--cuda_graphs"] if args.cuda_graphs else []
    command = [sys.executable, "-m", "renaissance_cli", "pretrain", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"renaissance pretrain failed: {done.stderr.strip().splitlines()[-1]}")
    log = json.loads((folder / "run" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return median(entry["samples_per_second"] for entry in log if "samples_per_second" in entry)
