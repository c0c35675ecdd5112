"""A script for SLURM that runs a study as an array of jobs."""

import re
import shlex

from renaissance_cli.mistakes import visible

from .spec import Study


SCRIPT = """#!/bin/bash
#SBATCH {name}
#SBATCH --array=0-{last}
#SBATCH {logs}
#SBATCH --signal=B:USR1@{grace}
#SBATCH --requeue
{more}
# Each job runs its share of the study; what several need is run by the first that comes to it, and waited for by the others.
# Ten minutes before its time is over a job saves a checkpoint, and goes back to the queue.
trap 'kill -USR1 "$process"' USR1
renaissance study run {study}{seeds} --jobs {jobs} --index "$SLURM_ARRAY_TASK_ID" &
process=$!
while kill -0 "$process" 2>/dev/null; do wait "$process"; code=$?; done
if [ "$code" -eq 75 ]; then scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"; fi
exit "$code"
"""

#: Seconds before the end of its time at which a job is told.
GRACE = 600


#: What the script says by itself, and what would take it back. sbatch takes their beginnings too.
OWN = ("job-name", "array", "output", "signal", "requeue", "no-requeue", "wrap", "test-only")
#: An option as it is given: its name without dashes, and its value if it has one.
OPTION = re.compile(r"([a-zA-Z][a-zA-Z0-9-]+)(=.*)?", re.DOTALL)


def sbatch_script(study: Study, jobs: int, options: list[str], seeds: list[int] | None = None) -> str:
    """
    Return the script, which `sbatch` takes.

    Args:
        study: The study.
        jobs: Number of jobs of the array.
        options: Options of sbatch without their dashes, such as `gres=gpu:1`.
        seeds: Those of its seeds that are run; all by default.

    Raises:
        ValueError: If an option is none, or is one of the script's own, or a line of the script cannot say it.
    """
    # A % begins what sbatch replaces in names of files.
    logs = str(study.output_dir).replace("%", "%%")
    return SCRIPT.format(
        name=directive("job-name", study.name, "the name of the study"),
        last=jobs - 1,
        logs=directive("output", f"{logs}/slurm-%A_%a.log", "output_dir"),
        grace=GRACE,
        more="".join(f"#SBATCH {option_of(option)}\n" for option in options),
        study=shlex.quote(str(study.path)),
        seeds=f" --seeds {' '.join(map(str, seeds))}" if seeds else "",
        jobs=jobs,
    )


def option_of(given: str) -> str:
    """Return an option of sbatch as the script has it. Raise `ValueError` as `sbatch_script` does."""
    found = OPTION.fullmatch(given.removeprefix("--"))
    if found is None:
        raise ValueError(f"sbatch: expected options such as gres=gpu:1 or exclusive, got {visible(given)!r}")
    name, value = found.groups()
    if own := [each for each in OWN if each.startswith(name)]:
        raise ValueError(f"sbatch: {name}: the script itself has {own[0]}, or cannot do without; leave it out")
    if value == "=":
        raise ValueError(f"sbatch: {name}: expected a value, got an empty one")
    return f"--{name}" if value is None else directive(name, value.removeprefix("="), f"sbatch: {name}")


def directive(name: str, value: str, place: str) -> str:
    """
    Return an option with a value as a line of the script has it, in quotes if it has blanks, or what begins a comment. Raise `ValueError`,
    which names the `place`, if it has what no line can have: ends of lines and other controls, or quotes.
    """
    if not value.isprintable() or set(value) & {'"', "'", "\\"}:
        raise ValueError(
            f"{place}: a script for sbatch cannot have {value!r}, with quotes, backslashes, ends of lines or other control characters in it"
        )
    return f'--{name}="{value}"' if re.search(r"[\s#]", value) else f"--{name}={value}"
