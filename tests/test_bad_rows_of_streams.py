"""Bad rows of data that is streamed: skipped, counted, listed, and too many of them."""

import re
from pathlib import Path

import pytest
from broken_runs import PAGE, report_of
from conftest import TWO_TOWER
from own_files import as_csv, png, tar_of, write_pictures
from own_tasks import rows_of

from renaissance.tasks.data.bad_rows import BadRow, BadRows
from renaissance.tasks.data.streaming import CaptionSource, CaptionStream
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")


#: Four samples of a .tar file, one of them broken.
def web(folder: Path, broken: int = 1, count: int = 8) -> Path:
    folder.mkdir()
    samples = {f"{n:03d}": {"png": png(n % 6), "txt": f"a text {n}".encode()} for n in range(count)}
    for number in range(broken):
        samples[f"{2 * number + 1:03d}"]["png"] = PAGE
    tar_of(folder / "0.tar", samples)
    return folder


def streamed(folder: Path, options: list[str]) -> list[str]:
    columns = ["--image_column", "png", "--captions_column", "txt", "--image_id_column", "__key__"]
    argv = ["--train_datasets", str(folder), "--streaming", "--do_train", "--max_steps", "4", *columns]
    return [*TWO_TOWER, *options, *argv]


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_streams_skip_count_and_list_each_row_once(workers, options, tmp_path):
    """Over several passes."""
    argv = streamed(web(tmp_path / "web", broken=3), options)
    run_task(Pretraining, "", [*argv, "--dataloader_num_workers", workers])
    report = report_of(tmp_path / "run")
    assert [row["row"] for row in report] == sorted(f"{n:03d} of 0.tar" for n in (1, 3, 5)) or len(report) == 3
    assert {row["file"] for row in report} == {str(tmp_path / "web")}
    assert all("a web page" in row["fault"] for row in report)
    assert RunRecord.read(tmp_path / "run").of_split("train").bad_rows == 3


def test_streams_stop_at_an_error_or_above_the_fraction(options, tmp_path, refused):
    argv = streamed(web(tmp_path / "web", broken=3), options)
    message = refused(run_task, Pretraining, "", [*argv, "--on_bad_row", "error"])
    assert re.search(r"web, row 00[135] of 0\.tar: .*a web page.*; mend it, or go on .* by --on_bad_row skip", message)
    message = refused(run_task, Pretraining, "", [*argv, "--max_bad_fraction", "0.3", "--dataloader_num_workers", "1"])
    assert f"web: 3 of 8 rows cannot be used (max_bad_fraction is 0.3); {tmp_path}/run/bad_rows.jsonl lists" in message
    assert len(report_of(tmp_path / "run")) == 3


@pytest.mark.parametrize("workers", ["2", pytest.param("0", marks=pytest.mark.slow)])
def test_a_long_stream_of_almost_all_bad_rows_stops_soon(workers, options, tmp_path, refused):
    """Each loader process that reads it judges after its 501st bad row, not at the end of its pass."""
    for number in ("0", "1"):
        samples = {f"{n:04d}": {"png": PAGE if n % 100 else png(n % 6), "txt": b"a text"} for n in range(1500)}
        tar_of(tmp_path / f"{number}.tar", samples)
    argv = streamed(tmp_path, options)
    line = refused(run_task, Pretraining, "", [*argv, "--dataloader_num_workers", workers])
    who = r" that loader process [01] has read" if workers == "2" else ""
    assert re.search(rf": 501 of 1000 rows{who} cannot be used \(max_bad_fraction is 0\.5\); ", line)
    assert 501 <= len(report_of(tmp_path / "run")) <= 2 * 501


def test_a_loader_process_without_a_good_row_ends_the_run(options, tmp_path, refused):
    """It has none to give, although the other one has."""
    web(tmp_path / "web", broken=0)
    tar_of(tmp_path / "web" / "1.tar", {f"{n}": {"png": PAGE, "txt": b"a text"} for n in range(8)})
    argv = [*streamed(tmp_path / "web", options), "--dataloader_num_workers", "2", "--max_bad_fraction", "0.9"]
    line = refused(run_task, Pretraining, "", argv)
    assert "web: 8 of 8 rows that loader process 1 has read cannot be used (max_bad_fraction is 0.9)" in line


def test_a_stream_without_a_good_row_does_not_begin_again(tmp_path):
    """However many bad rows are allowed."""
    columns = {"image": "png", "captions": "txt", "image_id": "__key__"}
    (tmp_path / "bad").mkdir()
    tar_of(tmp_path / "bad" / "0.tar", {f"{n}": {"png": PAGE, "txt": b"a text"} for n in range(5)})
    source = CaptionSource.open(str(tmp_path / "bad"), "train", columns)
    with pytest.raises(ValueError, match=r"bad: no row with a readable image and a caption$"):
        next(iter(CaptionStream([source], [1.0], seed=0, buffer_size=3)))


def test_a_long_pass_of_a_stream_is_judged_before_its_end(tmp_path):
    bad_rows = BadRows(True, 0.002, tmp_path / "bad_rows.jsonl")
    task = Pretraining(Pretraining.argument_class()(train_datasets=["x"], streaming=True))
    assert task.bad_rows.skip and task.bad_rows.max_fraction == 0.5
    for number in range(2):
        bad_rows.add("own", str(number), None, "")
    bad_rows.judge("own", 2, 1000)
    with pytest.raises(BadRow, match=r"own: 3 of 1000 rows"):
        bad_rows.judge("own", 3, 1000)


def test_streamed_tables_of_own_are_skipped_up_to_the_same_share(tmp_path):
    write_pictures(tmp_path)
    rows = rows_of("pretraining")
    rows[2]["words"] = ""
    as_csv(tmp_path, rows).rename(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_text((tmp_path / "train.csv").read_text() + "photos/0.png,too,many,values\n")
    named = {"image_column": "picture", "captions_column": "words", "streaming": True}
    options = {"train_datasets": [str(tmp_path)], **named}
    kind = Pretraining.argument_class()
    with pytest.raises(ValueError, match="1 of 7 rows cannot be used"):
        Pretraining(kind(**options, max_bad_fraction=0.1)).load("train")
    with pytest.raises(ValueError, match="1 of 7 rows cannot be used"):
        Pretraining(kind(**options, on_bad_row="error")).load("train")
