"""A set as `torch.utils.data` wants one, for anybody's loop: whole batches that resume, or rows for a sampler.

Both hand out plain dictionaries: `image` uint8, `key`, `label` (-1 unknown), and `logits` where the set carries them;
`default_collate` over rows gives what a batch is. Images are as they are stored: cropping and normalising are yours.
Both take any address that `open_source` does. Tars of samples need the ``size`` (px) at which to read them; without a
``split`` all is read, held-out images too.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from shards.codec import Encoded
from shards.damage import guarded
from shards.errors import ShardError
from shards.layout import Block
from shards.order import WINDOW
from shards.sources.base import Source
from shards.sources.open import Address, open_source
from shards.stream import Batch, Stream, Tail

Example = dict[str, Any]
"""`image` (C, H, W) or (B, C, H, W), `key`, `label`, perhaps `logits` (K,) or (B, K)"""

CACHED = 64
"""blocks that a map-style set keeps: 50 MB at 32 px"""


class _Opened:
    """A source that is pickled as where it is, and opened when it is wanted there; a forked process has it open."""

    def __init__(self, address: Address, *, split: str | None, size: int | None) -> None:
        self._address, self._split, self._size = address, split, size
        self._source: Source | None = self._open()
        self._identity = dict(self._source.identity)

    def _open(self) -> Source:
        return guarded(open_source(self._address, split=self._split, size=self._size), "refuse", budget=0)

    @property
    def source(self) -> Source:
        """The blocks; `ShardError` if there is another set than there was."""
        if self._source is None:
            found = self._open()
            if found.identity != self._identity:
                raise ShardError(
                    f"{self._address} was set {self._identity['id']} when it was opened and is "
                    f"{found.identity['id']} now; leave a set as it is while it is read"
                )
            self._source = found
        return self._source

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}


class IterableShards(IterableDataset[Example]):
    """Batches in stream order, for ``DataLoader(shards, batch_size=None, num_workers=W)``.

    Worker w computes the batches w, w + W, ..., so the loader's round robin gives the one order whatever W is.
    Iterating gives the rest of the current epoch. Loop over `counted(loader)`, and `state_dict` knows what was
    delivered, not what is under way. Every rank gets its slice of each batch of ``batch_size``, which counts all ranks
    together; ``rank`` and ``world`` are those of `torch.distributed` unless given.
    """

    def __init__(
        self,
        address: Address,
        *,
        batch_size: int,
        split: str | None = None,
        size: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        tail: Tail = "drop",
        window: int = WINDOW,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        rank, world = _ranks(rank, world)
        self._opened = _Opened(address, split=split, size=size)
        self._options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "tail": tail}
        self._options |= {"window": window, "rank": rank, "world": world}
        self._kept: Stream | None = None
        self._batches = self._reckoning().batches_per_epoch
        self._delivered = 0
        # Epoch and batch where iterating begins: shared, for workers that persist are copies made in the first epoch.
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return self._batches

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        stream = self._stream()  # its own: threads do not survive a fork
        epoch, start = self._start.tolist()
        for number in range(start + first, self._batches, step):
            yield _example(stream.read(epoch, number))

    def counted(self, batches: Iterable[Any]) -> Iterator[Any]:
        """What ``batches``, a loader of this set or the set itself, gives; each is counted when it is delivered."""
        epoch, start = int(self._start[0]), self._delivered
        self._go_to(epoch, start)
        for self._delivered, batch in enumerate(batches, start + 1):
            yield batch
        self._go_to(epoch + 1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; in the one that is under way nothing moves, so that a resumed loop may ask."""
        if epoch != int(self._start[0]):
            self._go_to(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is after what `counted` delivered: a few plain values, those of `Stream.state`."""
        stream = self._reckoning()
        stream.epoch, stream.batch = int(self._start[0]), self._delivered
        return stream.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, saved with any number of ranks and workers; `StreamStateError` for another stream's."""
        stream = self._reckoning()
        stream.load_state(state)
        self._go_to(stream.epoch, stream.batch)

    def _go_to(self, epoch: int, batch: int) -> None:
        self._delivered = batch
        self._start.copy_(torch.tensor([epoch, batch]))

    def _stream(self) -> Stream:
        return Stream(self._opened.source, **self._options)

    def _reckoning(self) -> Stream:
        """A stream that nothing is read from: to make one looks at every shard, too long for the state of a batch."""
        if self._kept is None:
            self._kept = self._stream()
        return self._kept

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


class MapShards(Dataset[Example]):
    """Rows in stored order, for any sampler; a batch that a loader asks for reads each of its blocks once.

    A block is read and checked whole, so a sampler that draws rows from everywhere reads far more than it hands out:
    the last ``cached`` blocks are kept. ``view`` chooses among the teacher's logits, where the set carries several.
    """

    def __init__(
        self,
        address: Address,
        *,
        split: str | None = None,
        size: int | None = None,
        view: int = 0,
        cached: int = CACHED,
    ) -> None:
        self._opened = _Opened(address, split=split, size=size)
        source = self._opened.source
        if not 0 <= view < max(1, source.views):
            raise ShardError(f"view is {view}; {source.name} carries the logits of {source.views} views of each image")
        self._view, self._cached = view, cached
        self._ends = np.cumsum(source.counts)
        self._kept: Callable[[int], Block] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> Example:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Example]:
        """Several rows at once, as a loader asks for them."""
        numbers = np.asarray(rows, np.int64)
        if wrong := [row for row in rows if not -len(self) <= row < len(self)]:
            raise IndexError(f"row {wrong[0]} of {len(self):,}")
        numbers %= len(self)
        blocks = np.searchsorted(self._ends, numbers, side="right")
        found: dict[int, Example] = {}
        for block in np.unique(blocks).tolist():
            places = np.flatnonzero(blocks == block)
            last = int(self._ends[block])
            read = self._block(block)
            found |= zip(places.tolist(), self._examples(read, numbers[places] - last + len(read)), strict=True)
        return [found[place] for place in range(len(rows))]

    def _block(self, number: int) -> Block:
        if self._kept is None:
            self._kept = lru_cache(self._cached)(self._opened.source.read)
        return self._kept(number)

    def _examples(self, block: Block, at: NDArray[np.int64]) -> Iterator[Example]:
        images = block.images
        images_BCHW = images.take(at).pixels() if isinstance(images, Encoded) else images[at]
        for image_CHW, row in zip(torch.from_numpy(images_BCHW), at.tolist(), strict=True):
            example = {"image": image_CHW, "key": block.keys[row].decode(), "label": int(block.labels[row])}
            if block.logits_NVK is not None:
                example["logits"] = torch.from_numpy(block.logits_NVK[row, self._view].copy())
            yield example

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def _example(batch: Batch) -> Example:
    """A batch as `default_collate` would make it of its rows."""
    example = {
        "image": torch.from_numpy(batch.images_BCHW),
        "key": [key.decode() for key in batch.keys.tolist()],
        "label": torch.from_numpy(batch.labels.astype(np.int64)),
    }
    return example if batch.logits_BK is None else {**example, "logits": torch.from_numpy(batch.logits_BK)}


def _ranks(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and number of ranks: given, else those of `torch.distributed`; never one of several by mistake."""
    if (rank is None) != (world is None):
        raise ShardError(f"rank is {rank} and world is {world}; expected both or neither")
    if rank is not None and world is not None:
        return rank, world
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if (several := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ShardError(
            f"WORLD_SIZE is {several} but torch.distributed is not initialised yet, so every rank would see the same "
            f"images; initialise it first, or pass rank= and world="
        )
    return 0, 1
