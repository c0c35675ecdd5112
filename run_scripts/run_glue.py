#!/usr/bin/env python
"""
Finetunes, evaluates and predicts on a task of GLUE, or on any other classification of texts or pairs of texts.

    python run_scripts/run_glue.py run_scripts/recipes/glue.yaml --task_name cola --dataset downloads/glue/CoLA

The recipe is optional, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.glue import GLUE
from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    run_task(GLUE, __doc__)
