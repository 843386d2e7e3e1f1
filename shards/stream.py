"""The stream of batches: a pure function of (set id, seed, epoch, batch index), with a state of a few integers.

An epoch permutes the blocks, cuts the permuted sequence into windows of `window` blocks, and permutes the rows of
each window. Batches are consecutive runs of that order. Any batch can be computed without those before it, so
resuming costs nothing and cannot drift.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from manifests.keys import address
from shards.errors import ShardError, StreamStateError
from shards.index import ShardFolder
from shards.layout import Block
from shards.read import read_block


class Batch(NamedTuple):
    """What every consumer of a stream receives; arrays share their first axis B."""

    images_BCHW: NDArray[np.uint8]
    keys: NDArray[np.bytes_]
    labels: NDArray[np.int32]


class Stream:
    """Endless batches over one split of a shard folder; `state` and `load_state` resume exactly.

    With ``shuffle`` the order is seeded, without it the order is that of the shards. With ``drop_last`` every batch
    is full and an epoch has rows // batch_size of them; without it the last one of an epoch may be short.
    """

    def __init__(
        self,
        folder: ShardFolder,
        *,
        batch_size: int,
        seed: int = 0,
        split: str | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        window: int = 16,
    ) -> None:
        self.folder = folder
        self._identity = {"id": folder.id, "split": split, "seed": seed, "global_batch": batch_size}
        self._identity |= {"shuffle": shuffle, "drop_last": drop_last, "window": window}
        self._seed, self._batch_size, self._shuffle, self._window = seed, batch_size, shuffle, window
        self._blocks = [(folder.path / s.name, b) for s in folder.of_split(split) for b in s.blocks]
        self.rows = sum(b.rows for _, b in self._blocks)
        where = f"split {split!r} of {folder.path}" if split else str(folder.path)
        if not self.rows:
            raise ShardError(f"{where} holds no images; its splits: {', '.join(folder.splits) or 'none'}")
        if batch_size < 1 or (drop_last and batch_size > self.rows):
            raise ShardError(
                f"batch size {batch_size:,} does not fit the {self.rows:,} images in {where}; "
                f"choose one from 1 to {self.rows:,}"
            )
        self.batches_per_epoch = self.rows // batch_size if drop_last else -(-self.rows // batch_size)
        self.epoch = 0
        self.batch = 0
        self._plan = _EpochPlan(epoch=-1, order=np.empty(0, np.int64), starts=np.empty(0, np.int64))
        self._loaded: _Window | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self.batch >= self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
        batch = self.read(self.epoch, self.batch)
        self.batch += 1
        return batch

    def one_epoch(self) -> Iterator[Batch]:
        """The batches of the current epoch from the start; the stream's own position does not move."""
        epoch = self.epoch
        return (self.read(epoch, number) for number in range(self.batches_per_epoch))

    def state(self) -> dict[str, Any]:
        """Where the stream is: a few integers, JSON-ready."""
        return {**self._identity, "epoch": self.epoch, "batch": self.batch}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state; raises `StreamStateError` if it belongs to another set, seed or batch size."""
        for name, mine in self._identity.items():
            if state.get(name) != mine:
                raise StreamStateError(
                    f"cannot resume: {name} was {state.get(name)!r} when the run was saved and is {mine!r} now; "
                    f"use the same one, or start a new run"
                )
        try:
            self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
        except (KeyError, TypeError, ValueError):
            raise StreamStateError("cannot resume: the saved state lacks its epoch or batch; start a new run") from None

    def read(self, epoch: int, batch: int) -> Batch:
        """Batch number ``batch`` of ``epoch``."""
        plan = self._epoch(epoch)
        start, end = batch * self._batch_size, min((batch + 1) * self._batch_size, self.rows)
        pieces = []
        window = int(np.searchsorted(plan.starts, start, side="right")) - 1
        while start < end:
            first = start - int(plan.starts[window])
            pieces.append(self._take(epoch, window, slice(first, first + end - start)))
            start += len(pieces[-1].keys)
            window += 1
        if len(pieces) == 1:
            return pieces[0]
        return Batch(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))

    def _epoch(self, epoch: int) -> "_EpochPlan":
        if self._plan.epoch != epoch:
            order = self._order(len(self._blocks), epoch, "blocks")
            rows = np.array([self._blocks[i][1].rows for i in order])
            starts = np.concatenate([[0], np.cumsum(rows)])[:-1][:: self._window]
            self._plan = _EpochPlan(epoch=epoch, order=order, starts=starts)
        return self._plan

    def _take(self, epoch: int, window: int, rows: slice) -> Batch:
        """Some rows of a window, in stream order, as copies: a batch that is kept does not keep its window."""
        if self._loaded is None or self._loaded.at != (epoch, window):
            self._loaded = None  # free it before the next one is read
            self._loaded = self._load(epoch, window)
        block, chosen = self._loaded.block, self._loaded.order[rows]
        return Batch(block.images_NCHW[chosen], block.keys[chosen], block.labels[chosen])

    def _load(self, epoch: int, window: int) -> "_Window":
        chosen = self._epoch(epoch).order[window * self._window : (window + 1) * self._window]
        blocks = [read_block(*self._blocks[i]) for i in chosen]
        block = Block(
            images_NCHW=np.concatenate([b.images_NCHW for b in blocks]),
            keys=np.concatenate([b.keys for b in blocks]),
            labels=np.concatenate([b.labels for b in blocks]),
        )
        return _Window(at=(epoch, window), block=block, order=self._order(len(block), epoch, "rows", window))

    def _order(self, count: int, epoch: int, *purpose: str | int) -> NDArray[np.int64]:
        """A seeded permutation; from raw bits, which NumPy keeps the same for good, unlike its own permutations."""
        if not self._shuffle:
            return np.arange(count)
        bits = np.random.Philox(address(self.folder.id, self._seed, epoch, *purpose)).random_raw(count)
        return np.argsort(bits, kind="stable")


class _EpochPlan(NamedTuple):
    epoch: int
    order: NDArray[np.int64]
    """block order"""
    starts: NDArray[np.int64]
    """first row of each window in the epoch's order"""


class _Window(NamedTuple):
    at: tuple[int, int]
    """epoch, window"""
    block: Block
    """its blocks, joined"""
    order: NDArray[np.int64]
    """row order"""
