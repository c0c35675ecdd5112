#!/usr/bin/env python
"""Trains a small text or vision encoder: the same as `renaissance encoder`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["encoder", *sys.argv[1:]])
