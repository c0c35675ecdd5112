#!/usr/bin/env python
"""
Finetunes, evaluates and predicts on CIFAR-10, or on any other classification of images alone.

    python run_scripts/run_cifar10.py run_scripts/recipes/cifar10.yaml

The recipe is optional, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    run_task(CIFAR10, __doc__)
