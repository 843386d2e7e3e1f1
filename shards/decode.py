"""Foreign bytes to stored pixels: decode, turn upright, convert to RGB, resize. The one place that does."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.errors import ShardError

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
class Resize:
    """One resize rule: what it does in words, and how."""

    words: str
    """for manifests; `{size}` is the stored size, `{short}` the short side before the crop, in px"""
    filter: Image.Resampling
    short: float | None = 1.0
    """the short side before the centre crop, as a multiple of the stored size; None squashes the whole image"""

    def __call__(self, image: Image.Image, size: int) -> Image.Image:
        """``image`` as ``size`` x ``size`` px."""
        width, height = image.size
        side = min(width, height)
        if self.short is None:
            return image.resize((size, size), self.filter)
        if self.short == 1:  # crop and resize in one: no pixel of the whole is computed in vain
            left, top = (width - side) / 2, (height - side) / 2
            return image.resize((size, size), self.filter, box=(left, top, left + side, top + side))
        short = self.pixels(size)
        width, height = short * width // side, short * height // side
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.resize((width, height), self.filter).crop((left, top, left + size, top + size))

    def pixels(self, size: int) -> int:
        """The short side before the crop, px."""
        return round(size * (self.short or 1))


RESIZE = {
    "antialias": Resize(
        words="short side to {size} px (Pillow bilinear, antialiased); centre crop {size}x{size}",
        filter=Image.Resampling.BILINEAR,
    ),
    "box": Resize(
        words="short side to {size} px (Pillow box: mean of the area); centre crop {size}x{size}",
        filter=Image.Resampling.BOX,
    ),
    "plain": Resize(
        words="whole image to {size}x{size} px (Pillow bilinear, antialiased), its shape not kept",
        filter=Image.Resampling.BILINEAR,
        short=None,
    ),
    "imagenet": Resize(
        words="short side to {short} px (Pillow bilinear, antialiased); centre crop {size}x{size}; "
        "what has {size}x{size} px as it is",
        filter=Image.Resampling.BILINEAR,
        short=1 / 0.875,
    ),
}
"""the resize rules by name; `imagenet` is torchvision's evaluation of ImageNet classifiers (224 px of 256)"""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How a source image becomes stored pixels, by the rule ``resize``; what has that size already keeps every pixel.

    Raises `ShardError` for a rule that is not in `RESIZE`.
    """

    size: int
    """px"""
    resize: str = "antialias"
    """name in `RESIZE`"""

    def __post_init__(self) -> None:
        if self.resize not in RESIZE:
            raise ShardError(f"no resize rule is called {self.resize!r}; expected one of {', '.join(RESIZE)}")

    @property
    def spec(self) -> str:
        """The rule in words, as manifests record it."""
        rule = RESIZE[self.resize]
        return f"rgb; {rule.words.format(size=self.size, short=rule.pixels(self.size))}"

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """uint8 (3, size, size)."""
        if image.size != (self.size, self.size):
            image = RESIZE[self.resize](image, self.size)
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
        image = _high_byte(image)
    if image.has_transparency_data:
        backed = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(backed, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """A 16 bit grey image in 8 bits; the one grey that a PNG may name as transparent is black, as in `_rgb`."""
    deep = np.asarray(image).astype(np.int64)
    grey = (deep >> 8).clip(0, 255).astype(np.uint8)
    grey[deep == image.info.get("transparency", -1)] = 0
    return Image.fromarray(grey)


def _reason(error: Exception, data: bytes | NDArray[np.uint8]) -> str:
    if isinstance(data, bytes) and not data:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return " ".join(str(error).split())[:200] or type(error).__name__
