#!/usr/bin/env python
"""Measures what training, ranking and loading cost: the same as `renaissance benchmark`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
