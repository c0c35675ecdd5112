#!/usr/bin/env python
"""
Finetunes, evaluates and predicts on SNLI-VE: does an image entail a sentence, contradict it, or neither?

    python run_scripts/run_snli_ve.py run_scripts/recipes/snli_ve.yaml --model_name_or_path outputs/pretrained

The recipe is optional, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


if __name__ == "__main__":
    run_task(SNLIVE, __doc__)
