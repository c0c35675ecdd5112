"""
Ask the finetuned model of `make demo` about drawings that it has not seen.

    renaissance demo demo/nlvr2
"""

import argparse

import torch
from transformers import AutoModel, AutoProcessor

from ..auto import AUTO_CLASSES
from ..tasks.data.shapes import draw_scene, make_pair


def main(arguments: list[str] | None = None) -> None:
    """Print what `AutoModel` makes of a folder, and the classifier's answers to eight statements. Exit with code 2 and one
    line on a user's mistake."""
    parser = build_parser()
    folder = parser.parse_args(arguments).folder
    try:
        model = AUTO_CLASSES["ForImagesAndTextClassification"].from_pretrained(folder).eval()
        processor = AutoProcessor.from_pretrained(folder)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {folder}: no finetuned model there ({str(error).splitlines()[0]})\n")
    print(f"\nAutoModel.from_pretrained({folder!r}) is a {type(AutoModel.from_pretrained(folder)).__name__}.")
    for index in range(8):
        pair = make_pair(0, "test", 1000 + index)
        images = [[draw_scene(pair.left), draw_scene(pair.right)]]
        inputs = processor(images=images, text=[pair.statement.text], return_tensors="pt")
        with torch.no_grad():
            truth = model(**inputs).logits.softmax(dim=-1)[0, 1].item()
        print(f"  {pair.statement.text:58s} true with probability {truth:.2f}; it is {pair.label}")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("renaissance demo", description=__doc__, formatter_class=raw)
    parser.add_argument(
        "folder",
        nargs="?",
        default="demo/nlvr2",
        help="a model that `renaissance nlvr2` finetuned (default: demo/nlvr2)",
    )
    return parser
