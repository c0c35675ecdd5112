#!/usr/bin/env python
"""Loads the finetuned model of `make demo` as anybody would, and asks it about two drawings."""

import sys

import torch
from transformers import AutoModel, AutoProcessor

from renaissance import AutoModelForImagesAndTextClassification
from renaissance.tasks.data.shapes import draw_scene, make_pair


def main(folder: str) -> None:
    """Prints what `AutoModel` makes of `folder`, and the classifier's answers to statements it has not seen."""
    model = AutoModelForImagesAndTextClassification.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    print(f"\nAutoModel.from_pretrained({folder!r}) is a {type(AutoModel.from_pretrained(folder)).__name__}.")
    for index in range(8):
        pair = make_pair(0, "test", 1000 + index)
        images = [[draw_scene(pair.left), draw_scene(pair.right)]]
        inputs = processor(images=images, text=[pair.statement.text], return_tensors="pt")
        with torch.no_grad():
            truth = model(**inputs).logits.softmax(dim=-1)[0, 1].item()
        print(f"  {pair.statement.text:58s} true with probability {truth:.2f}; it is {pair.label}")


if __name__ == "__main__":
    main(*sys.argv[1:])
