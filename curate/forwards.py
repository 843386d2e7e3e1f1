"""Blocks through a teacher: batches of one shape, each on one thread of its own.

So the numbers do not depend on how many threads there are, at the same speed (benchmarks/score.py).
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from shards.layout import Block, block_rows

_Out = TypeVar("_Out")
Look = Callable[[torch.Tensor, Block], _Out]
"""what is asked of the images of a block, uint8 on the device, padded with black ones to the number of a full block"""


def look_at(
    blocks: Iterable[Block], look: Look[_Out], *, size: int, device: torch.device, threads: int | None
) -> Iterator[tuple[Block, _Out]]:
    """Blocks of images of ``size`` px, each with what ``look`` found, in order."""
    rows = block_rows(size)
    workers = (threads or os.cpu_count() or 1) if device.type == "cpu" else 1

    def one(block: Block) -> tuple[Block, _Out]:
        images_BCHW = torch.from_numpy(_padded(block.images_NCHW, rows))
        if device.type == "cuda":
            images_BCHW = images_BCHW.pin_memory().to(device, non_blocking=True)
        with torch.inference_mode():
            return block, look(images_BCHW, block)

    threads_before = torch.get_num_threads()
    under_way: deque[Future[tuple[Block, _Out]]] = deque()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for block in blocks:
                    under_way.append(pool.submit(one, block))
                    if len(under_way) > 2 * workers:
                        yield under_way.popleft().result()
                while under_way:
                    yield under_way.popleft().result()
            finally:  # the pool waits for what has begun; whoever stops here should wait for no more
                for batch in under_way:
                    batch.cancel()
    finally:
        torch.set_num_threads(threads_before)


def _padded(images_NCHW: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """Every batch has the same shape, so that every image is computed the same way."""
    missing = rows - len(images_NCHW)
    return images_NCHW if not missing else np.pad(images_NCHW, ((0, missing), (0, 0), (0, 0), (0, 0)))
