"""Images above 64 px as blocks hold them: PNG after PNG in one blob; only those asked for are decoded, in threads."""

import io
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.errors import BlockDamaged

_Out = TypeVar("_Out")


class Encoded:
    """N images (3, H, W) of one size, losslessly encoded."""

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        """``blob`` is all images' bytes, ``offsets`` (N + 1,) where each begins, and the end.

        ValueError if they do not fit.
        """
        ends = offsets.tolist() if offsets.dtype == np.int64 and offsets.ndim == 1 else []
        if blob.dtype != np.uint8 or ends != sorted(ends) or ends[:1] != [0] or ends[-1:] != [len(blob)]:
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

    def encoded(self) -> list[memoryview]:
        """The bytes of each image."""
        blob = self.blob.data
        return [blob[start:end] for start, end in itertools.pairwise(self.offsets.tolist())]

    def pixels(self) -> NDArray[np.uint8]:
        """All images, (N, 3, H, W); `BlockDamaged` if one cannot be decoded."""
        return decode_images(self.encoded())


def decode_images(images: Sequence[bytes | memoryview]) -> NDArray[np.uint8]:
    """Pixels (N, 3, H, W) of encoded images; `BlockDamaged` if one cannot be decoded."""
    found = _in_threads(_decoded, images)
    if len({image.shape for image in found}) > 1:
        raise BlockDamaged("stored images differ in size; `shards verify` says where")
    return np.stack(found)


def _encoded(image_CHW: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # here: sets of small images never need a codec

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0))).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _decoded(data: bytes | memoryview) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",))).transpose(2, 0, 1)
    except Exception as error:  # on damaged bytes Pillow's plugins raise anything
        raise BlockDamaged(f"a stored image cannot be decoded ({error}); `shards verify` says where") from error


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="codec")


def _in_threads(work: Callable[[Any], _Out], items: Iterable[Any]) -> list[_Out]:
    return list(_pool().map(work, items))
