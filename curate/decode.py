"""Foreign bytes to stored pixels: decode, turn upright, convert to RGB, resize. The one place that does."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""what is decoded, by what the bytes say; no others, for Pillow would run Ghostscript on an EPS"""
MIN_SIDE = 4
"""px; below this a picture is no picture (scikit-learn's digits have 8)"""
MAX_PIXELS = 89_478_485
"""declared width x height; beyond it a file is a bomb or a map, not a photograph (Pillow's own bound, 2^30 / 12)"""
TOO_LARGE = f"more than {MAX_PIXELS:,} px declared"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings to itself: what is wrong with a sample is told by its status.

    Filters belong to the process, not to a thread, so this is entered once, around all decoding.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


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
    """Stored pixels (3, size, size), and the width and height of the upright source; raises `Undecodable`."""
    try:
        image = _open(data)
        _check_size(*image.size)  # before the first pixel is decoded
        image = _rgb(image)
        return transform(image), *image.size
    except Undecodable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Undecodable("too_large", TOO_LARGE) from None
    except Exception as error:  # noqa: BLE001  # on damaged bytes Pillow's plugins raise anything
        raise Undecodable("decode_error", _reason(error, data)) from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Undecodable("too_large", TOO_LARGE)
    if min(width, height) < MIN_SIDE:
        raise Undecodable("too_small", f"{width}x{height} px, less than {MIN_SIDE} a side")


def _open(data: bytes | NDArray[np.uint8]) -> Image.Image:
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _rgb(image: Image.Image) -> Image.Image:
    """Decode: the first frame, upright, RGB; what is transparent lies over black, like a missing pixel."""
    image.load()
    with contextlib.suppress(Exception):  # pixels are good even where the EXIF is not
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits a channel: Pillow's own conversion would clip
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        backed = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(backed, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(error: Exception, data: bytes | NDArray[np.uint8]) -> str:
    if isinstance(data, bytes) and not data:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return " ".join(str(error).split())[:200] or type(error).__name__
