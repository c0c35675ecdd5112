#!/usr/bin/env python
"""Converts checkpoints of ViLT and LXMERT: the same as `renaissance convert`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
