"""
Ask the finetuned model of `make demo` about drawings that it has not seen.

    renaissance demo demo/nlvr2
"""

import argparse

import torch
from transformers import AutoModel
from transformers.utils import logging

from renaissance_cli.mistakes import one_line

from ..checkpoints import add_loading_options, checkpoint_of, load_config, load_model, load_processor
from ..modeling.answers import score_choices
from ..tasks.data.shapes import draw_scene, make_pair
from .parsing import OneLineParser


KIND = "ForImagesAndTextClassification"


def main(arguments: list[str] | None = None) -> None:
    """Print what `AutoModel` makes of a folder, and the classifier's answers to eight statements. Exit with code 2 and one
    line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        checkpoint = checkpoint_of(args, "folder")
        saved = (load_config(checkpoint).architectures or [""])[0]
        if not saved.endswith(KIND):
            raise ValueError(f"{args.folder}: expected a model that `renaissance nlvr2` finetuned, got {saved}")
        model, processor = load_model(KIND, checkpoint).eval(), load_processor(checkpoint)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {one_line(error)}\n")
    level = logging.get_verbosity()
    # The weights of the head are not read, which would be reported at length.
    logging.set_verbosity_error()
    base = AutoModel.from_pretrained(checkpoint.model_name_or_path, **checkpoint.loading)
    logging.set_verbosity(level)
    print(f"\nAutoModel.from_pretrained({checkpoint.model_name_or_path!r}) is a {type(base).__name__}.")
    for index in range(8):
        pair = make_pair(0, "test", 1000 + index)
        images = [[draw_scene(pair.left), draw_scene(pair.right)]]
        inputs = processor(images=images, text=[pair.statement.text], return_tensors="pt")
        with torch.no_grad():
            truth = score_choices(model, inputs)[0, 1].item()
        print(f"  {pair.statement.text:58s} true with probability {truth:.2f}; it is {pair.label}")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser("renaissance demo", description=__doc__, formatter_class=raw)
    parser.add_argument(
        "folder",
        nargs="?",
        default="demo/nlvr2",
        help="a model that `renaissance nlvr2` finetuned (default: demo/nlvr2)",
    )
    add_loading_options(parser)
    return parser
