#!/usr/bin/env python
"""
Pretrains a vision-language encoder with masked language modelling and image-text matching.

    python run_scripts/run_pretrain.py run_scripts/recipes/pretrain_shapes_two_tower.yaml --output_dir outputs/pretrained

The recipe is optional, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    run_task(Pretraining, __doc__)
