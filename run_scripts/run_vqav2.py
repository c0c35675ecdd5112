#!/usr/bin/env python
"""
Finetunes, evaluates and predicts on VQAv2 or any other questions about images: what is the answer?

    python run_scripts/run_vqav2.py run_scripts/recipes/vqav2.yaml --model_name_or_path outputs/pretrained

The recipe is optional, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.runner import run_task
from renaissance.tasks.vqav2 import VQAv2


if __name__ == "__main__":
    run_task(VQAv2, __doc__)
