#!/usr/bin/env python
"""Finetunes, evaluates and predicts on questions about images: the same as `renaissance vqa`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["vqa", *sys.argv[1:]])
