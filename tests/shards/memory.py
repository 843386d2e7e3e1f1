"""A source whose blocks lie in memory: of any sizes, raw or encoded, with the logits of any number of views."""

from collections.abc import Sequence

import numpy as np
import xxhash

from shards.codec import Encoded
from shards.layout import KEY_DTYPE, Block
from shards.stream import Batch

CLASSES = 3
SIZE = 2  # px


class Memory:
    """Row n is named n, labelled n, made of pixels that no other has, and has logits 10 n + view."""

    name = "a set in memory"
    workers = 2
    size = SIZE

    def __init__(self, counts: Sequence[int], *, id: str = "0" * 32, encoded: bool = False, views: int = 0) -> None:
        self.counts = np.array(counts, np.int64)
        self.identity = {"id": id, "split": "train"}
        self.views = views
        self._encoded = encoded
        self._firsts = np.cumsum(self.counts) - self.counts

    def read(self, block: int) -> Block:
        rows = self._firsts[block] + np.arange(self.counts[block])
        keys = np.array([b"%032x" % row for row in rows.tolist()], KEY_DTYPE)
        images_NCHW = np.frombuffer(b"".join(xxhash.xxh3_128_digest(key) for key in keys), np.uint8)
        images_NCHW = images_NCHW.reshape(-1, 16)[:, : 3 * SIZE * SIZE].reshape(-1, 3, SIZE, SIZE)
        logits_NV = 10 * rows[:, None] + np.arange(self.views)
        return Block(
            images=Encoded.of(images_NCHW) if self._encoded else images_NCHW,
            keys=keys,
            labels=rows.astype(np.int32),
            logits_NVK=np.stack([logits_NV] * CLASSES, axis=-1).astype(np.float16) if self.views else None,
        )


def digest(*shares: Batch) -> str:
    """Hash of all that the ranks' shares of one batch hold, put together in the order of the ranks."""
    found = xxhash.xxh3_128()
    for arrays in zip(*shares, strict=True):
        found.update(b"".join(b"" if array is None else array.tobytes() for array in arrays))
    return found.hexdigest()
