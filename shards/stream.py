"""The stream of batches: a pure function of (set id, seed, epoch, batch index), with a state of a few plain values.

Batches are consecutive runs of an epoch's order (order.py), cut for all ranks together: rank r of R takes the r-th of R
equal slices of each. Any batch can be computed without those before it, so resuming costs nothing and cannot drift, at
any number of ranks that divides the batch.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.damage import BUDGET, Damage, OnDamage, Skipping, guarded
from shards.errors import ShardError, StreamStateError
from shards.hold import Held, Resident, Rows, Windowed
from shards.order import WINDOW, Epoch, Order
from shards.sources.base import Source

Tail = Literal["drop", "wrap", "short"]
"""what becomes of the rows after an epoch's last whole batch: left out; filled up from the epoch's beginning; a batch
of their own, for one rank"""


class Batch(NamedTuple):
    """What every consumer of a stream receives; arrays share their first axis B."""

    images_BCHW: NDArray[np.uint8]
    keys: NDArray[np.bytes_]
    labels: NDArray[np.int32]
    logits_BK: NDArray[np.float16] | None = None
    """the teacher's answers to the view number `epoch` modulo `views` of each image, where the set carries them"""


class Stream:
    """Endless batches of a source; `state` and `load_state` resume exactly.

    ``batch_size`` counts all ranks together. With ``shuffle`` the order is seeded, without it the order is that of the
    shards. ``resident`` keeps everything that was read in memory, else two windows of ``window`` blocks or more are.
    ``on_damage`` is what becomes of a block that is not what was written: the stream refuses, or passes over up to
    ``max_bad`` of the rows (damage.py).
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        tail: Tail = "drop",
        window: int = WINDOW,
        rank: int = 0,
        world: int = 1,
        resident: bool = False,
        on_damage: OnDamage = "refuse",
        max_bad: float = BUDGET,
    ) -> None:
        self.rows = int(source.counts.sum())
        self._check_words(tail, on_damage)
        self._check_sizes(source, batch_size, tail=tail, window=window, rank=rank, world=world)
        self.source = source = guarded(source, on_damage, budget=max_bad)
        self._settings = {"seed": seed, "global_batch": batch_size, "shuffle": shuffle, "tail": tail, "window": window}
        self._batch_size, self._tail, self._rank, self._world = batch_size, tail, rank, world
        self._order = Order(
            id=str(source.identity["id"]), counts=source.counts, seed=seed, window=window, shuffle=shuffle
        )
        self._held: Held = Resident(source) if resident else Windowed(source)
        self._mask: NDArray[np.bool_] | None = None
        self._mask_hash: str | None = None
        self._left = self.rows  # rows of an epoch, counted once: a mask of a large set takes a while
        self._plan: Epoch | None = None
        self.views = source.views
        self.epoch = 0
        self.batch = 0

    def _check_words(self, tail: str, on_damage: str) -> None:
        for name, value, known in (("tail", tail, Tail), ("on_damage", on_damage, OnDamage)):
            if value not in get_args(known):
                raise ShardError(f"{name} is {value!r}; expected one of {', '.join(get_args(known))}")

    def _check_sizes(self, source: Source, batch_size: int, *, tail: str, window: int, rank: int, world: int) -> None:
        if batch_size < 1 or (tail == "drop" and batch_size > self.rows):
            raise ShardError(
                f"batch size {batch_size:,} does not fit the {self.rows:,} images in {source.name}; "
                f"choose one from 1 to {self.rows:,}"
            )
        if window < 1:
            raise ShardError(f"window is {window}; expected at least 1 block")
        if not 0 <= rank < world or batch_size % world:
            raise ShardError(
                f"rank {rank} of {world} cannot share batches of {batch_size:,}; "
                f"expected a rank below the number of ranks, and a batch size that it divides"
            )
        if tail == "short" and world > 1:
            raise ShardError(f"tail 'short' would give {world} ranks batches of different sizes; expected drop or wrap")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self.batch >= self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
        batch = self.read(self.epoch, self.batch)
        self.batch += 1
        return batch

    @property
    def batches_per_epoch(self) -> int:
        """Batches of the current mask's epoch, the same on every rank."""
        return self._left // self._batch_size if self._tail == "drop" else -(-self._left // self._batch_size)

    @property
    def damage(self) -> Damage:
        """What was passed over so far."""
        return self.source.damage if isinstance(self.source, Skipping) else Damage(blocks={}, images=0, of=self.rows)

    def one_epoch(self) -> Iterator[Batch]:
        """The batches of the current epoch from the start; the stream's own position does not move."""
        epoch = self.epoch
        return (self.read(epoch, number) for number in range(self.batches_per_epoch))

    def in_stored_order(self, batch_size: int) -> Iterator[Batch]:
        """All rows, whatever the mask and the rank, as they are stored; the stream's own position does not move."""
        order = Order(id="", counts=self.source.counts, seed=0, window=self._order.window, shuffle=False).epoch(0)
        for start in range(0, self.rows, batch_size):
            pieces = order.pieces(start, min(start + batch_size, self.rows))
            found = [self._held.take(order, piece, view=0) for piece in pieces]
            yield Batch(*(found[0] if len(found) == 1 else _joined(found)))

    def narrow(self, mask: NDArray[np.bool_] | None) -> None:
        """Leave out, from here on, the rows that ``mask`` (rows in stored order) has false; None takes all again.

        Meant for the start of an epoch: within one the order changes. Raises `ShardError` if not one batch is left.
        """
        if mask is not None and (mask.shape != (self.rows,) or mask.dtype != np.bool_):
            raise ShardError(
                f"the mask is {mask.dtype} {mask.shape}; expected bool ({self.rows},), a row for each image"
            )
        left = self.rows if mask is None else int(mask.sum())
        if left < (self._batch_size if self._tail == "drop" else 1):
            raise ShardError(
                f"the mask leaves {left:,} of {self.rows:,} images in {self.source.name}, less than a batch of "
                f"{self._batch_size:,}"
            )
        self._mask, self._left, self._plan = None if mask is None else mask.copy(), left, None
        self._mask_hash = None if mask is None else xxhash.xxh3_128_hexdigest(np.packbits(mask).tobytes())

    def state(self) -> dict[str, Any]:
        """Where the stream is: a few plain values, JSON-ready, whatever the size of the set."""
        return {**self._identity(), "epoch": self.epoch, "batch": self.batch}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, saved by any number of ranks; raises `StreamStateError` if it is of another stream."""
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                raise StreamStateError(
                    f"cannot resume: {name} was {state.get(name)!r} when the run was saved and is {mine!r} now; "
                    f"use the same one, or start a new run"
                )
        epoch, batch = state.get("epoch"), state.get("batch")
        if not (isinstance(epoch, int) and isinstance(batch, int) and epoch >= 0 <= batch <= self.batches_per_epoch):
            raise StreamStateError(
                f"cannot resume: the saved state is at epoch {epoch!r}, batch {batch!r}; expected whole numbers, and a "
                f"batch up to {self.batches_per_epoch:,}; start a new run"
            )
        self.epoch, self.batch = epoch, batch

    def _identity(self) -> dict[str, Any]:
        return {**self.source.identity, **self._settings, "mask": self._mask_hash}

    def read(self, epoch: int, batch: int) -> Batch:
        """This rank's slice of batch number ``batch`` of ``epoch``."""
        plan, view = self._epoch(epoch), self.view_of(epoch)
        pieces = [self._held.take(plan, piece, view=view) for piece in plan.pieces(*self._slice(plan, batch))]
        return Batch(*(pieces[0] if len(pieces) == 1 else _joined(pieces)))

    def rows_of(self, epoch: int, batch: int) -> NDArray[np.int64]:
        """The stored row numbers of what `read` would hand out."""
        plan = self._epoch(epoch)
        return np.concatenate([piece.rows for piece in plan.pieces(*self._slice(plan, batch))])

    def view_of(self, epoch: int) -> int:
        """The augmented view whose logits an epoch hands out, for a set that carries `views` of them."""
        return epoch % self.views if self.views else 0

    def _slice(self, plan: Epoch, batch: int) -> tuple[int, int]:
        """First and last position of this rank's share of a batch."""
        share = self._batch_size // self._world
        start = batch * self._batch_size + self._rank * share
        return start, min(start + share, plan.rows) if self._tail == "short" else start + share

    def _epoch(self, epoch: int) -> Epoch:
        if self._plan is None or self._plan.number != epoch:
            self._plan = self._order.epoch(epoch, self._mask)
        return self._plan


def _joined(pieces: list[Rows]) -> Rows:
    logits = [piece.logits_BK for piece in pieces if piece.logits_BK is not None]
    return Rows(
        np.concatenate([piece.images_BCHW for piece in pieces]),
        np.concatenate([piece.keys for piece in pieces]),
        np.concatenate([piece.labels for piece in pieces]),
        np.concatenate(logits) if logits else None,
    )
