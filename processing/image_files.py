"""Reads the bytes of image files, from the places that a data set may name and from no others."""

import os
import stat
from contextlib import AbstractContextManager
from typing import BinaryIO

import fsspec


#: Protocols of archives, whose members `datasets` names as in `zip://1.jpg::photos.zip`.
ARCHIVES = ("zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd")

#: Largest file, in bytes, that is read out of an archive or as the content of a member: a small archive may unpack to any size. 64 million
#: pixels of 16 bits with transparency are half of it.
MAX_BYTES = 2**30


#: How files begin that are often found under the name of an image, in lower case, and what they are.
OTHERS = {
    b"<!doctype html": "a web page, ",
    b"<html": "a web page, ",
    b"<svg": "an SVG drawing, ",
    b"<?xml": "XML, ",
    b"{": "JSON, ",
    b"%pdf": "a PDF document, ",
    b"%!ps": "PostScript, ",
    b"version https://git-lfs": "a pointer of Git LFS, whose file `git lfs pull` fetches, ",
}

#: How the image files begin that are read.
BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}

#: Bytes of a file that messages show, and those of which the beginning of a text is taken.
SHOWN_BYTES, LOOKED_AT = 8, 40


def described(content: bytes) -> str:
    """Return a phrase on what a file is that is no image, from its first bytes, such as "it starts with <html>: a web page, "."""
    for beginning, kind in BEGINNINGS.items():
        if content.startswith(beginning):
            return f"it starts as {kind} does, but its header is damaged or cut off: "
    if not content.strip(b"\0"):
        return f"all of its {len(content):,} bytes are zero: "
    head = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:LOOKED_AT]
    kind = next((kind for beginning, kind in OTHERS.items() if head.lower().startswith(beginning)), "")
    # The last character may be cut in two.
    text = head.decode("utf-8", "replace").rstrip("\ufffd")
    text = text[: text.index(">") + 1] if ">" in text else text.partition("\n")[0].strip()
    if text and text.isprintable() and "\ufffd" not in text:
        return f"it starts with {text}: {kind}"
    return f"it starts with the bytes {content[:SHOWN_BYTES].hex(' ')}: "


def open_file(path: str) -> AbstractContextManager[BinaryIO]:
    """
    Return a context in which a file is open to be read: a plain local path, a file on the Hub (`hf://`), or a member of an archive in either.

    Raises:
        ValueError: If the path names another protocol, of which some fetch from the network or run code, or no file.
        OSError: If the file cannot be read.
    """
    path = os.fspath(path)
    if "://" not in path:
        # Reading a device or a pipe may never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path} is a folder, a device or a pipe: expected a file")
        # Not fsspec, which takes "::" in a file's name for a chain.
        return open(path, "rb")
    if fault := fault_of_protocol(path):
        raise ValueError(fault)
    return fsspec.open(path, "rb")


def read_file(path: str) -> bytes:
    """
    Return the content of a file; arguments and errors as those of `open_file`. Raise `ValueError` also if a member of an archive has
    more than `MAX_BYTES`.
    """
    with open_file(path) as file:
        if "://" not in os.fspath(path):
            return file.read()
        # Not all at once, which would not stop at the limit.
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} unpacks to more than {MAX_BYTES:,} bytes: too large for an image")
    return content


def fault_of_protocol(path: str) -> str | None:
    """Return what is wrong with the protocols of a path, or `None`."""
    *members, place = path.split("::")
    protocol, separator, _ = place.partition("://")
    used = [member.partition("://")[0] for member in members]
    if separator and protocol in ("http", "https"):
        return f"{path} is a URL, which is not fetched here: download the file first"
    refused = [name for name in used if name not in ARCHIVES] + ([protocol] if separator and protocol != "hf" else [])
    if not refused:
        return None
    expected = f"a plain path, hf://, or a member of an archive there ({', '.join(ARCHIVES)})"
    return f"{path} has the protocol {', '.join(refused)}: expected {expected}"


def local_place(path: str) -> str | None:
    """Return the local file of a path, that of the archive if it names a member, or `None` if the file is elsewhere."""
    place = path.split("::")[-1] if "://" in path else path
    return None if "://" in place else place


__all__ = ["described", "fault_of_protocol", "local_place", "open_file", "read_file"]
