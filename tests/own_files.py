"""Writes a user's data in each of the forms that the tasks read, under names of columns of the user's own."""

import csv
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Image
from PIL import Image as Picture


COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (240, 240, 10), (10, 240, 240), (120, 120, 120)]
#: Columns of the rows below that have pictures.
PICTURES = ("picture", "left", "right")
#: Members of WebDataset's samples for the other columns.
MEMBERS = {"words": "words.txt", "kind": "kind.txt", "answer": "answer.json", "frames": "frames.txt", "which": "cls"}


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Picture.new("RGB", (24, 16), COLOURS[number]).save(buffer, format="PNG")
    return buffer.getvalue()


def cut_photo() -> bytes:
    """A JPEG whose header is whole, and whose pixels are not."""
    buffer = io.BytesIO()
    Picture.effect_noise((64, 48), 90).save(buffer, format="JPEG")
    return buffer.getvalue()[:-600]


def write_pictures(folder: Path) -> None:
    """Six pictures `photos/<number>.png`, each of one colour."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for number in range(len(COLOURS)):
        (folder / "photos" / f"{number}.png").write_bytes(png(number))


def with_paths(rows: list[dict], beginning: str = "photos/") -> list[dict]:
    """The rows with paths for the numbers of pictures."""
    return [
        {name: f"{beginning}{value}.png" if name in PICTURES else value for name, value in row.items()} for row in rows
    ]


def write_separated(path: Path, rows: list[dict], separator: str = ",", encoding: str = "utf-8", **options) -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator, **options)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(json.dumps(value) if isinstance(value, list) else value for value in row.values())
    return path


def as_csv(folder: Path, rows: list[dict]) -> Path:
    return write_separated(folder / "own.csv", with_paths(rows))


def as_tsv(folder: Path, rows: list[dict]) -> Path:
    return write_separated(folder / "own.tsv", with_paths(rows), "\t")


def with_semicolons(folder: Path, rows: list[dict]) -> Path:
    """As spreadsheets write it in many countries: with a byte-order mark too."""
    return write_separated(folder / "own.csv", with_paths(rows), ";", "utf-8-sig")


def with_bars(folder: Path, rows: list[dict]) -> Path:
    return write_separated(folder / "own.csv", with_paths(rows), "|", lineterminator="\n")


def as_jsonl(folder: Path, rows: list[dict]) -> Path:
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in with_paths(rows)))
    return folder / "own.jsonl"


def as_json(folder: Path, rows: list[dict]) -> Path:
    (folder / "own.json").write_text(json.dumps(with_paths(rows), indent=1))
    return folder / "own.json"


def parquet_of_paths(folder: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(with_paths(rows)), folder / "own.parquet")
    return folder / "own.parquet"


def parquet_of_bytes(folder: Path, rows: list[dict]) -> Path:
    rows = [{name: png(value) if name in PICTURES else value for name, value in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), folder / "own.parquet")
    return folder / "own.parquet"


def parquet_of_images(folder: Path, rows: list[dict]) -> Path:
    rows = [
        {name: {"bytes": png(value), "path": None} if name in PICTURES else value for name, value in row.items()}
        for row in rows
    ]
    data = Dataset.from_list(rows)
    for name in PICTURES:
        data = data.cast_column(name, Image()) if name in data.column_names else data
    data.to_parquet(str(folder / "own.parquet"))
    return folder / "own.parquet"


#: What `folder_with_metadata` calls columns of pictures.
METADATA = {"picture": "file_name", "left": "left_file_name", "right": "right_file_name"}


def folder_with_metadata(folder: Path, rows: list[dict]) -> Path:
    lines = [{METADATA.get(name, name): value for name, value in row.items()} for row in with_paths(rows, "")]
    (folder / "photos" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "photos"


def folder_with_csv(folder: Path, rows: list[dict]) -> Path:
    """As a spreadsheet writes the metadata file."""
    lines = [{METADATA.get(name, name): value for name, value in row.items()} for row in with_paths(rows, "")]
    write_separated(folder / "photos" / "metadata.csv", lines, ";", "utf-8-sig")
    return folder / "photos"


def tar_file(folder: Path, rows: list[dict], name: str = "own.tar") -> Path:
    """A sample a row, with a member a column."""
    with tarfile.open(folder / name, "w") as archive:
        for number, row in enumerate(rows):
            for column, value in row.items():
                if column in PICTURES:
                    member, content = f"{column}.png", png(value)
                else:
                    member, content = MEMBERS[column], value if isinstance(value, str) else json.dumps(value)
                    content = content.encode()
                entry = tarfile.TarInfo(f"{number:03d}.{member}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return folder / name


def tar_of(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """A tar file of samples, each with the contents of its members by their endings."""
    with tarfile.open(path, "w") as archive:
        for key, members in samples.items():
            for ending, content in members.items():
                entry = tarfile.TarInfo(f"{key}.{ending}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def tar_folder(folder: Path, rows: list[dict]) -> Path:
    (folder / "tars").mkdir()
    tar_file(folder, rows[:3], "tars/0.tar")
    tar_file(folder, rows[3:], "tars/1.tar")
    return folder / "tars"


def column_in(form: str, column: str) -> str:
    """What a column is called in one of the forms."""
    if form.startswith("tar_"):
        return f"{column}.png" if column in PICTURES else MEMBERS[column]
    return "image" if form in ("folder_with_metadata", "folder_with_csv") and column == "picture" else column


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; some addresses never end well. Counts the requests by address."""

    def do_GET(self):
        with self.server.lock:
            self.server.requests[self.path] = self.server.requests.get(self.path, 0) + 1
            number = self.server.requests[self.path]
        if self.path.startswith("/loop"):
            self.redirect(f"/loop{number}")
        elif self.path.startswith("/away/"):
            self.redirect("ftp://host/a.png")
        elif self.path.startswith("/moved/"):
            self.redirect(self.path.removeprefix("/moved"))
        elif self.path == "/slow.png":
            self.server.released.wait(20)
        elif self.path == "/drip.png":
            self.drip()
        elif self.path == "/headers.png":
            self.drip_headers()
        elif self.path.startswith("/later/"):
            self.server.released.wait(0.3)
            self.redirect(self.path.removeprefix("/later"))
        elif self.path == "/cut.png":
            self.answer(png(0)[:40], length=400)
        elif self.path == "/page.png":
            self.answer(b"<html>gone</html>")
        elif self.path == "/packed.png":
            self.answer(png(0), packed=True)
        elif self.path == "/big.png":
            self.answer(png(0) + bytes(2_000_000))
        elif self.path == "/second-try.png" and number == 1:
            self.send_error(503)
        elif self.path == "/second-try.png":
            self.answer(png(2))
        else:
            super().do_GET()

    def redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, content: bytes, length: int | None = None, packed: bool = False) -> None:
        self.send_response(200)
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def drip_headers(self) -> None:
        """A header at a time, each soon after the other, fewer than clients take: the content comes late."""
        self.send_response(200)
        try:
            for number in range(60):
                self.send_header(f"X-{number}", "x")
                self.flush_headers()
                self.server.released.wait(0.05)
            self.answer(png(0))
        except OSError:
            pass

    def drip(self) -> None:
        """A byte at a time: no wait is long, and the whole never comes."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            while not self.server.released.wait(0.05):
                self.wfile.write(b"x")
                self.wfile.flush()
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


@contextmanager
def served(folder: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server on this machine, with its `address` and the number of `requests` of each path."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Handler(*arguments, directory=str(folder))
    )
    server.requests, server.lock, server.released = {}, threading.Lock(), threading.Event()
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
