"""Which runs of a folder, without a study, are seeds of one variant."""

import json
from collections.abc import Iterable
from pathlib import Path

from ..tasks.run_record import Ancestor, RunRecord


#: Options in which seeds of one variant differ. What a run started from is told by its history, and not by a name of a folder.
OF_ONE_RUN = ("seed", "data_seed", "output_dir", "model_name_or_path")


class Variants:
    """
    Tells the variants of runs.

    Args:
        records: The records of all runs that are there, by which those that a run started from are known.
    """

    def __init__(self, records: Iterable[RunRecord]):
        self.known = {record.run_id: record for record in records if record.run_id}
        self.names: dict[tuple, str] = {}

    def name(self, title: str, folder: Path, record: RunRecord) -> str:
        """
        Return the variant of a run: that of an earlier one which did the same with other seeds, or a new one called `title`. Two runs
        with the same seeds are never one variant.
        """
        key, seeds = self.key(folder, record), seeds_of(record)
        place = next(place for place in range(len(self.names) + 1) if (key, place, seeds) not in self.names)
        earlier = next((name for (other, at, _), name in self.names.items() if (other, at) == (key, place)), None)
        if earlier is None and title in self.names.values():
            title = f"{title} ({folder})"
        self.names[key, place, seeds] = earlier or title
        return earlier or title

    def key(self, folder: Path, record: RunRecord) -> str:
        """Return what a run did, seeds and places apart: the same text for the same task, options, data and origin."""
        data = sorted((each.split, str(each.fingerprint)) for each in record.data)
        return json.dumps([deed(record), data, self.origin(record, folder, ())], sort_keys=True, default=str)

    def origin(self, record: RunRecord, folder: Path, later: tuple[str, ...]) -> list:
        """Return what a run came from; `later` are the runs that this one led to, for records that somebody has made up may go in circles."""
        return [self.came_from(each, folder, (*later, record.run_id)) for each in record.history]

    def came_from(self, ancestor: Ancestor, folder: Path, later: tuple[str, ...]) -> list:
        """
        Return what tells one origin from another: what the run before did, if its record is there. Without the record its options are not
        known, so that only the same run, or the same weights, are the same origin; a checkpoint of which nothing is known is like no other.
        """
        record = self.known.get(ancestor.run_id or "")
        if record is not None and record.run_id not in later:
            at = ancestor.steps if ancestor.steps != record.steps else None
            train = record.of_split("train")
            # Of an encoder, a history has nothing that is further back.
            earlier = self.origin(record, folder, later) if ancestor.part else []
            return [ancestor.part, deed(record), train and train.fingerprint, at, earlier]
        if ancestor.run_id:
            return [ancestor.part, ancestor.run_id, ancestor.steps]
        return [ancestor.part, ancestor.digest or ancestor.revision or f"{ancestor.name} of {folder}"]


def deed(record: RunRecord) -> list:
    """Return what a run did by itself: its task, whether it trained (an evaluation has the same recipe), and its options."""
    options = {name: value for name, value in record.options.items() if name not in OF_ONE_RUN}
    return [record.task, "train" in record.did, options]


def seeds_of(record: RunRecord) -> tuple[int | None, ...]:
    """Return the seed of a run and those of the runs that it goes back to, of which an evaluation may differ in the latter alone."""
    return (record.seed, *(each.seed for each in record.history))
