#!/usr/bin/env python
"""Finetunes, evaluates and predicts on SNLI-VE: the same as `renaissance snli-ve`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["snli-ve", *sys.argv[1:]])
