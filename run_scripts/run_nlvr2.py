#!/usr/bin/env python
"""Finetunes, evaluates and predicts on NLVR2: the same as `renaissance nlvr2`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["nlvr2", *sys.argv[1:]])
