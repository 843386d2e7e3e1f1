"""The order of an epoch, as arithmetic: which stored row comes at which position. Nothing is read here.

An epoch permutes the blocks, cuts the permuted sequence into windows of at least `window` blocks, as even as they get,
and permutes the rows of each window. Both permutations are addressed by (set, seed, epoch), so that any stretch of any
epoch can be computed alone. A mask leaves rows out: their blocks are not read if nothing else is wanted of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.keys import address

WINDOW = 32
"""blocks that are mixed with each other: on a set sorted by class, runs of one class are then 3 % longer than in a true
permutation (benchmarks/shuffle.py); 16 would leave them 6 % longer"""


class Piece(NamedTuple):
    """Some rows of one window, in stream order."""

    window: int
    rows: NDArray[np.int64]
    """stored row numbers, counted through all blocks"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """The orders of one set under one seed; rows are numbered 0, 1, ... as they are stored."""

    id: str
    """of the set: another set has another order"""
    counts: NDArray[np.int64]
    """rows of each block, in stored order"""
    seed: int
    window: int = WINDOW
    shuffle: bool = True

    def epoch(self, epoch: int, mask: NDArray[np.bool_] | None = None) -> "Epoch":
        """The order of one epoch, of the rows that ``mask`` (rows,) leaves."""
        return Epoch(self, epoch, mask)

    def permutation(self, count: int, *purpose: str | int) -> NDArray[np.int64]:
        """A seeded permutation; from raw bits, which NumPy keeps the same for good, unlike its own permutations."""
        if not self.shuffle:
            return np.arange(count)
        bits = np.random.Philox(address(self.id, self.seed, *purpose)).random_raw(count)
        return np.argsort(bits, kind="stable")


class Epoch:
    """Windows of one epoch, and the rows of any stretch of it."""

    def __init__(self, order: Order, epoch: int, mask: NDArray[np.bool_] | None) -> None:
        self._order, self.number, self._mask = order, epoch, mask
        ends = np.cumsum(order.counts)
        self._firsts = ends - order.counts
        kept = order.counts if mask is None else np.diff(np.concatenate([[0], np.cumsum(mask)])[np.append(0, ends)])
        chosen = order.permutation(len(order.counts), epoch, "blocks")
        chosen = chosen[kept[chosen] > 0]
        windows = max(1, len(chosen) // order.window)
        edges = len(chosen) * np.arange(windows + 1) // windows
        self.windows: list[NDArray[np.int64]] = [chosen[a:b] for a, b in pairwise(edges.tolist())]
        """block numbers of each window"""
        self._ends = np.cumsum([int(kept[blocks].sum()) for blocks in self.windows])
        self.rows = int(self._ends[-1]) if len(chosen) else 0
        """rows in the epoch"""
        self._rows: dict[int, NDArray[np.int64]] = {}  # of two windows: a batch may lie in both

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The rows at positions start, ..., stop - 1; beyond the last one it begins again at the first."""
        while start < stop:
            at = start % self.rows
            window = int(np.searchsorted(self._ends, at, side="right"))
            rows = self._rows_of(window)
            first = at - (int(self._ends[window]) - len(rows))
            found = rows[first : first + stop - start]
            yield Piece(window, found)
            start += len(found)

    def _rows_of(self, window: int) -> NDArray[np.int64]:
        if window not in self._rows:
            if len(self._rows) == 2:
                del self._rows[next(iter(self._rows))]
            self._rows[window] = self._window_rows(window)
        return self._rows[window]

    def _window_rows(self, window: int) -> NDArray[np.int64]:
        """All rows of a window, in stream order."""
        blocks = self.windows[window]
        stored = np.concatenate(
            [np.arange(n) + f for n, f in zip(self._order.counts[blocks], self._firsts[blocks], strict=True)]
        )
        rows = stored[self._order.permutation(len(stored), self.number, "rows", window)]
        return rows if self._mask is None else rows[self._mask[rows]]
