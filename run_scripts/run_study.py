#!/usr/bin/env python
"""Runs an experiment of many runs from one file: the same as `renaissance study run`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["study", "run", *sys.argv[1:]])
