"""A pretraining that says at its end how many versions of layers were compiled. Run by test_compiled_runs.py."""

import json
import sys

from torch._dynamo.utils import counters

from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    run_task(Pretraining, "", sys.argv[1:])
    found = {"versions": counters["stats"]["unique_graphs"], "breaks": dict(counters["graph_break"])}
    sys.stdout.write(json.dumps(found) + "\n")
