#!/usr/bin/env python
"""Finetunes, evaluates and predicts on images with texts: the same as `renaissance image-text`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["image-text", *sys.argv[1:]])
