"""Numeric variables of MATLAB's files of version 5 (`save -v6` and `-v7`), read here and not by SciPy.

SciPy's reader, compiled, takes what a file says of itself on trust: of one flipped byte in a type it ends the process
with a segmentation fault (1.17). Source: "MAT-File Format" (MathWorks, R2019b), chapter 1; numbers in comments are its
tables. Everything is an element: a tag of type and length, then that many bytes, filled up to eight.
"""

import struct
import zlib
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.corpora.arrays import read_bytes
from curate.errors import UnknownCorpus

_HEADER = 128  # bytes: text, version, byte order
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # 1-1
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED, _UTF8 = 1, 5, 6, 14, 15, 16  # 1-1
_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
_CLASSES = dict(enumerate(("double", "single", *_INTEGERS), start=6))  # 1-3
_OTHERS = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}  # 1-3
_COMPLEX = 0x0800  # 1-2, flags
_LONGEST = 4096  # bytes of names and dimensions: MATLAB has 63 and few
_CHUNK = 1 << 16  # compressed bytes read at once


class Variable(NamedTuple):
    """What a file says of one of its variables."""

    name: str
    kind: str  # MATLAB's class
    shape: tuple[int, ...]
    offset: int  # bytes to its element

    @property
    def numeric(self) -> bool:
        """Whether the values are real numbers."""
        return self.kind in _CLASSES.values()

    def __str__(self) -> str:
        """Such as `uint8 32x32x3x554`."""
        return f"{self.kind} {'x'.join(map(str, self.shape))}"


class _Packed:
    """The bytes of a compressed element, unpacked as they are asked for."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left, self._unpacker = stream, size, zlib.decompressobj()

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes; none at the end, which has to have the right checksum."""
        packed = self._unpacker.unconsumed_tail
        while not self._unpacker.eof:
            if found := self._unpacker.decompress(packed, count):  # of nothing too: it may hold some back
                return found
            packed = self._next()
        return b""

    def _next(self) -> bytes:
        packed = self._stream.read(min(_CHUNK, self._left))
        if not packed:
            raise EOFError("the compressed data are cut off")
        self._left -= len(packed)
        return packed


def list_variables(stream: BinaryIO) -> dict[str, Variable]:
    """The variables of a file by name, but those of no name; reads no values.

    Raises UnknownCorpus for a file of another version, ValueError, EOFError or zlib.error for a damaged one.
    """
    order = _order(stream)
    end = stream.seek(0, 2)
    variables: dict[str, Variable] = {}
    offset = _HEADER
    while offset < end:
        stream.seek(offset)
        kind, size = struct.unpack(f"{order}2I", read_bytes(stream, 8))
        if kind not in (_MATRIX, _COMPRESSED):
            raise ValueError(f"no variable at byte {offset:,}")
        if offset + 8 + size > end:
            raise ValueError(f"the variable at byte {offset:,} ends after {end - offset - 8:,} of {size:,} bytes")
        found, _ = _describe(stream, order, offset)
        if found.name in variables:
            raise ValueError(f"it holds the variable {found.name!r} twice")
        if found.name:
            variables[found.name] = found
        offset += 8 + size
    return variables


def read_variable(stream: BinaryIO, variable: Variable) -> NDArray[Any]:
    """The values of a numeric variable, the first index the fastest, in the type in which they lie in the file.

    Raises ValueError, EOFError or zlib.error unless they are exactly what the header says.
    """
    order = _order(stream)
    _, source = _describe(stream, order, variable.offset)
    kind, size, inside = _tag(source, order)
    dtype = np.dtype(order + _TYPES[kind]) if kind in _TYPES else None
    if dtype is None or size != prod(variable.shape) * dtype.itemsize:
        raise ValueError(f"{variable.name} is {variable}, but has {size:,} bytes of type {kind}")
    data = inside[:size] if inside is not None else read_bytes(source, size)
    if isinstance(source, _Packed):
        while source.read(_CHUNK):
            pass  # to the checksum
    return np.frombuffer(data, dtype).reshape(variable.shape, order="F")


def _order(stream: BinaryIO) -> str:
    """The byte order, for struct and NumPy."""
    stream.seek(0)
    head = stream.read(_HEADER)
    if head.startswith(_HDF5) or head[124:128] in (b"\0\2IM", b"\2\0MI"):
        raise UnknownCorpus(
            f"{stream.name} is a MATLAB 7.3 (HDF5) file, which is not read; in MATLAB, save it with "
            "save('images.mat', 'X', 'y', '-v7')"
        )
    orders = {b"\0\1IM": "<", b"\1\0MI": ">"}
    if head[124:128] not in orders:
        raise ValueError("it does not begin as a MATLAB file of version 5 does")
    return orders[head[124:128]]


def _describe(stream: BinaryIO, order: str, offset: int) -> tuple[Variable, BinaryIO | _Packed]:
    """The variable at an offset, and where its values are read on."""
    stream.seek(offset)
    kind, size = struct.unpack(f"{order}2I", read_bytes(stream, 8))
    source: BinaryIO | _Packed = stream
    if kind == _COMPRESSED:
        source = _Packed(stream, size)
        kind, _ = struct.unpack(f"{order}2I", read_bytes(source, 8))
    if kind != _MATRIX:
        raise ValueError(f"no variable at byte {offset:,}")
    flags = struct.unpack(f"{order}2I", _element(source, order, _UINT32))[0]
    number = flags & 0xFF
    if number not in _CLASSES and number not in _OTHERS:
        return Variable("", "opaque", (), offset), source  # of later releases, laid out otherwise
    shape = _element(source, order, _INT32, _UINT32)
    name = _element(source, order, _INT8, _UTF8).decode("latin-1")
    sides = tuple(value for (value,) in struct.iter_unpack(f"{order}i", shape))
    if len(sides) < 2 or min(sides) < 0:
        raise ValueError(f"{name!r} has dimensions {sides}")
    called = _CLASSES.get(number) or _OTHERS[number]
    return Variable(name, f"complex {called}" if flags & _COMPLEX else called, sides, offset), source


def _element(source: BinaryIO | _Packed, order: str, *kinds: int) -> bytes:
    """A short element of a known type, with what fills it up skipped."""
    found, length, inside = _tag(source, order)
    if found not in kinds or length > _LONGEST:
        raise ValueError(f"an element of type {found} and {length:,} bytes where one of type {kinds[0]} should be")
    if inside is not None:
        return inside[:length]
    return bytes(read_bytes(source, length + -length % 8)[:length])


def _tag(source: BinaryIO | _Packed, order: str) -> tuple[int, int, bytes | None]:
    """Type and length of an element; one of at most four bytes lies in its tag."""
    data = bytes(read_bytes(source, 8))
    kind, size = struct.unpack(f"{order}2I", data)
    if kind >> 16:
        if kind >> 16 > 4:
            raise ValueError(f"an element of {kind >> 16} bytes in a tag of 4")
        return kind & 0xFFFF, kind >> 16, data[4:]
    return kind, size, None
