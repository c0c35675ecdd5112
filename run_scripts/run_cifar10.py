#!/usr/bin/env python
"""Finetunes, evaluates and predicts on images alone: the same as `renaissance cifar10`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["cifar10", *sys.argv[1:]])
