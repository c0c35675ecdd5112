#!/usr/bin/env python
"""Runs an experiment of many runs from one file: the same as `renaissance study`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
