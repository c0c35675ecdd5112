"""Whether a run that broke off, and went on with the same command, ended as the unbroken one did."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from renaissance.tasks.run_record import RunRecord


#: Parts of the names of values that differ between two runs of the same: times, speeds and memory.
OF_TIME = ("runtime", "per_second", "seconds", "_time", "memory", "flos")
#: Fields of the record that are of one run.
OF_ONE_RUN = ("run_id", "name", "started", "finished", "resumed_at", "data", "commit", "uncommitted_changes")


def without_times(values: dict) -> dict:
    return {name: value for name, value in values.items() if not any(part in name for part in OF_TIME)}


def files_of(folder: Path) -> set[str]:
    """Return the paths of all files and folders in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def differences(folder: Path, whole: Path, ignore: tuple[str, ...] = ()) -> list[str]:
    """Return in words how the folder of a run differs from that of the unbroken run, but for states whose paths are in `ignore`."""
    if files_of(folder) != files_of(whole):
        return [f"files: {sorted(files_of(folder) ^ files_of(whole))}"]
    found = []
    for path in sorted(whole.rglob("model.safetensors")):
        one, other = load_file(path), load_file(folder / path.relative_to(whole))
        if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
            found.append(f"weights of {path.relative_to(whole)}")
    for path in sorted(whole.rglob("trainer_state.json")):
        if path.relative_to(whole).as_posix() in ignore:
            continue
        one, other = (json.loads((each / path.relative_to(whole)).read_text()) for each in (whole, folder))
        histories = [[without_times(line) for line in state["log_history"]] for state in (one, other)]
        if histories[0] != histories[1]:
            found.append(f"log_history of {path.relative_to(whole)}: {histories[1]} for {histories[0]}")
    for name in sorted(path.name for path in whole.glob("*_results.json")):
        one, other = (without_times(json.loads((each / name).read_text())) for each in (whole, folder))
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                found.append(f"{key} in {name}: {other.get(key)} for {one.get(key)}")
    for path in sorted(whole.glob("predictions*")):
        if path.read_bytes() != (folder / path.name).read_bytes():
            found.append(path.name)
    one, other = (json.loads((each / "run_state.json").read_text()) for each in (whole, folder))
    if one | {"options": None} != other | {"options": None}:
        found.append(f"run_state.json: {other} for {one}")
    found += record_differences(RunRecord.read(folder), RunRecord.read(whole))
    return found


def record_differences(record: RunRecord, whole: RunRecord) -> list[str]:
    """Return in words how two records differ, but for what is of one run alone."""
    one, other = (without_times(vars(each)) for each in (whole, record))
    for each, rows in ((one, whole.metrics), (other, record.metrics)):
        each["metrics"] = sorted(
            (row.name, row.value) for row in rows if not any(part in row.name for part in OF_TIME)
        )
        each["options"] = without_times({k: v for k, v in each["options"].items() if k != "output_dir"})
    names = [name for name in one if name not in OF_ONE_RUN and one[name] != other[name]]
    return [f"{name} in run.json: {other[name]} for {one[name]}" for name in names]
