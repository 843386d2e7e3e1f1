"""Procedural noise and textures: several families of noise, because one alone falls into one class of a teacher."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from curate.corpora.starter.addressed import SIDE, generator_at

COUNT = 2000
_RADII = (1, 2, 3, 5)  # pixels, of the box that smooths noise
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)

Field = NDArray[np.float64]  # 32x32, 32x32x1 or 32x32x3, about 0..1


def draw(index: int) -> tuple[NDArray[np.uint8], str | None]:
    """A 32x32x3 image and the name of its family; the families take turns."""
    rng = generator_at("textures", index)
    family = list(FAMILIES)[index % len(FAMILIES)]
    field_HWC = FAMILIES[family](rng)
    if field_HWC.shape[2] == 1:  # runs between two random colours
        first_C, second_C = rng.random((2, 3))
        field_HWC = first_C + (second_C - first_C) * field_HWC
    return np.rint(field_HWC * 255).clip(0, 255).astype(np.uint8), family


def _uniform(rng: np.random.Generator) -> Field:
    return rng.random((SIDE, SIDE, 3))


def _gaussian(rng: np.random.Generator) -> Field:
    spread, mean_C = rng.uniform(0.05, 0.35), rng.uniform(0.2, 0.8, 3)
    return mean_C + spread * rng.standard_normal((SIDE, SIDE, 3))


def _smoothed(rng: np.random.Generator) -> Field:
    return _smooth_noise(rng)


def _per_channel(rng: np.random.Generator) -> Field:
    return np.concatenate([_smooth_noise(rng) for _ in range(3)], axis=2)


def _grating(rng: np.random.Generator) -> Field:
    period, phase = rng.uniform(3, 20), rng.uniform(0, 2 * np.pi)
    wave_HW: Field = 0.5 + 0.5 * np.sin(2 * np.pi * _along(rng) / period + phase)
    return wave_HW[:, :, None]


def _checkers(rng: np.random.Generator) -> Field:
    height, width = rng.integers(2, 11, 2)
    top, left = rng.integers(0, SIDE, 2)
    parity_HW: Field = ((_Y + top) // height + (_X + left) // width) % 2
    return parity_HW[:, :, None]


def _blobs(rng: np.random.Generator) -> Field:
    field_HW = np.zeros((SIDE, SIDE))
    for y, x, radius in rng.uniform((0, 0, 1.5), (SIDE, SIDE, 6), (rng.integers(2, 9), 3)):
        field_HW = np.maximum(field_HW, np.exp(-((_Y - y) ** 2 + (_X - x) ** 2) / (2 * radius**2)))
    return field_HW[:, :, None]


def _gradient(rng: np.random.Generator) -> Field:
    if rng.random() < 0.5:
        return _stretch(_along(rng))[:, :, None]
    y, x = rng.uniform(0, SIDE, 2)
    return _stretch(np.hypot(_Y - y, _X - x))[:, :, None]


def _along(rng: np.random.Generator) -> Field:
    """Distance of every pixel along a random direction, in pixels."""
    angle = rng.uniform(0, np.pi)
    along_HW: Field = np.cos(angle) * _X + np.sin(angle) * _Y
    return along_HW


def _smooth_noise(rng: np.random.Generator) -> Field:
    """Uniform noise under a periodic box of random radius, twice, stretched to 0..1; one channel."""
    field_HW, radius = rng.random((SIDE, SIDE)), int(rng.choice(_RADII))
    shifts = range(-radius, radius + 1)
    for axis in (0, 1, 0, 1):  # sums of rolled copies: the same order of additions on every machine
        field_HW = sum((np.roll(field_HW, shift, axis) for shift in shifts), np.zeros_like(field_HW))
    return _stretch(field_HW)[:, :, None]


def _stretch(field_HW: Field) -> Field:
    low, high = field_HW.min(), field_HW.max()
    stretched_HW: Field = (field_HW - low) / (high - low)
    return stretched_HW


FAMILIES: dict[str, Callable[[np.random.Generator], Field]] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
    "smoothed": _smoothed,
    "per-channel": _per_channel,
    "grating": _grating,
    "checkers": _checkers,
    "blobs": _blobs,
    "gradient": _gradient,
}
