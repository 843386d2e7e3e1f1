"""Images on their way from stores into a transfer set: put down as they are found, taken up in the order of packing.

So every source block is read once, whatever the order. Up to MEMORY bytes they wait in memory, more than that in a file
without a name beside the set, which takes as much disk as the images and is gone with the process, however it ends.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from manifests.commit import naming
from shards.codec import Encoded

MEMORY = 1 << 30
"""bytes"""


class Spool:
    """Images (3, size, size), raw or encoded, under row numbers; all are put before the first is taken."""

    def __init__(self, rows: int, *, size: int, folder: Path) -> None:
        self._size, self._folder = size, folder
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(MEMORY, dir=str(folder))  # noqa: SIM115  # closed on exit
        self._starts, self._lengths = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self._encoded = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def put(self, rows: NDArray[np.intp], images: NDArray[np.uint8] | Encoded) -> None:
        """Keep images (N, 3, size, size) under N row numbers."""
        self._encoded = isinstance(images, Encoded)
        if isinstance(images, Encoded):
            data, lengths = images.blob, np.diff(images.offsets)
        else:
            data, lengths = images.reshape(-1), np.full(len(images), images[0].size)
        with naming(self._folder):
            self._starts[rows] = self._file.tell() + np.cumsum(lengths) - lengths
            self._file.write(data.data)
        self._lengths[rows] = lengths

    def take(self, rows: NDArray[np.intp]) -> NDArray[np.uint8] | Encoded:
        """The images of some rows, as they were put."""
        with naming(self._folder):
            found = list(self._read(rows))
        if self._encoded:
            return Encoded.joined(found)
        together = bytearray().join(found)  # not bytes: torch wants arrays that may be written to
        return np.frombuffer(together, np.uint8).reshape(-1, 3, self._size, self._size)

    def _read(self, rows: NDArray[np.intp]) -> Iterator[bytes]:
        for start, length in zip(self._starts[rows].tolist(), self._lengths[rows].tolist(), strict=True):
            self._file.seek(start)
            yield self._file.read(length)
