"""Pretrains and pushes on as many processes as it is launched on. Run by test_hub_processes.py."""

import sys
from pathlib import Path

from hub import pretrain_and_push


if __name__ == "__main__":
    folder, shapes, tokenizer, *extra = sys.argv[1:]
    pretrain_and_push(Path(folder), Path(shapes), Path(tokenizer), *extra, "--ddp_backend", "gloo")
