#!/usr/bin/env python
"""Finetunes, evaluates and predicts on retrieval: the same as `renaissance retrieval`, whose --help says more."""

import sys

from renaissance_cli.main import main


if __name__ == "__main__":
    main(["retrieval", *sys.argv[1:]])
