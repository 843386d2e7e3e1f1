"""Batches on the device: read, pinned and copied on a stream of their own while the step before computes."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.errors import ShardError
from shards.hold import fits_in_memory
from shards.layout import KEY_DTYPE, Block
from shards.sources.base import Source
from shards.stream import Batch, Stream

AHEAD = 4  # batches under way beside the one asked for: a method that wants six a step finds most of them there

Labels = Callable[[Batch], Tensor]
"""class numbers (B,) of a batch, for labelled data"""

Residence = Literal["auto", "device", "memory", "window"]
"""where a set's pixels lie while it is streamed: all on the device, all in memory, or two windows of blocks"""


@dataclass(frozen=True, kw_only=True)
class RealBatch:
    """Images from the stream, on the device."""

    images_BCHW: Tensor
    """uint8"""
    keys: NDArray[np.bytes_]
    labels_B: Tensor | None
    """int64 class numbers, for labelled data only"""
    logits_BK: Tensor | None = None
    """float16: the teacher's, of view `epoch` modulo the set's views, where the set carries them"""
    epoch: int


class _Delivery(NamedTuple):
    batch: RealBatch
    copied: torch.cuda.Event | None


class Feed:
    """Batches in stream order; the stream's own position is that of the last batch handed out, never of one ahead.

    One thread reads. On CUDA it copies from pinned memory on a stream of its own, and the device waits for the copy,
    not the host. With ``resident`` all images are copied there once, and batches are gathered there.
    ``past_the_epoch`` false: nothing of the next epoch is read before it is asked for, because a mask may come first.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        device: torch.device,
        labels: Labels | None = None,
        resident: bool = False,
        past_the_epoch: bool = True,
    ) -> None:
        self.stream, self._device, self._labels, self._past = stream, device, labels, past_the_epoch
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._reader = ThreadPoolExecutor(1)
        self._there = OnDevice(stream.source, device) if resident else None
        if self._side:  # what the other stream still copies there is not read before it has
            self._side.wait_stream(torch.cuda.current_stream(device))
        self._under_way: deque[tuple[int, int, Future[_Delivery]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Read no further."""
        self._reader.shutdown(cancel_futures=True)

    def take(self) -> RealBatch:
        """The next batch; raises what reading it raised."""
        wanted = self._next(self.stream.epoch, self.stream.batch)
        if self._under_way and self._under_way[0][:2] != wanted:
            for *_, stale in self._under_way:  # the stream was set elsewhere since
                stale.cancel()
            self._under_way.clear()
        while len(self._under_way) <= AHEAD:
            at = self._next(*self._last()) if self._under_way else wanted
            if at[0] != wanted[0] and not self._past:
                break
            self._under_way.append((*at, self._reader.submit(self._deliver, *at)))
        epoch, batch, coming = self._under_way.popleft()
        found = coming.result()
        self.stream.epoch, self.stream.batch = epoch, batch + 1
        if found.copied is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(found.copied)
            for tensor in (found.batch.images_BCHW, found.batch.labels_B, found.batch.logits_BK):
                if tensor is not None:
                    tensor.record_stream(here)  # its memory is not reused before the step has read it
        return found.batch

    def _last(self) -> tuple[int, int]:
        epoch, batch, _ = self._under_way[-1]
        return epoch, batch + 1

    def _next(self, epoch: int, batch: int) -> tuple[int, int]:
        return (epoch, batch) if batch < self.stream.batches_per_epoch else (epoch + 1, 0)

    def _deliver(self, epoch: int, number: int) -> _Delivery:
        with torch.cuda.stream(self._side):  # does nothing without CUDA
            if self._there is None:
                batch = self.stream.read(epoch, number)
                images_BCHW = self._copy(torch.from_numpy(batch.images_BCHW))
                logits_BK = None if batch.logits_BK is None else self._copy(torch.from_numpy(batch.logits_BK))
            else:
                rows, view = self.stream.rows_of(epoch, number), self.stream.view_of(epoch)
                batch, images_BCHW, logits_BK = self._there.take(rows, self._copy(torch.from_numpy(rows)), view=view)
            real = RealBatch(
                images_BCHW=images_BCHW,
                keys=batch.keys,
                labels_B=self._copy(self._labels(batch)) if self._labels else None,
                logits_BK=logits_BK,
                epoch=epoch,
            )
            return _Delivery(real, self._side.record_event() if self._side else None)

    def _copy(self, tensor: Tensor) -> Tensor:
        if self._side is None:
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


class OnDevice:
    """All images of a source on the device, their keys and labels in memory."""

    def __init__(self, source: Source, device: torch.device) -> None:
        rows, size = int(source.counts.sum()), source.size
        self._images_NCHW = torch.empty((rows, 3, size, size), dtype=torch.uint8, device=device)
        self._logits_NVK: Tensor | None = None
        self._keys, self._labels = np.empty(rows, KEY_DTYPE), np.empty(rows, np.int32)
        start = 0
        for block in _in_turn(source):
            here = slice(start, start + len(block))
            self._images_NCHW[here] = torch.from_numpy(block.images_NCHW).to(device)
            self._keys[here], self._labels[here] = block.keys, block.labels
            if block.logits_NVK is not None:
                logits_NVK = torch.from_numpy(block.logits_NVK).to(device)
                if self._logits_NVK is None:
                    self._logits_NVK = logits_NVK.new_empty((rows, *logits_NVK.shape[1:]))
                self._logits_NVK[here] = logits_NVK
            start = here.stop

    def take(self, rows: NDArray[np.int64], there_B: Tensor, *, view: int) -> tuple[Batch, Tensor, Tensor | None]:
        """Keys and labels of some rows, whose images and logits are gathered on the device, where ``there_B`` is."""
        known = Batch(np.empty((0, 3, 0, 0), np.uint8), self._keys[rows], self._labels[rows])
        logits_BK = None if self._logits_NVK is None else self._logits_NVK[there_B, view]
        return known, self._images_NCHW[there_B], logits_BK


def _in_turn(source: Source) -> Iterator[Block]:
    """All blocks, read by the source's workers: never more of them at once than there are workers."""
    with ThreadPoolExecutor(source.workers) as pool:
        for first in range(0, len(source.counts), source.workers):
            yield from pool.map(source.read, range(first, min(first + source.workers, len(source.counts))))


def choose_residence(asked: str, source: Source, device: torch.device) -> Residence:
    """Where the pixels of a set shall lie: `auto` is the device or the memory if they take at most a quarter of it.

    Raises `ShardError` for a word that is none of `Residence`.
    """
    for known in get_args(Residence):
        if asked == known != "auto":
            return known  # type: ignore[no-any-return]  # one of the Literal's own values
    if asked != "auto":
        raise ShardError(f"resident is {asked!r}; expected one of {', '.join(get_args(Residence))}")
    if (
        device.type == "cuda"
        and int(source.counts.sum()) * 3 * source.size**2 <= torch.cuda.mem_get_info(device)[0] // 4
    ):
        return "device"
    return "memory" if fits_in_memory(source) else "window"
