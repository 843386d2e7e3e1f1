"""Feed: the stream's batches on the device, read and copied there while the step before computes."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from distill.methods.base import RealBatch
from shards.stream import Batch, Stream

AHEAD = 4  # batches under way beside the one asked for: a method that wants six a step finds most of them there

Labels = Callable[[Batch], Tensor]
"""class numbers (B,) of a batch, for labelled data"""


class _Delivery(NamedTuple):
    batch: RealBatch
    copied: torch.cuda.Event | None


class Feed:
    """Batches in stream order; the stream's own position is that of the last batch handed out, never of one ahead.

    One thread reads. On CUDA it copies from pinned memory on a stream of its own, and the device waits for the copy,
    not the host.
    """

    def __init__(self, stream: Stream, *, device: torch.device, labels: Labels | None = None) -> None:
        self._stream, self._device, self._labels = stream, device, labels
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._reader = ThreadPoolExecutor(1)
        self._ahead = (stream.epoch, stream.batch)  # position of the next batch to be asked for
        self._under_way: deque[tuple[int, int, Future[_Delivery]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.shutdown(cancel_futures=True)

    def take(self) -> RealBatch:
        """The next batch; raises what reading it raised."""
        while len(self._under_way) <= AHEAD:
            epoch, batch = self._ahead
            if batch >= self._stream.batches_per_epoch:
                epoch, batch = epoch + 1, 0
            self._under_way.append((epoch, batch, self._reader.submit(self._deliver, epoch, batch)))
            self._ahead = epoch, batch + 1
        epoch, batch, coming = self._under_way.popleft()
        found = coming.result()
        self._stream.epoch, self._stream.batch = epoch, batch + 1
        if found.copied is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(found.copied)
            found.batch.images_BCHW.record_stream(here)  # its memory is not reused before the step has read it
            if found.batch.labels_B is not None:
                found.batch.labels_B.record_stream(here)
        return found.batch

    def _deliver(self, epoch: int, number: int) -> _Delivery:
        batch = self._stream.read(epoch, number)
        labels_B = self._labels(batch) if self._labels else None
        with torch.cuda.stream(self._side):  # does nothing without CUDA
            real = RealBatch(
                images_BCHW=self._copy(torch.from_numpy(batch.images_BCHW)),
                keys=batch.keys,
                labels_B=self._copy(labels_B) if labels_B is not None else None,
                epoch=epoch,
            )
            return _Delivery(real, self._side.record_event() if self._side else None)

    def _copy(self, tensor: Tensor) -> Tensor:
        if self._side is None:
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
