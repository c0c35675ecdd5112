"""Reads the pickles of public data sets (RefCOCO, CIFAR-10) without running anything that they ask for."""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


#: Opcodes that make plain values, and those of arrays, which `SafeUnpickler` answers itself. All others are refused: those of objects, sets,
#: persistent ids, the registry of extensions and buffers outside of the file.
OPCODES = [
    "PROTO",
    "FRAME",
    "STOP",
    "MARK",
    "POP",
    "POP_MARK",
    "DUP",
    "GET",
    "BINGET",
    "LONG_BINGET",
    "PUT",
    "BINPUT",
    "LONG_BINPUT",
    "MEMOIZE",
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "EMPTY_LIST",
    "LIST",
    "APPEND",
    "APPENDS",
    "EMPTY_TUPLE",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "EMPTY_DICT",
    "DICT",
    "SETITEM",
    "SETITEMS",
    "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE",
    "BUILD",
]

#: Lists in lists, at most: the public files have 4.
DEEPEST = 50

#: A value may be this many times as large as its file if what it holds several times is counted each time.
EXPANSION = 100

UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True)
class Name:
    """What stands for a name of numpy or Python in a pickle: `call` makes the plain value that its call in the pickle means."""

    call: Callable[..., Any]


def read_pickle(path: Path, encoding: str) -> Any:
    """
    Return the numbers, strings, bytes, lists, tuples, dictionaries and arrays of uint8 in a pickle of any protocol.

    Args:
        encoding: Encoding of the strings of Python 2; with `"bytes"`, they stay bytes.

    Raises:
        ValueError: If the file is missing or damaged, or would make anything else, which could run code or take any amount of memory.
    """
    try:
        content = path.read_bytes()
        value = SafeUnpickler(content, encoding).load()
        if size_of(value, {}) > EXPANSION * len(content):
            raise pickle.UnpicklingError("it repeats its parts so often that reading them all would never end")
        return value
    # A damaged pickle raises errors of many types.
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


class SafeUnpickler(pickle._Unpickler):
    """
    The unpickler of the standard library that is written in Python, with `OPCODES` and `NAMES` only. The one in C takes memory
    for lengths before it sees that the file ends.
    """

    dispatch = {code: pickle._Unpickler.dispatch[code] for name in OPCODES for code in getattr(pickle, name)}

    def __init__(self, content: bytes, encoding: str):
        super().__init__(io.BytesIO(content), encoding=encoding)
        #: Bytes that calls may still make of what is in the file.
        self.left = len(content)

    def load(self) -> Any:
        """Return the value in the pickle; raise an error of any type if it is damaged or has another opcode."""
        try:
            return super().load()
        except KeyError as error:
            opcode = pickletools.code2op.get(chr(error.args[0]))
            found = opcode.name if opcode else hex(error.args[0])
            raise pickle.UnpicklingError(f"it has the opcode {found}, which plain data do not need") from error

    def spend(self, size: int) -> None:
        """Count bytes that a call makes: those of one part of the file may be asked for any number of times."""
        self.left -= size
        if self.left < 0:
            raise pickle.UnpicklingError("its arrays are larger than the file")

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; raise `pickle.UnpicklingError` if nothing does."""
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        return NAMES[module, name]

    def load_reduce(self) -> None:
        """Call what stands for a name."""
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(arguments) is not tuple:
            raise pickle.UnpicklingError(f"it calls a {type(name).__name__}, which could run code")
        made = name.call(*arguments)
        self.spend(made.nbytes if isinstance(made, np.ndarray) else len(made) if type(made) is bytes else 0)
        self.stack.append(made)

    def load_build(self) -> None:
        """Give an array its shape and content. The state of a type says nothing new of single bytes."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is np.ndarray:
            _, shape, dtype, in_columns, content = state
            self.spend(len(content))
            fill(target, content, dtype, shape, "F" if in_columns else "C")
        elif target is not UINT8:
            raise pickle.UnpicklingError(f"it changes a {type(target).__name__}, which could run code")

    def load_bytearray8(self) -> None:
        """Make bytes from what was read."""
        self.load_binbytes8()

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def fill(array: np.ndarray, content: bytes, dtype: Any, shape: Any, order: str) -> None:
    """Give an empty array of uint8 this shape and content; raise `pickle.UnpicklingError` if they do not fit."""
    if dtype is not UINT8:
        raise pickle.UnpicklingError("it has an array of another type than uint8")
    # The strings of Python 2, unless they stay bytes.
    content = content.encode("latin1") if isinstance(content, str) else content
    fits = type(content) is bytes and type(shape) is tuple and all(type(side) is int and side >= 0 for side in shape)
    if not fits or order not in ("C", "F") or math.prod(shape) != len(content) or array.size:
        raise pickle.UnpicklingError("it has an array whose bytes do not fill its shape")
    array.resize(shape, refcheck=False)
    array[...] = np.frombuffer(content, np.uint8).reshape(shape, order=order)


def empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """Return the array that the state, which comes later in a pickle, will fill."""
    if kind is not NAMES["numpy", "ndarray"]:
        raise pickle.UnpicklingError("it has an array of another class than numpy's")
    return np.empty(0, np.uint8)


def filled_array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Return the array that protocol 5 has at once."""
    fill(array := np.empty(0, np.uint8), content, dtype, shape, order)
    return array


def dtype_of(name: Any, *flags: Any) -> np.dtype:
    """Return uint8; raise `pickle.UnpicklingError` if the type has another name."""
    if name not in ("u1", "|u1", b"u1", b"|u1"):
        raise pickle.UnpicklingError(f"it has an array of type {name!r:.40}, expected uint8")
    return UINT8


def refused_array(*arguments: Any) -> None:
    """Raise `pickle.UnpicklingError`: numpy's own constructor takes memory as any type."""
    raise pickle.UnpicklingError("it calls numpy.ndarray, which could read any memory")


def encoded(text: Any = "", encoding: Any = "latin1") -> bytes:
    """Return the bytes that Python 3 writes as text for Python 2."""
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes something else than text as latin1")
    return text.encode("latin1")


def no_bytes() -> bytes:
    """Return the bytes that Python 3 writes for Python 2 if there are none."""
    return b""


#: All that pickles of plain values and arrays name, of all versions of Python and numpy.
NAMES = {
    **{
        (f"numpy.{core}.{module}", name): Name(call)
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", empty_array),
            ("numeric", "_frombuffer", filled_array),
        )
    },
    ("numpy", "ndarray"): Name(refused_array),
    ("numpy", "dtype"): Name(dtype_of),
    ("_codecs", "encode"): Name(encoded),
    ("__builtin__", "bytes"): Name(no_bytes),
    ("builtins", "bytes"): Name(no_bytes),
}


def size_of(value: Any, sizes: dict[int, int], depth: int = 0) -> int:
    """
    Return the size of a value in bytes, about, where a part that is in it several times counts each time. `sizes` has the sizes of its
    containers by their addresses. Raise `pickle.UnpicklingError` if it is not plain, holds itself or is nested too deeply.
    """
    kind = type(value)
    if kind in (str, bytes):
        return 1 + len(value)
    if kind is int and value.bit_length() > 64:
        raise pickle.UnpicklingError("it has a number of more than 64 bits")
    if kind in (int, float, bool, type(None)):
        return 1
    if kind is np.ndarray:
        return 1 + value.nbytes
    if kind not in (list, tuple, dict):
        raise pickle.UnpicklingError("it names something of numpy or Python, and makes nothing of it")
    if depth > DEEPEST:
        raise pickle.UnpicklingError(f"it is nested more than {DEEPEST} times, or holds itself")
    if id(value) not in sizes:
        parts = value if kind is not dict else [part for item in value.items() for part in item]
        sizes[id(value)] = 1 + sum(size_of(part, sizes, depth + 1) for part in parts)
    return sizes[id(value)]
