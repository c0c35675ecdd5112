"""The user's images on the web: fetched only if asked for, with failures counted by reason."""

import logging
import re
from pathlib import Path

import pytest
from own_files import COLOURS, cut_photo, served, write_pictures, write_separated
from own_tasks import KINDS, colour, fault, task_of
from preparing import jpeg

from renaissance.tasks.data.downloading import Downloading
from renaissance.tasks.supervised import SupervisedTask


pytestmark = pytest.mark.usefixtures("dataset_cache")


def web_task(folder: Path, addresses: list[str], **options) -> SupervisedTask:
    rows = [{"picture": address, "kind": KINDS[number % 3]} for number, address in enumerate(addresses)]
    file = write_separated(folder / "own.csv", rows)
    given = {"download_images": True, "download_folder": folder / "kept", "download_retries": 1} | options
    return task_of("images", train_file=file, **given)


def test_urls_are_fetched_only_if_the_user_asks(tmp_path):
    with served(tmp_path) as server:
        message = fault(
            web_task(
                tmp_path,
                [f"{server.address}/0.png"] * 2,
                download_images=False,
                download_folder=None,
                download_retries=None,
            )
        )
        assert (
            "an image on the web" in message
            and "--download_images fetches them (column 'picture') (2 such rows: 0, 1)" in message
        )
        assert not server.requests
    for address in (
        "file:///etc/passwd",
        "s3://bucket/a.png",
        "ftp://host/a.png",
        "simplecache::http://host/a.png",
        "zip://a.png::b.zip",
    ):
        assert f"expected a path of a file, or a URL with http, got {address}" in fault(
            web_task(tmp_path, [address, address])
        )


def test_failed_downloads_are_counted_by_reason_with_their_rows(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("renaissance.tasks.data.downloading.PAUSE", 0.01)
    write_pictures(tmp_path)
    names = ["0", "gone", "big", "page", "cut", "moved/1", "second-try", "lost", "0"]
    with served(tmp_path / "photos") as server:
        at = server.address
        addresses = [f"{at}/{name}.png" for name in names] + [f"{at}/loop", "http://127.0.0.1:9/closed.png"]
        task = web_task(tmp_path, addresses, download_max_megabytes=1.0)
        with caplog.at_level(logging.WARNING):
            message = fault(task)
        assert "7 of 11 rows cannot be used" in message
        for part in (
            f"row 1: the server answered 404 File not found: {at}/gone.png (tried 2 times) (column 'picture') (2 such rows: 1, 7)",
            f"row 2: downloaded, but no usable image: {at}/big.png: larger than download_max_megabytes, 1 (column 'picture') (2 such rows: 2, 3)",
            f"row 4: the connection broke off: {at}/cut.png (tried 2 times)",
            f"row 9: more than 5 redirects: {at}/loop (tried 2 times)",
            "row 10: no connection: http://127.0.0.1:9/closed.png (tried 2 times)",
        ):
            assert part in message, (part, message)
        assert "2 of 10 images could not be fetched: the server answered 404" in caplog.text
        loops = [count for path, count in server.requests.items() if path.startswith("/loop")]
        assert sum(loops) == 2 * 6
        counts = {path: count for path, count in server.requests.items() if not path.startswith("/loop")}
        twice = ("gone", "cut", "second-try", "lost")
        assert counts == {f"/{name}.png": 2 if name in twice else 1 for name in [*names, "1"]}

        # Those that are there are not asked for again; the others are left out where that is allowed.
        again = web_task(tmp_path, addresses, download_max_megabytes=1.0, max_bad_fraction=0.7, download_retries=0)
        data = again.load("train")
        assert [COLOURS.index(colour(row["image"])) for row in data] == [0, 1, 2, 0]
        assert [again.names[label] for label in data["label"]] == [KINDS[number % 3] for number in (0, 5, 6, 8)]
        assert server.requests["/0.png"] == 1


def test_slow_downloads_are_counted(tmp_path, caplog):
    """A server that never answers, and one that sends a byte at a time."""
    with served(tmp_path) as server:
        addresses = [f"{server.address}/{name}.png" for name in ("slow", "drip")]
        message = fault(web_task(tmp_path, addresses, download_timeout=0.5, download_retries=0))
        assert (
            f"2 of 2 rows cannot be used: row 0: time-out: {addresses[0]} (tried once) (column 'picture') (2 such rows: 0, 1)"
            in message
        )
    assert "2 of 2 images could not be fetched: time-out" in caplog.text


def test_a_file_is_whole_or_not_there(tmp_path):
    with served(tmp_path) as server:
        fault(
            web_task(tmp_path, [f"{server.address}/{name}.png" for name in ("cut", "big")], download_max_megabytes=1.0)
        )
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http:///a.png",
        "http://[bad/a.png",
        "http://a..b/a.png",
        "http://.a/a.png",
        f"http://{'a' * 70}.b/a.png",
        "http://host:port/a.png",
        "http://127.0.0.1:99999/a.png",
        "http://b\u00fccher..b/a.png",
        "https://[::1/a.png",
    ],
)
def test_an_address_that_is_no_url_is_not_tried_again(address, tmp_path):
    message = fault(web_task(tmp_path, [address, address]))
    assert f"row 0: not a valid URL: {address} (column 'picture') (2 such rows: 0, 1)" in message, message


def test_a_redirect_to_another_protocol_is_not_followed_nor_tried_again(tmp_path):
    with served(tmp_path) as server:
        address = f"{server.address}/away/1.png"
        message = fault(web_task(tmp_path, [address, address]))
        assert f"row 0: redirected to an address that is not http or https: {address} (column 'picture')" in message
        assert server.requests == {"/away/1.png": 1}


def test_other_failures_are_told_in_plain_words(tmp_path):
    with served(tmp_path) as server:
        addresses = [f"{server.address}/packed.png", server.address.replace("http:", "https:") + "/0.png"]
        message = fault(web_task(tmp_path, addresses, download_retries=0))
        assert f"row 0: compressed data that cannot be unpacked: {addresses[0]} (tried once)" in message
        assert f"row 1: no secure connection, such as for an invalid certificate: {addresses[1]}" in message


def test_a_damaged_image_is_not_kept(tmp_path):
    """Its header is whole, and so is its download; the server may have a whole one later."""
    (tmp_path / "half.jpg").write_bytes(cut_photo())
    write_pictures(tmp_path)
    with served(tmp_path) as server:
        addresses = [f"{server.address}/half.jpg", f"{server.address}/photos/0.png"]
        message = fault(web_task(tmp_path, addresses))
        assert re.search(
            r"1 of 2 rows .*row 0: downloaded, but no usable image: http://.*/half\.jpg: the image cannot .*trunc",
            message,
        )
        assert server.requests["/half.jpg"] == 1
        (tmp_path / "half.jpg").write_bytes(jpeg())
        assert len(web_task(tmp_path, addresses).load("train")) == 2


@pytest.mark.parametrize("limit", [300, 400])
def test_downloads_follow_the_limit_of_pixels_of_the_run(limit, tmp_path):
    write_pictures(tmp_path)
    with served(tmp_path / "photos") as server:
        task = web_task(tmp_path, [f"{server.address}/0.png", f"{server.address}/1.png"])
        task.max_image_pixels = limit
        if limit == 400:
            assert len(task.load("train")) == 2
        else:
            assert "24 x 16 are 384 pixels, more than max_image_pixels, 300" in fault(task)


@pytest.mark.parametrize("name", ["images", "pretraining"])
def test_a_dead_address_is_asked_once_in_a_run(name, tmp_path, caplog, monkeypatch):
    """One that no server has, and one that is no image; a live one is fetched once."""
    monkeypatch.setattr("renaissance.tasks.data.downloading.PAUSE", 0.01)
    write_pictures(tmp_path)
    with served(tmp_path / "photos") as server:
        places = ["0.png", "gone.png", "page.png", "1.png"]
        rows = [{"picture": f"{server.address}/{place}", "words": place, "kind": place[0]} for place in places]
        train, validation = (write_separated(tmp_path / f"{split}.csv", rows) for split in ("train", "validation"))
        options = {"download_images": True, "download_folder": tmp_path / "kept", "download_retries": 2}
        files = {"train_file": train, "validation_file": validation}
        task = task_of(name, **files, **options, max_bad_fraction=0.5)
        assert len(task.load("train")) == 2
        assert "train.csv, split 'train': left out 2 of 4 rows that cannot be used" in caplog.text
        assert "gone.png (tried 3 times)" in caplog.text
        assert "1 of 4 images could not be fetched: the server answered 404" in caplog.text
        # No row of evaluation is left out.
        with pytest.raises(
            ValueError, match=r"validation\.csv, split 'validation': 2 of 4 rows cannot be used: row 1: .*404"
        ):
            task.load("validation")
        assert server.requests == {"/0.png": 1, "/1.png": 1, "/gone.png": 3, "/page.png": 1}
        # Another run asks again.
        (tmp_path / "photos" / "gone.png").write_bytes((tmp_path / "photos" / "2.png").read_bytes())
        task = task_of(name, **files, **options, max_bad_fraction=0.5)
        assert len(task.load("train")) == 3


@pytest.mark.parametrize("path", ["headers.png", "later/later/later/later/0.png"])
def test_a_try_ends_in_time_whatever_the_server_is_slow_with(path, tmp_path, monkeypatch):
    """Each read and each redirect is within the time-out, their sum is not."""
    monkeypatch.setattr("renaissance.tasks.data.downloading.PAUSE", 0.01)
    write_pictures(tmp_path)
    with served(tmp_path / "photos") as server:
        url = f"{server.address}/{path}"
        given = Downloading(folder=str(tmp_path / "kept"), timeout=0.7, retries=1)
        assert given.fetch([url])[url].message == f"time-out: {url} (tried 2 times)"
        patient = Downloading(folder=str(tmp_path / "kept"), timeout=20)
        assert Path(patient.fetch([url])[url]).read_bytes() == (tmp_path / "photos" / "0.png").read_bytes()
