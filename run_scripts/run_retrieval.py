#!/usr/bin/env python
"""
Finetunes, evaluates and predicts on retrieval: images by caption and captions by image, on COCO, Flickr30k or your own data.

    python run_scripts/run_retrieval.py run_scripts/recipes/retrieval_flickr30k.yaml --model_name_or_path outputs/pretrained

The recipe is optional, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    run_task(Retrieval, __doc__)
