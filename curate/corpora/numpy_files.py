"""NumPy's own files, `.npy` and `.npz`, read by their headers: never a pickle, never more than was asked for.

Not mapped into memory: a file that shrinks while it is mapped ends the process without a word.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from curate.corpora.arrays import opened, read_bytes
from curate.corpora.base import SourceFile
from curate.errors import UnknownCorpus

_KIND = "NumPy file"
# Format 3.0 is for fields whose names are not ASCII, which no image has (numpy.lib.format, "Version numbering").
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Header(NamedTuple):
    """What an array file says of itself."""

    shape: tuple[int, ...]
    fortran: bool  # the first index is the fastest
    dtype: np.dtype[Any]
    offset: int  # bytes before the values

    @property
    def size(self) -> int:
        """Bytes that the file has to have; what a file of pickled objects has cannot be told."""
        return self.offset + prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        """Such as `uint8 100x32x32x3`."""
        return f"{self.dtype} {'x'.join(map(str, self.shape))}".strip()


def npy_header(file: SourceFile) -> Header:
    """The header of an `.npy` file; raises CorpusDamaged unless the file is exactly as long as it says."""
    with opened(_KIND, file) as stream:
        header = _read_header(stream)
        return _checked(header, stream.seek(0, 2))


def npy_rows(file: SourceFile, header: Header, start: int, stop: int) -> NDArray[Any]:
    """Rows of an `.npy` file in C order; raises CorpusDamaged if it has changed."""
    row = prod(header.shape[1:]) * header.dtype.itemsize
    with opened(_KIND, file) as stream:
        stream.seek(header.offset + start * row)
        data = read_bytes(stream, (stop - start) * row)
        return np.frombuffer(data, header.dtype).reshape(stop - start, *header.shape[1:])


def npz_headers(file: SourceFile) -> dict[str, Header]:
    """The header of every array in an `.npz` file, by its name there; raises CorpusDamaged as `npy_header` does."""
    with opened(_KIND, file) as packed, ZipFile(packed) as archive:
        headers = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as stream:
                    headers[info.filename.removesuffix(".npy")] = _checked(_read_header(stream), info.file_size)
        return headers


def npz_array(file: SourceFile, name: str) -> NDArray[Any]:
    """A whole array of an `.npz` file, whose checksum is compared."""
    with opened(_KIND, file) as packed, ZipFile(packed) as archive, archive.open(f"{name}.npy") as stream:
        header = _read_header(stream)
        if header.dtype.hasobject:
            raise UnknownCorpus(f"{name!r} in {file.place} holds pickled objects, which are never loaded; save numbers")
        values = np.frombuffer(read_bytes(stream, header.size - header.offset), header.dtype)
        return values.reshape(header.shape, order="F" if header.fortran else "C")


def _read_header(stream: BinaryIO | Any) -> Header:
    with _header_errors():
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = _READERS[version](stream)
        return Header(shape, fortran, dtype, stream.tell())


@contextmanager
def _header_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # it parses Python: SyntaxError, TokenError, KeyError, TypeError, ...
        raise ValueError("it does not begin with the header of an array") from error


def _checked(header: Header, found: int) -> Header:
    if min(header.shape, default=0) < 0:
        raise ValueError(f"its header says {header}")
    if not header.dtype.hasobject and header.size != found:
        there = f"only {found:,}" if found < header.size else f"{found:,}"
        raise ValueError(f"its header says {header}, that is {header.size:,} bytes, but there are {there}")
    return header
