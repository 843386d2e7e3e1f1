"""Pickles of arrays are read whoever wrote them; whatever else a pickle asks for is refused and does not happen."""

import io
import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.corpora.array_pickle import Refused, load

ROWS = np.random.default_rng(0).integers(0, 256, (4, 12), np.uint8)
CONTENT = {"data": ROWS, "labels": [3, 1, 2, 0], "mean": ROWS.mean(0), "names": ["a", "ü"], "n": np.int64(7), "x": None}


def read(data: bytes) -> Any:
    return load(io.BytesIO(data))


def same(found: Any, content: dict[str, Any] = CONTENT) -> bool:
    return list(found) == list(content) and all(
        np.array_equal(found[key], value) and getattr(found[key], "dtype", 0) == getattr(value, "dtype", 0)
        if isinstance(value, np.ndarray)
        else found[key] == value
        for key, value in content.items()
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol: int) -> None:
    assert same(read(pickle.dumps(CONTENT, protocol)))
    assert same(read(pickletools.optimize(pickle.dumps(CONTENT, protocol))))
    fortran = {"data": np.asfortranarray(ROWS), "big": ROWS.astype(">i4"), "sure": ROWS > 9}
    assert same(read(pickle.dumps(fortran, protocol)), fortran)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_of_numpy_1(protocol: int) -> None:
    written = pickle.dumps(CONTENT, protocol)
    if protocol < 4:
        written = written.replace(b"numpy._core.", b"numpy.core.")  # GLOBAL: names end with the line
    else:
        for module in (b"multiarray", b"numeric"):  # SHORT_BINUNICODE: names after their length; frames count bytes
            old, new = b"numpy._core." + module, b"numpy.core." + module
            written = written.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
        written = unframed(written)
    assert b"_core" not in written
    assert same(read(written))


def unframed(data: bytes) -> bytes:
    """A pickle without its frames, whose lengths are wrong after an edit."""
    assert data[2:3] == pickle.FRAME
    return data[:2] + data[11:]


def python2(code: bytes, shape: tuple[int, int], data: bytes, order: bytes = b"|") -> bytes:
    """An array as CIFAR's files hold it: protocol 2 of Python 2, whose texts are bytes."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"K\0K\x01\x87R"
    dtype += b"(K\x03U\x01" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    values = b"T" + struct.pack("<i", len(data)) + data
    return (
        empty + b"(K\x01K" + bytes([shape[0]]) + b"K" + bytes([shape[1]]) + b"\x86" + dtype + b"\x89" + values + b"tb"
    )


def test_a_pickle_of_python_2() -> None:
    written = b"\x80\x02}(U\x04data" + python2(b"u1", (4, 12), ROWS.tobytes()) + b"U\x06labels](K\x03K\x01eu."
    found = read(written)
    assert np.array_equal(found["data"], ROWS)
    assert found["labels"] == [3, 1]
    wide = b"\x80\x02}U\x04data" + python2(b"i4", (2, 2), np.arange(4, dtype=">i4").tobytes(), b">") + b"s."
    assert np.array_equal(read(wide)["data"], [[0, 1], [2, 3]])


class Calls:
    """An object whose pickle calls something."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_else_is_called(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    command = f"open({str(marker)!r}, 'w')"
    for function, arguments, called in (
        (os.system, (f"touch {marker}",), "(posix|nt).system"),
        (eval, (command,), "(builtins|__builtin__).eval"),
        (exec, (command,), "(builtins|__builtin__).exec"),
        (__import__, ("os",), "(builtins|__builtin__).__import__"),
        (getattr, (marker, "touch"), "(builtins|__builtin__).getattr"),
        (Path.touch, (marker,), "(pathlib.*|.*getattr)"),
        (np.fromfile, (__file__,), "numpy.*fromfile"),
        (np.load, (__file__,), "numpy.*load"),
        (np.memmap, (__file__,), "numpy.memmap"),
        (OrderedDict, (), "collections.OrderedDict"),
    ):
        for where in (Calls(function, *arguments), {"data": ROWS, "labels": [Calls(function, *arguments)]}):
            with pytest.raises(Refused, match=f"it asks for '{called}'"):
                read(pickle.dumps(where, protocol))
    assert not marker.exists()


def program(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


NDARRAY, DTYPE, ENCODE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"K\0\x85C\x01btR"
OBJECTS, FLAGS = DTYPE + b"(\x8c\x02O8\x89\x88tR", b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
SHAPE = b"(K\x01K\x01\x85"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        # NumPy's own dtype takes flags from a pickle: without the one for objects, these bytes would be pointers
        ((EMPTY, SHAPE, OBJECTS, FLAGS, b"\x89C\x08AAAAAAAAtb"), "it holds an array of type =O8, not of numbers"),
        ((EMPTY, SHAPE, OBJECTS, b"\x89]Natb"), "it holds an array of objects"),
        ((EMPTY, SHAPE, DTYPE, b"\x89C\x01Atb"), "it holds an array of something else than numbers"),
        ((DTYPE, b"(", NDARRAY, b"tR"), "it has a type where a name should be"),
        ((b"cnumpy.core.multiarray\nscalar\n(", OBJECTS, b"C\x08AAAAAAAAtR"), "it holds an array of type =O8"),
        ((b"cnumpy\n__builtins__\n",), "it asks for 'numpy.__builtins__'"),
        ((b"\x8c\x05numpy\x8c\x11ndarray.__class__\x93",), "it asks for 'numpy.ndarray.__class__'"),
        ((b"(ios\nsystem\n",), "it asks for 'os.system'"),
    ],
)
def test_what_is_written_by_hand(parts: tuple[bytes, ...], words: str) -> None:
    with pytest.raises(Refused, match=words):
        read(program(*parts))


@pytest.mark.parametrize("name", [NDARRAY, DTYPE, ENCODE, b"cnumpy.core.multiarray\nscalar\n"])
@pytest.mark.parametrize("state", [b"}\x8c\x04evilK\x01s", b"N}\x8c\x04evilK\x01s\x86", b"(K\x03\x8c\x01|t"])
def test_a_pickle_cannot_change_what_the_next_one_meets(name: bytes, state: bytes) -> None:
    with pytest.raises((Refused, TypeError)):
        read(program(name, state, b"b"))
    assert same(read(pickle.dumps(CONTENT)))


def test_what_is_no_pickle_raises() -> None:
    whole = pickle.dumps(CONTENT, 4)
    for cut in range(len(whole)):
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            read(whole[:cut])
