"""Letters and symbols, no digits, rendered with the scalable font that Pillow carries (Aileron, CC0)."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curate.corpora.starter.addressed import SIDE, box_reduce, generator_at, missing
from curate.errors import CorpusNotFound

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

COUNT = 2000
GLYPHS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-/:;<=>?@[\\]^_{|}~"  # no specks: . , ' `
_OVERSAMPLE = 4  # rendered at 128x128, then reduced
_SIZES = range(18, 41)  # font size in pixels of the final image
_MAX_TURN = 40.0  # degrees either way
_MAX_SHIFT = 5  # final pixels either way
_MIN_CONTRAST = 60.0  # grey levels between the lumas of ink and paper
_MAX_NOISE = 12.0  # grey levels, standard deviation
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def draw(index: int) -> tuple[NDArray[np.uint8], str | None]:
    """A 32x32x3 image of one glyph with random size, shift, turn, colours and noise, and the glyph."""
    rng = generator_at("glyphs", index)
    glyph = GLYPHS[rng.integers(len(GLYPHS))]
    size = int(rng.integers(_SIZES.start, _SIZES.stop))
    shift = rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1, 2)
    ink_HW1 = _ink(glyph, size, turn=float(rng.uniform(-_MAX_TURN, _MAX_TURN)), shift=(int(shift[0]), int(shift[1])))
    paper_C, colour_C = _colours(rng)
    image_HWC = paper_C + (colour_C - paper_C) * (ink_HW1 / 255)
    image_HWC += rng.standard_normal(image_HWC.shape) * rng.uniform(0, _MAX_NOISE)
    return np.rint(image_HWC).clip(0, 255).astype(np.uint8), glyph


def _ink(glyph: str, size: int, *, turn: float, shift: tuple[int, int]) -> NDArray[np.uint8]:
    """Coverage, 32x32x1, 255 where the glyph is."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise missing("Pillow") from None
    side = SIDE * _OVERSAMPLE
    canvas = Image.new("L", (side, side))
    centre = (side // 2 + shift[0] * _OVERSAMPLE, side // 2 + shift[1] * _OVERSAMPLE)
    ImageDraw.Draw(canvas).text(centre, glyph, fill=255, font=_font(size * _OVERSAMPLE), anchor="mm")
    turned = canvas.rotate(turn, resample=Image.Resampling.BILINEAR, center=centre)
    return box_reduce(np.asarray(turned)[:, :, None], _OVERSAMPLE)


@cache
def _font(pixels: int) -> "FreeTypeFont":
    from PIL import ImageFont

    font = ImageFont.load_default(pixels)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise CorpusNotFound("builtin:glyphs needs a Pillow that is built with FreeType: pip install --upgrade Pillow")
    return font


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Paper and ink, RGB 0..255, far enough apart in luma; half of the pairs are grey."""
    grey = rng.random() < 0.5
    while True:
        pair_2C = rng.uniform(0, 255, (2, 1 if grey else 3)).repeat(3 if grey else 1, axis=1)
        luma_2 = (pair_2C * _LUMA).sum(axis=1)
        if abs(luma_2[0] - luma_2[1]) >= _MIN_CONTRAST:
            return pair_2C[0], pair_2C[1]
