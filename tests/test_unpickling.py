"""The pickles of public data sets: what is plain is read, of any version of Python, and everything else is refused unharmed."""

import multiprocessing
import os
import pickle
import random
import resource
import struct
from pathlib import Path

import numpy as np
import pytest

from renaissance.tasks.data.unpickling import read_pickle


PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6)
PLAIN = {
    "numbers": [0, -1, 2**40, -(2**63), 1.5, float("inf"), True, False, None],
    "texts": ["", "a café", "☃", b"", b"\x00\xff"],
    "nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, [{"a": {1: "b"}}])),
}


def read(content: bytes, folder: Path, encoding: str = "latin1"):
    (folder / "a.p").write_bytes(content)
    return read_pickle(folder / "a.p", encoding)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_of_every_protocol(protocol, tmp_path):
    assert read(pickle.dumps(PLAIN, protocol), tmp_path) == PLAIN
    for array in (PIXELS, np.asfortranarray(PIXELS), PIXELS[:, 0], np.empty((0, 5), np.uint8)):
        values = [array, {"again": array}]
        found, again = read(pickle.dumps(values, protocol), tmp_path)
        np.testing.assert_array_equal(found, array, strict=True)
        assert again["again"] is found


#: Of Python 2: a dictionary of bytes with a uint8 array, as numpy 1 wrote it, and a list in the protocol that was the default.
OF_PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
    b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x06\x00\x01\x02\xfd\xfe\xfftbU\x05textsq\x08]q\x09(U\x05caf\xe9!X\x05\x00\x00\x00caf\xc3\xa9eu."
)
DEFAULT_OF_PYTHON_2 = b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xe9'\np3\nsS'id'\np4\nL12L\nsVname\np5\nI3\nsa."


def test_files_of_python_2(tmp_path):
    found = read(OF_PYTHON_2, tmp_path, "bytes")
    np.testing.assert_array_equal(found[b"data"], np.array([[0, 1, 2], [253, 254, 255]], np.uint8), strict=True)
    assert found[b"texts"] == [b"caf\xe9!", "café"]
    found = read(OF_PYTHON_2.replace(b"numpy.core", b"numpy._core"), tmp_path)
    np.testing.assert_array_equal(found["data"], np.array([[0, 1, 2], [253, 254, 255]], np.uint8), strict=True)
    assert found["texts"] == ["café!", "café"]
    assert read(DEFAULT_OF_PYTHON_2, tmp_path) == [{"sent": "café", "id": 12, "name": 3}]


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """A call of a name with arguments that are pickles themselves, in any protocol."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def of(value) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def array_state(shape, dtype: str, content) -> bytes:
    state = (
        b"(" + of(1) + of(shape) + call("numpy", "dtype", of(dtype), of(False), of(True)) + of(False) + content + b"t"
    )
    return call("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n", of((0,)), of("b")) + state + b"b"


def doubled(times: int) -> bytes:
    """A list of two lists that are one, and so on."""
    return b"]q\x00" + b"](h\x00h\x00eq\x00" * times


def nested(times: int) -> bytes:
    return b"]" * times + b"a" * (times - 1)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Plain:
    pass


REFUSED = {
    "a segfault of numpy": (call("numpy", "ndarray", of((1,)), of("O8"), of(b"AAAAAAAA")), "it calls numpy.ndarray"),
    "an array of objects": (array_state((1,), "O8", of(b"AAAAAAAA")), "an array of type 'O8', expected uint8"),
    "an array of floats": (array_state((1,), "f8", of(b"AAAAAAAA")), "an array of type 'f8', expected uint8"),
    "an array of records": (array_state((1,), "V8", of(b"AAAAAAAA")), "an array of type 'V8', expected uint8"),
    "another type behind the name": (
        call("numpy", "dtype", of("u1"), of(False), of(True)) + of((3, "|", None, ("a",), {"a": 1}, 8, 1, 0)) + b"b",
        "names something of numpy",
    ),
    "more pixels than bytes": (array_state((10**12,), "u1", of(b"A")), "do not fill its shape"),
    "pixels without end": (array_state((2**62, 4), "u1", of(b"")), "do not fill its shape"),
    "no pixels in a row too many": (array_state((0, 2**63), "u1", of(b"")), "cannot be read"),
    "a negative side": (array_state((-1, -1), "u1", of(b"A")), "do not fill its shape"),
    "a side that is none": (array_state((1.0,), "u1", of(b"A")), "do not fill its shape"),
    "an array's content of a list": (array_state((1,), "u1", of([1])), "do not fill its shape"),
    "an array of numbers": (pickle.dumps(np.arange(3), 4)[2:-1], "an array of type 'i8'"),
    "a number of numpy": (pickle.dumps(np.int64(3), 2)[2:-1], "names numpy._core.multiarray.scalar"),
    "a masked array": (pickle.dumps(np.ma.array([1]), 2)[2:-1], "names numpy.ma"),
    "numpy.load": (call("numpy", "load", of("x.npy")), "names numpy.load"),
    "memory of numpy": (call("numpy.core.multiarray", "frombuffer", of(b"a")), "names numpy.core.multiarray.frombuffer"),
    "a class below ndarray": (
        call("numpy.core.multiarray", "_reconstruct", b"cnumpy\ndtype\n", of((0,)), of("b")),
        "an array of another class",
    ),
    "os.system": (call("os", "system", text("true")), "names os.system, which could run code"),
    "eval": (call("builtins", "eval", text("1")), "names builtins.eval"),
    "an attribute behind a dot": (b"\x8c\x0c_codecs\x2e\x61\x62\x63\x8c\x06encode\x93", "cannot be read"),
    "code of a codec": (call("_codecs", "encode", text("ab"), text("zlib")), "encodes something else"),
    "bytes of any length": (call("builtins", "bytes", of(2**40)), "cannot be read"),
    "an object": (pickle.dumps(Plain(), 2)[2:-1], "cannot be read"),
    "an old instance": (b"(i" + b"os\nsystem\n", "the opcode INST"),
    "an old object": (b"(cnumpy\nndarray\no", "the opcode OBJ"),
    "an object of a class": (b"cnumpy\nndarray\n)\x81", "the opcode NEWOBJ"),
    "an object with names": (b"\x80\x04cnumpy\nndarray\n)}\x92", "the opcode NEWOBJ_EX"),
    "a call of a list": (b"])R", "calls a list"),
    "a change of a dictionary": (b"}}b", "changes a dict"),
    "a name alone": (b"cnumpy\ndtype\n", "makes nothing of it"),
    "a name in a list": (b"]cnumpy\ndtype\na", "makes nothing of it"),
    "a name as a key": (b"}cnumpy\ndtype\nNs", "makes nothing of it"),
    "a persistent id": (b"P1\n", "the opcode PERSID"),
    "a binary persistent id": (b"NQ", "the opcode BINPERSID"),
    "the registry of extensions": (b"\x82\x01", "the opcode EXT1"),
    "the registry of extensions, 2": (b"\x83\x01\x00", "the opcode EXT2"),
    "the registry of extensions, 4": (b"\x84\x01\x00\x00\x00", "the opcode EXT4"),
    "a set": (pickle.dumps({1}, 4)[2:-1], "the opcode EMPTY_SET"),
    "a frozen set": (b"(K\x01\x91", "the opcode FROZENSET"),
    "a buffer elsewhere": (b"\x97", "the opcode NEXT_BUFFER"),
    "lists that double": (doubled(40), "repeats its parts"),
    "a list in itself": (b"]q\x00h\x00a", "holds itself"),
    "a dictionary in itself": (b"}q\x00Nh\x00s", "holds itself"),
    "nested lists": (nested(100_000), "nested more than 50"),
    "a number of many digits": (of(10**5000), "more than 64 bits"),
    "a number of too many digits": (b"I" + b"9" * 5000 + b"\n", "cannot be read"),
    "arrays of one content": (
        of(b"A" * 10_000)
        + b"q\x05"
        + b"".join(array_state((10_000,), "u1", b"h\x05") + b"0" for _ in range(300)),
        "arrays are larger than the file",
    ),
    "bytes of a length that is not there": (b"\x8e" + struct.pack("<Q", 2**62), "cannot be read"),
    "text of a length that is not there": (b"\x8d" + struct.pack("<Q", 2**62), "cannot be read"),
    "an array of a length that is not there": (b"\x96" + struct.pack("<Q", 2**62), "cannot be read"),
    "a frame of a length that is not there": (b"\x80\x04\x95" + struct.pack("<Q", 2**62), "cannot be read"),
    "a part with a number beyond memory": (b"Nr" + struct.pack("<I", 2**32 - 1), None),
    "a part that is not there": (b"h\x07", "cannot be read"),
    "a protocol of the future": (b"\x80\x09N", "cannot be read"),
    "a list as a key": (b"}]Ns", "unhashable"),
    "nothing to append to": (b"NNa", "cannot be read"),
    "too few values": (b"R", "cannot be read"),
    "an opcode that there is not": (b"\xff", "the opcode 0xff"),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["latin1", "bytes"])
@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_in_one_line(name, encoding, tmp_path):
    content, message = REFUSED[name]
    if message is None:
        assert read(content + b".", tmp_path, encoding) is None
        return
    with pytest.raises(ValueError, match=message) as refused:
        read(content + b".", tmp_path, encoding)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'a.p'} cannot be read (") and "\n" not in said and len(said) < 400


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_runs(protocol, tmp_path):
    with pytest.raises(ValueError, match=r"it names (posix|nt)\.mkdir, which could run code"):
        read(pickle.dumps([1, {"a": Harmful(tmp_path / "harm")}], protocol), tmp_path)
    assert not (tmp_path / "harm").exists()


def test_no_file_and_no_pickle(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.p cannot be read \(FileNotFoundError"):
        read_pickle(tmp_path / "gone.p", "latin1")
    for content in (b"", b".", b"N", b"\x80", b"a text", b"\x1f\x8b\x08", PICKLED[0][:-1]):
        with pytest.raises(ValueError, match=r"a\.p cannot be read"):
            read(content, tmp_path)


PICKLED = [pickle.dumps([PLAIN, PIXELS], protocol) for protocol in range(6)] + [OF_PYTHON_2, DEFAULT_OF_PYTHON_2]
PLAIN_TYPES = (str, bytes, int, float, bool, type(None), list, tuple, dict)


def mutated(content: bytes, pieces: list[bytes], rng: random.Random) -> bytes:
    """A pickle with up to three changes: bits, bytes and opcodes, what is cut out, and parts of other pickles."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, kind, other = rng.randrange(len(content)), rng.randrange(5), rng.choice(pieces)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.randrange(256)
        elif kind == 2:
            content.insert(at, rng.randrange(256))
        elif kind == 3:
            del content[at + 1 : at + rng.randint(2, 9)]
        else:
            start = rng.randrange(len(other))
            content[at:at] = other[start : start + rng.randint(1, 40)]
    return bytes(content)


def is_plain(value, depth: int = 0) -> bool:
    if type(value) is np.ndarray:
        return value.dtype == np.uint8
    parts = value if type(value) in (list, tuple) else [*value, *value.values()] if type(value) is dict else []
    return type(value) in PLAIN_TYPES and (depth > 4 or all(is_plain(part, depth + 1) for part in parts))


def read_mutated(seed: int, number: int, folder: Path) -> None:
    """Read mutated pickles: each is plain, or refused with its name. It takes 16 GB of addresses at most."""
    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
    rng, read_in_all = random.Random(seed), 0
    pieces = PICKLED + [content + b"." for content, _ in REFUSED.values() if len(content) < 2000]
    for _ in range(number):
        content = mutated(rng.choice(PICKLED * 8 + pieces), pieces, rng)
        try:
            assert is_plain(read(content, folder, rng.choice(["latin1", "bytes"]))), content
            read_in_all += 1
        except ValueError as error:
            assert str(error).startswith(f"{folder / 'a.p'} cannot be read ("), content
    assert number / 50 < read_in_all < number / 2


@pytest.mark.parametrize(("seed", "number"), [(0, 300), pytest.param(1, 50_000, marks=pytest.mark.slow)])
def test_mutated_pickles_never_crash(seed, number, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=read_mutated, args=(seed, number, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0
