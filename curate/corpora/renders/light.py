"""What the renders share: rays to pixels, and the algebra of vectors and colours.

Vectors and colours are (3, P) arrays of float32 over P rays. Light is linear, 1 a white surface that faces the lamp; a
screen's gamma is taken as 2, whose inverse is a square root.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]  # float32; computing with a wider scalar would widen it

_SUPERSAMPLE = 2  # rays a pixel, along each side
_STRIP = 8192  # rays at once, so that what is computed stays in the processor's cache


def picture(trace: Callable[[Floats, Floats], Floats], *, size: int) -> NDArray[np.uint8]:
    """Image (size, size, 3) of the light that ``trace`` finds at points -1..1 across and down, a strip at a time."""
    side = _SUPERSAMPLE * size
    rows = max(_SUPERSAMPLE, _STRIP // side // _SUPERSAMPLE * _SUPERSAMPLE)
    along_S = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    strips = []
    for top in range(0, side, rows):
        down_R = along_S[top : top + rows]
        light_3P = trace(np.tile(along_S, len(down_R)), np.repeat(down_R, side))
        boxes = light_3P.reshape(3, len(down_R) // _SUPERSAMPLE, _SUPERSAMPLE, size, _SUPERSAMPLE)
        pixels_3HW = 255 * np.sqrt(boxes.mean(axis=(2, 4)))
        strips.append(np.rint(pixels_3HW.transpose(1, 2, 0)).clip(0, 255).astype(np.uint8))
    return np.concatenate(strips)


def rays(axes_33: Floats, lens: float, across_P: Floats, down_P: Floats) -> Floats:
    """Directions (3, P), not of length 1, of points of the image; the rows of the axes are right, down and forward."""
    right_31, down_31, forward_31 = axes_33[:, :, None]
    ray_3P: Floats = right_31 * (lens * across_P) + down_31 * (lens * down_P) + forward_31
    return ray_3P


def dot(a: Floats, b: Floats) -> Floats:
    """Sums of products over the first axis, in order: no library decides in which."""
    total: Floats = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def unit(vector_3P: Floats) -> Floats:
    """Vectors of length 1."""
    unit_3P: Floats = vector_3P / np.sqrt(dot(vector_3P, vector_3P))
    return unit_3P


def mixed(under: Floats, share: Floats, over: Floats | np.float32) -> Floats:
    """A share of one colour over the rest of another."""
    mixed_3P: Floats = under + share * (over - under)
    return mixed_3P


def linear(colour: Sequence[int]) -> Floats:
    """A colour 0..255 of a screen as linear light, (3, 1)."""
    return ((np.array(colour, np.float32) / 255) ** 2)[:, None]
