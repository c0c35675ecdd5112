"""A script for SLURM that runs a study as an array of jobs."""

import shlex

from .spec import Study


SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={logs}/slurm-%A_%a.log
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


def sbatch_script(study: Study, jobs: int, options: list[str], seeds: list[int] | None = None) -> str:
    """
    Return the script, which `sbatch` takes.

    Args:
        study: The study.
        jobs: Number of jobs of the array.
        options: Options of sbatch, such as `--gres=gpu:1`.
        seeds: Those of its seeds that are run; all by default.
    """
    return SCRIPT.format(
        name=study.path.stem,
        last=jobs - 1,
        logs=study.output_dir,
        grace=GRACE,
        more="".join(f"#SBATCH {option}\n" for option in options),
        study=shlex.quote(str(study.path)),
        seeds=f" --seeds {' '.join(map(str, seeds))}" if seeds else "",
        jobs=jobs,
    )
