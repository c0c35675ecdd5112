#!/usr/bin/env python
"""Pretrains a vision-language encoder: the same as `renaissance pretrain`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
