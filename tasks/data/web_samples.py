"""Samples of WebDataset's .tar files: members that share a name up to its first point."""

import posixpath
import tarfile
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import fsspec
from datasets import load_dataset_builder
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from ...processing.decoding import image_endings
from ...processing.image_files import MAX_BYTES
from .own_splits import files_of_split
from .text_files import MARKS


#: The errors of files that are no archives, or break off.
DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)


#: Why a sample of a file that is not here may lack a member, and what to do.
TOGETHER = "of a file elsewhere, members of a sample must follow each other: sort it with tar --sort=name"


class CutOff(tarfile.ReadError):
    """A .tar file ends between two members, or within what is written before one."""


class KeptTarInfo(tarfile.TarInfo):
    """What is written before a member. `tarfile` takes what it cannot read there for the end of the file."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Return the next member; raise `CutOff` if there is neither one nor the mark of the end."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            # The first member: `tarfile` says that this is no archive.
            if archive.offset == 0:
                raise
            raise CutOff(f"it is cut off, or damaged, at byte {archive.offset:,} ({error})") from error


def files_in(archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield the files of an open archive that are not hidden: the names of their samples, their endings in lower case, and
    where they are. Raise one of `DAMAGE` if the archive is cut off, goes on after its end, or has a member of more than `MAX_BYTES`,
    of which a few bytes may be in the file (sparse, or compressed)."""
    while (member := archive.next()) is not None:
        # `tarfile` keeps all of them otherwise.
        archive.members.clear()
        folder, base = posixpath.split(plain_name(member.name))
        # macOS puts files like ._1.jpg beside each file.
        if not member.isreg() or base.startswith((".", "__")):
            continue
        if member.size > MAX_BYTES or member.issparse():
            fault = "is sparse" if member.issparse() else f"has {member.size:,} bytes, more than {MAX_BYTES:,}"
            raise tarfile.ReadError(f"its member {plain_name(member.name)} {fault}")
        stem, _, ending = base.partition(".")
        yield posixpath.join(folder, stem), ending.lower(), member
    while content := archive.fileobj.read(2**20):
        if content.strip(b"\0"):
            raise tarfile.ReadError("it goes on after its end; were files joined? tar --concatenate joins them")


def plain_name(name: str) -> str:
    """Return the name of a member in one normal form of Unicode; bytes that are not UTF-8, of old programs, as \\xe9."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def reason_of(error: Exception) -> str:
    """Return what is wrong with a damaged file in one line."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(":")


def text_of(content: bytes) -> str:
    """Return the text of a member, without a byte-order mark and without spaces and line ends around it; raise `ValueError`
    if it is neither UTF-8 nor what its mark says."""
    encoding = next((encoding for mark, encoding in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).strip()
    except UnicodeDecodeError as error:
        place = error.object[error.start : error.start + 1].hex()
        raise ValueError(f"text that is not {encoding.removesuffix('-sig').upper()} (byte 0x{place})") from error


def tar_files(name: str, split: str) -> list[str] | None:
    """Return the .tar files of a split of a data set, a folder, a name on the Hub or one such file; `None` if it is in
    another layout, or cannot be opened. Raise `ValueError` as `files_of_split`."""
    path = Path(name)
    if path.is_file():
        return [name] if name.lower().endswith(".tar") else None
    if path.is_dir():
        # Prepared folders are known by the names of their files.
        prepared = any(path.glob(f"{split}-*.parquet")) or any(path.glob("*-of-*.parquet"))
        found = [] if prepared else files_of_split(path, split) or []
        return [str(file) for file in found if file.suffix.lower() == ".tar"] or None
    try:
        builder = load_dataset_builder(name)
    # `open_split`, which comes next, says what is wrong.
    except Exception:
        return None
    files = (builder.config.data_files or {}).get(split) if isinstance(builder, WebDataset) else None
    return list(files) if files else None


def read_tars(paths: list[str], columns: Mapping[str, str]) -> Iterator[dict]:
    """
    Yield the samples of .tar files. `columns` are the endings of the members for `image`, `captions` and, if samples have one,
    `image_id` (of which `__key__` is the sample's name), whatever their case; an image may have any of `image_endings`.

    A row has `image` (as {"bytes", "path"}), `captions`, `image_id` (`None` if there is no such member), `name`, of the
    sample and its file, for messages, and `fault`, why it cannot be used, or `None`. A file that breaks off is a row with a
    fault: samples before the break are read.
    """
    # An id is waited for only if the user names it.
    needed = {name: own for name, own in columns.items() if name != "image_id" or own != name}
    for path in paths:
        try:
            if Path(path).is_file():
                for key, members in local_samples(path, lambda members: is_complete(members, needed)):
                    yield row_of(key, members, columns, posixpath.basename(path))
            else:
                for key, members in remote_samples(path):
                    yield row_of(key, members, columns, posixpath.basename(path), TOGETHER)
        except DAMAGE as error:
            yield {
                "image": None,
                "captions": None,
                "image_id": None,
                "name": path,
                "fault": f"damaged file ({reason_of(error)})",
            }


def is_complete(members: Collection[str], columns: Mapping[str, str]) -> bool:
    """Return whether a sample has a member for each column."""
    return all(own == "__key__" or ending_of(own, members, name == "image") for name, own in columns.items())


def local_samples(path: str, complete: Callable[[Collection[str]], bool]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """
    Yield the samples of a .tar file here: their names, and the contents of their members by ending, in lower case. One that
    is not `complete` when the next begins waits for members further on in the file, and comes when it is, or at the end.
    """
    # Where the contents of the members are; a second member of the same ending is of another sample, of the same name.
    waiting: dict[str, dict[str, tuple[int, int]]] = {}
    given, last = set(), None
    with tarfile.open(path, "r:*", tarinfo=KeptTarInfo) as archive:

        def read(key: str) -> tuple[str, dict[str, bytes]]:
            given.add(key)
            return key, {ending: content_of(archive, *place) for ending, place in waiting.pop(key).items()}

        fault = None
        try:
            for key, ending, member in files_in(archive):
                if last in waiting and key != last and complete(waiting[last]):
                    yield read(last)
                if ending in waiting.get(key, ()):
                    yield read(key)
                waiting.setdefault(key, {})[ending] = member.offset_data, member.size
                last = key
        except DAMAGE as error:
            # The last member may be incomplete, unless the file ends between two.
            if not isinstance(error, CutOff):
                waiting.pop(last, None)
            fault = error
        for key in list(waiting):
            # Not what a sample has besides that was used before.
            if complete(waiting[key]) or key not in given:
                yield read(key)
    if fault:
        raise fault


def content_of(archive: tarfile.TarFile, start: int, length: int) -> bytes:
    """Return the content of a member of an archive."""
    archive.fileobj.seek(start)
    return archive.fileobj.read(length)


def remote_samples(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the same of a .tar file elsewhere, which is read once from its start: members of a sample must stand together."""
    key, members, fault = None, {}, None
    system, path = fsspec.url_to_fs(path)
    with system.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=KeptTarInfo) as archive:
        try:
            for own, ending, member in files_in(archive):
                if members and (own != key or ending in members):
                    yield key, members
                    members = {}
                key = own
                members[ending] = archive.extractfile(member).read()
        except CutOff as error:
            fault = error
    # All members before the place where a file is cut off are whole.
    if members:
        yield key, members
    if fault:
        raise fault


def first_endings(paths: list[str], enough: Callable[[Collection[str]], bool]) -> list[str]:
    """Return the endings of the members of .tar files up to where they are `enough`, else those of the first file that has
    any."""
    found = {}
    for path in paths:
        local = Path(path).is_file()
        system, place = (fsspec.filesystem("file"), path) if local else fsspec.url_to_fs(path)
        mode = "r:*" if local else "r|*"
        try:
            with (
                system.open(place, "rb") as file,
                tarfile.open(fileobj=file, mode=mode, tarinfo=KeptTarInfo) as archive,
            ):
                for _, ending, _ in files_in(archive):
                    found[ending] = True
                    if enough(found):
                        return list(found)
        except DAMAGE:
            pass
        if found:
            break
    return list(found)


def row_of(
    key: str, members: Mapping[str, bytes], columns: Mapping[str, str], file: str, advice: str | None = None
) -> dict:
    """Return the row of a sample (see `read_tars`); `advice` says why a member may be missing."""
    row = {"image": None, "captions": None, "image_id": None, "name": f"{key} of {file}", "fault": None}
    endings = {name: ending_of(column, members, name == "image") for name, column in columns.items()}
    if missing := [name for name in ("image", "captions") if endings[name] is None]:
        found = "; ".join([", ".join(members), *([advice] if advice else [])])
        return row | {"fault": f"no member {columns[missing[0]]} ({found})"}
    path = f"{key}.{endings['image']}"
    row["image"] = {"bytes": members[endings["image"]], "path": path}
    try:
        row["captions"] = text_of(members[endings["captions"]])
        if columns.get("image_id") == "__key__":
            row["image_id"] = key
        elif endings.get("image_id"):
            row["image_id"] = text_of(members[endings["image_id"]])
    except ValueError as error:
        return row | {"fault": str(error)}
    return row


def ending_of(column: str, members: Collection[str], is_image: bool) -> str | None:
    """Return the ending of a column's member in a sample; `None` if it has none."""
    column = column.lower()
    if column in members:
        return column
    prefix, point, suffix = column.rpartition(".")
    if is_image and suffix in image_endings():
        others = (f"{prefix}{point}{other}" for other in image_endings())
        return next((other for other in others if other in members), None)
    return None
