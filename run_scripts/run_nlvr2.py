#!/usr/bin/env python
"""
Finetunes, evaluates and predicts on NLVR2: is a sentence true of a pair of images?

    python run_scripts/run_nlvr2.py run_scripts/recipes/nlvr2_shapes.yaml --model_name_or_path outputs/pretrained

The recipe is optional, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    run_task(NLVR2, __doc__)
