"""Pixels to image files: PNG and WebP without loss, JPEG with, as it says."""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.codec import Encoded
from shards.errors import ShardError
from shards.layout import Block

LOSSLESS = {"png": True, "webp": True, "jpg": False}
"""the kinds of image files, and whether they keep the pixels"""
QUALITY = 95
"""of JPEG, unless given: a step below where its files grow fast"""


class Encoder:
    """Image files of one kind, in threads."""

    def __init__(self, kind: str, quality: int | None) -> None:
        if kind not in LOSSLESS:
            raise ShardError(f"--image is {kind!r}; expected one of {', '.join(LOSSLESS)}")
        if quality is not None and LOSSLESS[kind]:
            raise ShardError(f"--quality {quality} is for --image jpg; {kind} is written without loss")
        if quality is not None and not 1 <= quality <= 100:
            raise ShardError(f"--quality is {quality}; expected 1 to 100")
        self.kind = kind
        self.quality = None if LOSSLESS[kind] else quality or QUALITY
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def encode(self, block: Block, rows: slice) -> list[bytes]:
        """The files of some images; those that are stored as PNG are taken as they are where PNG is asked for."""
        if isinstance(block.images, Encoded):
            if self.kind == "png":
                return [bytes(image) for image in block.images.encoded()[rows]]
            images_NCHW = block.images.take(np.arange(len(block))[rows]).pixels()
        else:
            images_NCHW = block.images[rows]
        return list(self._pool.map(self._writer(), images_NCHW))

    def _writer(self) -> Callable[[NDArray[np.uint8]], bytes]:
        from PIL import Image  # here: `--help` needs no codec

        every: dict[str, dict[str, Any]] = {
            "png": {"format": "PNG", "compress_level": 3},
            "webp": {"format": "WEBP", "lossless": True, "quality": 50},  # of a lossless file: the effort
            "jpg": {"format": "JPEG", "quality": self.quality, "subsampling": 0},
        }
        options = every[self.kind]

        def write(image_CHW: NDArray[np.uint8]) -> bytes:
            out = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0))).save(out, **options)
            return out.getvalue()

        return write
