#!/usr/bin/env python
"""Asks the finetuned model of `make demo` about drawings: the same as `renaissance demo`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
