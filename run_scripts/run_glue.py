#!/usr/bin/env python
"""Finetunes, evaluates and predicts on texts: the same as `renaissance glue`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["glue", *sys.argv[1:]])
