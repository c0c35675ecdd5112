#!/usr/bin/env python
"""Prepares data sets: the same as `renaissance prepare`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
