"""Foreign bytes to stored pixels: decode, turn upright, convert to RGB, resize. The one place that does."""

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MIN_SIDE = 4
"""px; below this a picture is no picture (scikit-learn's digits have 8)"""
MAX_PIXELS = 100_000_000
"""declared width x height; beyond it a file is a bomb or a map, not a photograph (Pillow warns at 89 M)"""


class Undecodable(Exception):
    """Why one sample could not be used: its manifest status and one line."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How a source image becomes stored pixels: antialiased resize of the short side, then a centre crop."""

    size: int
    """px"""

    @property
    def spec(self) -> str:
        """The rule in words, as manifests record it."""
        return f"rgb; short side to {self.size} px (Pillow bilinear, antialiased); centre crop {self.size}x{self.size}"

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """uint8 (3, size, size)."""
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        if (width, height) != (self.size, self.size):
            box = (left, top, left + side, top + side)
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def decode(data: bytes | NDArray[np.uint8], transform: Transform) -> tuple[NDArray[np.uint8], int, int]:
    """Stored pixels (3, size, size) and the source's width and height; raises `Undecodable`."""
    try:
        image = _open(data)
        width, height = image.size
        if min(width, height) < MIN_SIDE:
            raise Undecodable("too_small", f"{width}x{height} px, less than {MIN_SIDE} a side")
        if width * height > MAX_PIXELS:
            raise Undecodable("too_large", f"{width}x{height} px declared, more than {MAX_PIXELS:,} in all")
        return transform(_rgb(image)), width, height
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, TypeError, KeyError) as error:
        raise Undecodable("decode_error", _reason(error, data)) from None


def _open(data: bytes | NDArray[np.uint8]) -> Image.Image:
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    return Image.open(io.BytesIO(data))


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a channel: Pillow's own conversion would clip
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.format in {"JPEG", "TIFF"}:
        image = ImageOps.exif_transpose(image)
    if image.mode == "P" or "A" in image.mode:  # a palette may hold transparency; over black, like a missing pixel
        backed: Any = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.Image.convert(Image.alpha_composite(backed, image.convert("RGBA")), "RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(error: Exception, data: bytes | NDArray[np.uint8]) -> str:
    if isinstance(data, bytes) and not data:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return " ".join(str(error).split())[:200] or type(error).__name__
