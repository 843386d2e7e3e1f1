"""What readers of array files share: files whose rows are images, found, cut into parts, read and labelled.

A reader says how one file is opened; here its rows become items. What a file needs in memory is given up when its last
row is read or another file's turn comes, so that a corpus of many files costs the memory of one.
"""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.corpora import base
from curate.corpora.base import Item, Part, SourceFile, files_identity, part_name, split_options
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty, UnknownCorpus
from manifests.errors import TransfersetError
from shards.names import is_url

_MIN_DIGITS = 8  # of the row number in a uri
_CHUNK = 1 << 20  # bytes read at once: a header that promises more than there is costs no memory
_BLOCK = 8 << 20  # bytes of images handled at once
_SHOWN = 3  # files named in an error


class Rows(ABC):
    """One opened file of images."""

    def __init__(self, images: SourceFile, labels: SourceFile | None = None) -> None:
        self.images, self.labels = images, labels

    @abstractmethod
    def __len__(self) -> int:
        """Images in the file."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Rows in blocks, in order: (n, H, W) or (n, H, W, 3)."""

    @abstractmethod
    def label(self, start: int, stop: int) -> Sequence[str | None]:
        """Labels of rows."""

    def drop(self) -> None:  # noqa: B027  # few hold anything
        """Give up what is only held to be read again."""


class Span(NamedTuple):
    """Rows of a file."""

    file: str  # name in the corpus
    start: int  # first row
    stop: int  # one past the last row


class ArrayCorpus(ABC):
    """Images as rows of array files; subclasses name a scheme and its options, find the files and open one."""

    scheme: ClassVar[str]
    known: ClassVar[tuple[str, ...]] = ()  # options
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        self.name, self.spec = name, f"{self.scheme}:{path}"
        place, self._options = split_options(self.scheme, path, self.known)
        self._files = self._find(place)
        self._held: Rows | None = None
        if not any(file.url for file in self._files):
            _ = self._rows  # what is wrong with files that are here is told at once

    @property
    def classes(self) -> tuple[str, ...] | None:
        """None: arrays hold numbers."""
        return None

    @abstractmethod
    def _find(self, place: str) -> list[SourceFile]:
        """The files of images, ordered for uris."""

    @abstractmethod
    def _open(self, file: SourceFile) -> Rows:
        """Look at a file: how many images there are, of which form. Reads no more than that needs."""

    def _companions(self) -> list[SourceFile]:
        """Files of labels or names beside the files of images."""
        return []

    def identity(self) -> str:
        """Over the names, sizes and times of change of the files and those beside them, and the options."""
        return files_identity(self.scheme, [*self._files, *self._companions()], self._options)

    @cached_property
    def _rows(self) -> dict[str, Rows]:
        rows = {file.name: self._open(file) for file in self._files}
        if not any(map(len, rows.values())):
            raise CorpusEmpty(f"corpus {self.name!r}: no image in {self.spec}")
        return rows

    def parts(self) -> list[Part]:
        """Rows in file and row order, PART_SIZE a part; a part may cross files."""
        edges = list(accumulate(map(len, self._rows.values()), initial=0))
        spans = list(zip(self._rows, edges[:-1], edges[1:], strict=True))  # name, first row, end, over all files
        parts = []
        for number, start in enumerate(range(0, edges[-1], base.PART_SIZE)):
            stop = min(start + base.PART_SIZE, edges[-1])
            where = tuple(
                Span(name, max(start, first) - first, min(stop, last) - first)
                for name, first, last in spans
                if first < stop and last > start
            )
            parts.append(Part(name=part_name(number), count=stop - start, where=where))
        return parts

    def read(self, part: Part) -> Iterator[Item]:
        """The images as HxW or HxWx3 uint8 arrays, read-only."""
        for span in part.where:
            rows = self._rows[span.file]
            if self._held is not None and self._held is not rows:
                self._held.drop()
            self._held = rows
            yield from _items(rows, span)
            if span.stop == len(rows):
                rows.drop()


def _items(rows: Rows, span: Span) -> Iterator[Item]:
    digits = max(_MIN_DIGITS, len(str(len(rows) - 1)))
    labels, row = rows.label(span.start, span.stop), span.start
    for block in rows.read(span.start, span.stop):
        block.flags.writeable = False
        for image in block:
            yield Item(uri=f"{span.file}/{row:0{digits}d}", data=image, label=labels[row - span.start])
            row += 1


def blocks(start: int, stop: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Rows from ``start`` to ``stop``, as many at once as are handled at once."""
    step = max(1, _BLOCK // row_bytes)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def is_folder(place: str) -> bool:
    """Whether a path names a folder, here or elsewhere."""
    return place.endswith("/") if is_url(place) else Path(place).expanduser().is_dir()


def the_only(scheme: str, files: Sequence[SourceFile], *, place: str, what: str) -> list[SourceFile]:
    """The one file of images in a folder; raises CorpusEmpty for none and CorpusAmbiguous for several."""
    if not files:
        raise CorpusEmpty(f"no {what} in the folder {place}")
    if len(files) > 1:
        spellings = [f"{scheme}:{file.url or file.place}" for file in files]
        pattern = f"{scheme}:{place.rstrip('/')}/*{files[0].place.suffix}"
        more = " or ..." if len(files) > _SHOWN else f", or all by a pattern such as {pattern}"
        raise CorpusAmbiguous(
            f"{len(files)} files of images lie in {place}; say which: {' or '.join(spellings[:_SHOWN])}{more}"
        )
    return list(files)


def texts(file: SourceFile, values_N: NDArray[Any]) -> list[str]:
    """Labels as text: whole numbers (also those that lie in the file as floats), or strings."""
    if values_N.dtype.kind == "f" and np.isfinite(values_N).all() and (values_N == np.floor(values_N)).all():
        values_N = values_N.astype(np.int64)
    if values_N.dtype.kind not in "iubUS":
        raise UnknownCorpus(f"labels in {file.place} are {values_N.dtype} values; expected whole numbers or text")
    if values_N.dtype.kind == "S":
        return [value.decode("utf-8", "replace") for value in values_N.tolist()]
    return [str(value) for value in values_N.tolist()]


def read_bytes(stream: BinaryIO | Any, size: int) -> bytearray:
    """Exactly ``size`` bytes, whose memory is taken as they come; raises EOFError if there are fewer."""
    data = bytearray()
    while len(data) < size:
        chunk = stream.read(min(_CHUNK, size - len(data)))
        if not chunk:
            raise EOFError(f"it ends too early: {len(data):,} of {size:,} bytes")
        data += chunk
    return data


@contextlib.contextmanager
def telling(kind: str, file: SourceFile) -> Iterator[None]:
    """Tell what a library raises on damaged bytes, which may be anything, as CorpusDamaged in one line."""
    try:
        yield
    except TransfersetError:
        raise
    except OSError as error:
        raise CorpusDamaged(f"cannot read {kind} {file.place}: {error.strerror or error}") from None
    except MemoryError:
        words = f"{kind} {file.place} says that it holds more than there is memory for; compare its size"
        raise CorpusDamaged(words) from None
    except Exception as error:  # noqa: BLE001  # as said
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CorpusDamaged(f"damaged {kind} {file.place}: {reason}; fetch or write it again") from None


@contextlib.contextmanager
def opened(kind: str, file: SourceFile) -> Iterator[BinaryIO]:
    """Open a file that is still the one that was found, and tell what is wrong with it as `telling` does."""
    with telling(kind, file), file.path.open("rb") as stream:
        stat = os.fstat(stream.fileno())
        if file.url is None and (stat.st_size, stat.st_mtime_ns) != (file.size, file.stamp):
            raise CorpusDamaged(f"{kind} {file.place} changed while it was read; run the same command again")
        yield stream


def check_labels(images: SourceFile, count: int, labels: SourceFile, found: int) -> None:
    """Refuse (CorpusDamaged) labels that are more or fewer than the images."""
    if found != count:
        where = "" if labels is images else f" in {labels.place}"
        raise CorpusDamaged(
            f"{count:,} images in {images.place} but {found:,} labels{where}; expected one label an image: "
            f"fetch both again"
        )
