"""Evaluates and predicts every task, on as many processes as it is launched on. Run by test_predictions.py."""

import sys
from pathlib import Path

from task_runs import TASKS, run_argv

from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    scenes, tokenizer, output = map(Path, sys.argv[1:])
    for name, predicted in TASKS.items():
        run_task(predicted.task, "", run_argv(name, scenes, tokenizer, output / name))
