#!/usr/bin/env python
"""
Finetunes, evaluates and predicts on RefCOCO, RefCOCO+ or RefCOCOg: which box of an image does an expression mean?

    python run_scripts/run_refcoco.py run_scripts/recipes/refcoco.yaml --model_name_or_path outputs/pretrained

The recipe is optional, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    run_task(RefCOCO, __doc__)
