"""Streams of .tar files whose samples are not in one piece: here they are put together, elsewhere they are told."""

import io
import logging
import tarfile
from pathlib import Path

import fsspec
import pytest
from own_files import COLOURS, png
from own_tasks import colour

from renaissance.tasks.data.streaming import CaptionSource
from renaissance.tasks.data.web_samples import read_tars


pytestmark = pytest.mark.usefixtures("dataset_cache")

COLUMNS = {"image": "png", "captions": "txt", "image_id": "id"}


def archive_of(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def members_of(count: int = 6) -> dict[str, list[tuple[str, bytes]]]:
    """The members of each kind."""
    return {
        "png": [(f"in/{n}.png", png(n)) for n in range(count)],
        "txt": [(f"in/{n}.txt", f"caption {n}".encode()) for n in range(count)],
        "id": [(f"in/{n}.id", f"photo {n}".encode()) for n in range(count)],
        "json": [(f"in/{n}.json", b"{}") for n in range(count)],
    }


ORDERS = {
    "one kind after the other": ["png", "txt", "id", "json"],
    "texts first": ["json", "id", "txt", "png"],
    "in pieces": None,
    "from the end": None,
}


def ordered(order: str) -> list[tuple[str, bytes]]:
    kinds = members_of()
    if ORDERS[order]:
        return [member for kind in ORDERS[order] for member in kinds[kind]]
    by_sample = [member for own in zip(*kinds.values(), strict=True) for member in own]
    if order == "from the end":
        return by_sample[::-1]
    return by_sample[:5] + by_sample[9:] + by_sample[5:9]


def found(folder: Path, columns: dict = COLUMNS) -> dict[str, tuple]:
    source = CaptionSource.open(str(folder), "train", columns)
    return {row["captions"][0]: (row["image_id"].split("/")[-2], colour(row["image"])) for row, _ in source.rows()}


@pytest.mark.parametrize("order", ORDERS)
def test_members_of_a_sample_need_not_stand_together(order, tmp_path, caplog):
    (tmp_path / "0.tar").write_bytes(archive_of(ordered(order)))
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path) == {f"caption {n}": (f"photo {n}", COLOURS[n]) for n in range(6)}
    assert "left out" not in caplog.text


def test_what_is_missing_in_the_whole_file_is_told_by_file_and_sample(tmp_path, caplog):
    kinds = members_of()
    del kinds["txt"][3], kinds["png"][1]
    (tmp_path / "0.tar").write_bytes(archive_of([member for own in kinds.values() for member in own]))
    with caplog.at_level(logging.WARNING):
        assert set(found(tmp_path)) == {f"caption {n}" for n in (0, 2, 4, 5)}
    assert "left out 1 with no member png, now in/1 of 0.tar (no member png (txt, id, json))" in caplog.text
    assert "left out 1 with no member txt, now in/3 of 0.tar (no member txt (png, id, json))" in caplog.text
    assert "a pass of 4 rows, without 2 that were left out" in caplog.text


def test_of_a_file_that_breaks_off_all_whole_samples_are_used(tmp_path, caplog):
    """Images first; the file ends in the fourth text."""
    kinds = members_of()
    content = archive_of([*kinds["png"], *kinds["txt"]])
    (tmp_path / "0.tar").write_bytes(content[: content.index(b"in/3.txt") + 515])
    assert set(found(tmp_path)) == {f"caption {n}" for n in range(3)}
    assert f"damaged file, now {tmp_path}/0.tar" in caplog.text


def test_samples_that_stand_together_come_in_their_order(tmp_path):
    kinds = members_of()
    members = [member for n in (4, 1, 5) for member in (kinds["png"][n], kinds["txt"][n])]
    (tmp_path / "0.tar").write_bytes(archive_of(members))
    assert list(found(tmp_path, COLUMNS | {"image_id": "__key__"})) == ["caption 4", "caption 1", "caption 5"]


def test_a_file_elsewhere_names_the_sample_the_cause_and_the_cure():
    for order, whole in (("in pieces", 4), ("one kind after the other", 0)):
        with fsspec.open("memory://shards/0.tar", "wb") as file:
            file.write(archive_of(ordered(order)))
        rows = list(read_tars(["memory://shards/0.tar"], COLUMNS))
        faults = [(row["name"], row["fault"]) for row in rows if row["fault"]]
        assert sum(row["fault"] is None for row in rows) == whole
        name, fault = faults[0]
        assert name in ("in/1 of 0.tar", "in/0 of 0.tar") and fault.startswith("no member ")
        assert fault.endswith("members of a sample must follow each other: sort it with tar --sort=name)")
