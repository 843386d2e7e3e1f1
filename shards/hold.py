"""What of a source is in memory: the window that is being read and the next, or everything.

Both hand out rows by their stored numbers, as copies, so that a batch that is kept keeps nothing else.
"""

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.codec import Encoded, decode_images
from shards.errors import BlockDamaged
from shards.layout import KEY_DTYPE, Block
from shards.order import Epoch, Piece
from shards.sources.base import Source

MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""of Linux's control groups, version 2"""


class Rows(NamedTuple):
    """Some images and what belongs to them; arrays share their first axis B."""

    images_BCHW: NDArray[np.uint8]
    keys: NDArray[np.bytes_]
    labels: NDArray[np.int32]
    logits_BK: NDArray[np.float16] | None
    """the teacher's, of the view that was asked for"""


class Held(Protocol):
    """Hands out rows of an epoch, to one thread at a time."""

    def take(self, epoch: Epoch, piece: Piece, *, view: int) -> Rows:
        """The images of ``piece``, with the logits of one view; raises what reading them raised."""


class Table:
    """Images of consecutive blocks side by side, in arrays that are used again for the next ones."""

    def __init__(self, rows: int, source: Source) -> None:
        self._source = source
        self.images_NCHW = np.empty((rows, 3, source.size, source.size), np.uint8)
        self.keys = np.empty(rows, KEY_DTYPE)
        self.labels = np.empty(rows, np.int32)
        self.logits_NVK: NDArray[np.float16] | None = None
        self._first_logits = Lock()

    def load(self, start: int, block: int) -> None:
        """Read a block and copy its images to ``start`` and after, while they are in the processor's cache."""
        self.put(start, self._source.read(block))

    def put(self, start: int, block: Block) -> None:
        """Copy a block's images to ``start`` and after."""
        rows, images_NCHW = slice(start, start + len(block)), block.images_NCHW
        if images_NCHW.shape[1:] != self.images_NCHW.shape[1:]:
            raise BlockDamaged(
                f"{self._source.name} says that its images have {self._source.size} px, a block holds "
                f"{'x'.join(map(str, images_NCHW.shape[1:]))}; make the set again"
            )
        self.images_NCHW[rows], self.keys[rows], self.labels[rows] = images_NCHW, block.keys, block.labels
        if block.logits_NVK is not None:
            with self._first_logits:  # several threads load blocks
                if self.logits_NVK is None:
                    self.logits_NVK = np.empty((len(self.keys), *block.logits_NVK.shape[1:]), np.float16)
            self.logits_NVK[rows] = block.logits_NVK

    def take(self, at: NDArray[np.int64], *, view: int) -> Rows:
        """Copies of the images at some places."""
        logits_BK = None if self.logits_NVK is None else self.logits_NVK[at, view]
        return Rows(self.images_NCHW.take(at, axis=0), self.keys[at], self.labels[at], logits_BK)


class Resident:
    """Everything, read when it is first wanted; rows lie where they are stored."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._firsts = np.cumsum(source.counts) - source.counts
        self._read = np.zeros(len(source.counts), bool)
        self.table = Table(int(source.counts.sum()), source)

    def take(self, epoch: Epoch, piece: Piece, *, view: int) -> Rows:
        self.fill(epoch.windows[piece.window])
        return self.table.take(piece.rows, view=view)

    def fill(self, blocks: NDArray[np.int64]) -> None:
        """Read those of ``blocks`` that are not here yet."""
        missing = blocks[~self._read[blocks]]
        if not len(missing):
            return
        with ThreadPoolExecutor(self._source.workers) as readers:
            loaded = readers.map(self.table.load, self._firsts[missing].tolist(), missing.tolist())
            for number, _ in zip(missing, loaded, strict=True):
                self._read[number] = True


class Windowed:
    """Two windows: the one that is being read and the next, which is on its way meanwhile."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._firsts = np.cumsum(source.counts) - source.counts
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._loader = ThreadPoolExecutor(1)
        self._coming: dict[tuple[Epoch, int], Future[_Window]] = {}
        self._spare: list[Table] = []

    def take(self, epoch: Epoch, piece: Piece, *, view: int) -> Rows:
        found = self._window(epoch, piece.window)
        slot = np.searchsorted(found.firsts, piece.rows, side="right") - 1
        row = piece.rows - found.firsts[slot]
        if isinstance(found.images, Table):
            return found.images.take(found.starts[slot] + row, view=view)
        return _picked(found.images, slot, row, size=self._source.size, view=view)

    def _window(self, epoch: Epoch, window: int) -> "_Window":
        """A window, and the next one under way."""
        if self._process != os.getpid():  # forked: the thread is not here, and what it was about to load never comes
            self._begin()
        wanted = [(epoch, w) for w in (window, window + 1) if w < len(epoch.windows)]
        for old in self._coming.keys() - {*wanted}:
            self._recycle(self._coming.pop(old))
        if (now := self._coming.get(wanted[0])) and now.done() and now.exception():
            del self._coming[wanted[0]]  # read again: a server that was away, say, may be back
        for place in wanted:
            if place not in self._coming:
                self._coming[place] = self._loader.submit(self._load, epoch.windows[place[1]])
        return self._coming[wanted[0]].result()

    def _recycle(self, old: "Future[_Window]") -> None:
        if not old.cancel() and old.done() and not old.exception() and isinstance(table := old.result().images, Table):
            self._spare.append(table)

    def _load(self, blocks: NDArray[np.int64]) -> "_Window":
        blocks = np.sort(blocks)
        counts = self._source.counts[blocks]
        starts = np.cumsum(counts) - counts
        first, rest = self._source.read(int(blocks[0])), blocks[1:].tolist()
        with ThreadPoolExecutor(self._source.workers) as readers:
            if isinstance(first.images, Encoded):  # pixels only of the rows that are handed out, and when they are
                return _Window(self._firsts[blocks], starts, [first, *readers.map(self._source.read, rest)])
            table = self._table(int(counts.sum()))
            table.put(0, first)
            for _ in readers.map(table.load, starts[1:].tolist(), rest):  # raises what reading raised
                pass
        return _Window(self._firsts[blocks], starts, table)

    def _table(self, rows: int) -> Table:
        while self._spare:
            table = self._spare.pop()
            if len(table.keys) >= rows:
                return table
        return Table(rows + rows // 16, self._source)  # windows of one epoch are nearly even


class _Window(NamedTuple):
    firsts: NDArray[np.int64]
    """stored number of the first row of each block, ascending"""
    starts: NDArray[np.int64]
    """place of that row in the table"""
    images: "Table | list[Block]"


def _picked(
    blocks: Sequence[Block], slots: NDArray[np.int64], rows: NDArray[np.int64], *, size: int, view: int
) -> Rows:
    """Rows of blocks whose images are encoded: only they are decoded."""
    encoded = {
        slot: images.encoded() for slot in {*slots.tolist()} if isinstance(images := blocks[slot].images, Encoded)
    }
    places = list(zip(slots.tolist(), rows.tolist(), strict=True))
    logits = [all_NVK[row, view] for slot, row in places if (all_NVK := blocks[slot].logits_NVK) is not None]
    return Rows(
        decode_images([encoded[slot][row] for slot, row in places], size=size),
        np.array([blocks[slot].keys[row] for slot, row in places], KEY_DTYPE),
        np.array([blocks[slot].labels[row] for slot, row in places], np.int32),
        np.stack(logits) if logits else None,
    )


def fits_in_memory(source: Source) -> bool:
    """Whether all pixels of a source, in each process that `torchrun` runs here, take a quarter of memory or less."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return processes * int(source.counts.sum()) * 3 * source.size**2 <= _memory() // 4


def _memory() -> int:
    """Bytes of the machine, or as many of them as a container or a batch system allows."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no such file, or no limit: "max"
        memory = min(memory, int(MEMORY_LIMIT.read_text()))
    return memory
