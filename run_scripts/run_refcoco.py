#!/usr/bin/env python
"""Finetunes, evaluates and predicts on RefCOCO: the same as `renaissance refcoco`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["refcoco", *sys.argv[1:]])
