"""Reads the bytes of image files, from the places that a data set may name and from no others."""

import os
import stat

import fsspec


#: Protocols of archives, whose members `datasets` names as in `zip://1.jpg::photos.zip`.
ARCHIVES = ("zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd")

#: Largest file, in bytes, that is read out of an archive or as the content of a member: a small archive may unpack to any size. 64 million
#: pixels of 16 bits with transparency are half of it.
MAX_BYTES = 2**30


def read_file(path: str) -> bytes:
    """
    Return the content of a file: a plain local path, a file on the Hub (`hf://`), or a member of an archive in either.

    Raises:
        ValueError: If the path names another protocol, of which some fetch from the network or run code, or the member has more
            than `MAX_BYTES`.
        OSError: If the file cannot be read.
    """
    if "://" not in path:
        # Reading a device or a pipe may never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path} is a folder, a device or a pipe: expected a file")
        # Not fsspec, which takes "::" in a file's name for a chain.
        with open(path, "rb") as file:
            return file.read()
    if fault := fault_of_protocol(path):
        raise ValueError(fault)
    with fsspec.open(path, "rb") as file:
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


__all__ = ["fault_of_protocol", "local_place", "read_file"]
