"""Images above 64 px as blocks hold them: PNG after PNG in one blob; only those asked for are decoded, in threads."""

import io
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.errors import BlockDamaged

DEFLATE_MAX = 1032
"""bytes out of one: no DEFLATE stream, so no PNG, holds more (zlib's technical notes)"""

_Out = TypeVar("_Out")


class Encoded:
    """N images (3, H, W) of one size, losslessly encoded."""

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        """``blob`` is all images' bytes, ``offsets`` (N + 1,) where each begins, and the end.

        ValueError if they do not fit.
        """
        ends = offsets.tolist() if offsets.dtype == np.int64 and offsets.ndim == 1 else []
        bytes_ = blob.dtype == np.uint8 and blob.ndim == 1
        if not bytes_ or ends != sorted(ends) or ends[:1] != [0] or ends[-1:] != [len(blob)]:
            raise ValueError("not a block: the offsets of its images do not fit their bytes")
        self.blob, self.offsets = blob, offsets

    @classmethod
    def of(cls, images_NCHW: NDArray[np.uint8]) -> Self:
        """Encode pixels."""
        return cls.joined(_in_threads(_encoded, images_NCHW))  # it costs more than decoding the photograph did

    @classmethod
    def joined(cls, images: Sequence[bytes | memoryview]) -> Self:
        """Of images that are encoded already."""
        offsets = np.cumsum([0, *map(len, images)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(images), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def size(self) -> int:
        """Width in px, as the first image's header says; decoding holds all to it.

        `BlockDamaged` if there is none, or if so many pixels cannot be in these bytes.
        """
        header = self.blob[: self.offsets[1]][16:20].tobytes()  # after the signature, and the chunk's length and name
        if len(header) < 4:
            raise BlockDamaged("a stored image cannot be decoded (it has no header); `shards verify` says where")
        size = int.from_bytes(header, "big")
        if 3 * size**2 * len(self) > DEFLATE_MAX * len(self.blob):
            raise BlockDamaged(
                f"{len(self):,} stored images of {size:,} px cannot be in {len(self.blob):,} bytes; "
                "`shards verify` says where"
            )
        return size

    def encoded(self) -> list[memoryview]:
        """The bytes of each image."""
        blob = self.blob.data
        return [blob[start:end] for start, end in itertools.pairwise(self.offsets.tolist())]

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Some of the images, as they are."""
        every = self.encoded()
        return self.joined([every[row] for row in rows.tolist()])

    def pixels(self) -> NDArray[np.uint8]:
        """All images, (N, 3, H, W); `BlockDamaged` if one cannot be decoded."""
        return decode_images(self.encoded(), size=self.size)


def decode_images(images: Sequence[bytes | memoryview], *, size: int) -> NDArray[np.uint8]:
    """Pixels (N, 3, size, size) of encoded images; `BlockDamaged` if one cannot be decoded, or is of another size."""
    return np.stack(_in_threads(partial(_decoded, size=size), images))


def _encoded(image_CHW: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # here: sets of small images never need a codec

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0))).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _decoded(data: bytes | memoryview, *, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if (image.mode, image.size) == ("RGB", (size, size)):  # known before its pixels take memory
            return np.asarray(image).transpose(2, 0, 1)
    except Exception as error:  # on damaged bytes Pillow's plugins raise anything
        raise BlockDamaged(f"a stored image cannot be decoded ({error}); `shards verify` says where") from error
    raise BlockDamaged(
        f"a stored image is {image.mode}, {image.width} x {image.height} px, expected RGB, {size} x {size} px; "
        "`shards verify` says where"
    )


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="codec")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork: a loader's worker makes its own


def _in_threads(work: Callable[[Any], _Out], items: Iterable[Any]) -> list[_Out]:
    return list(_pool().map(work, items))
