"""Noise of several families, as corpora: `noise:mix?n=200000&seed=0&size=32`.

A teacher puts nearly all white noise into one class (49,971 of 50,000 into class 6 of CIFAR-10: "Effectiveness of
arbitrary transfer sets for data-free knowledge distillation", supplement, Table 8). Smoothing, contrast and colour
spread it over more, which is what balancing a transfer set of noise needs.

- `uniform`: every value 0..255 equally likely.
- `gaussian`: mean 0.5, standard deviations 0.05, 0.1, 0.2 and 0.4 in turn, clipped.
- `smooth`: noise under a tent whose power lies below 1/s, s = 1/16, 1/8, 1/4 and 1/2 of the side in turn; every channel
  at mean 0.5 and standard deviation 0.1, 0.2 and 0.4 in turn, then clipped; 24 images in colour and 12 in grey in turn.
- `channel`: every channel is white or smoothed, with its own level, contrast and scales along y and x.
- `mix`: the four in turn.

Random bits come from the Philox counter alone and sums are integers, so that images are the same on every machine.
"""

from collections.abc import Mapping
from functools import cache
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.corpora.generated import Draw, Family, GeneratedCorpus

SDS = (0.05, 0.1, 0.2, 0.4)  # of Gaussian noise; 1 is the range from black to white
FRACTIONS = (16, 8, 4, 2)  # scale s of smooth noise: the side over these, 2 to 16 px at 32 px
CONTRASTS = (0.1, 0.2, 0.4)  # standard deviations of smooth noise before clipping
_VERSION = 1  # one for all: `mix` is made of the others
_LEVELS = (0.1, 0.9)  # mean of a channel of `channel`
_SPREADS = (0.05, 0.4)  # standard deviation of a channel of `channel`, before clipping
_WHITE = 0.1  # share of white channels in `channel`
_BITS = 20  # of smoothed values, so that the sum of their squares over 1024 x 1024 px is exact in 63 bits


def _uniform(rng: np.random.Generator, _index: int, *, size: int) -> NDArray[np.uint8]:
    return _octets(rng, size * size * 3).reshape(size, size, 3)


def _gaussian(rng: np.random.Generator, index: int, *, size: int) -> NDArray[np.uint8]:
    return _pixels(0.5 + SDS[index % len(SDS)] * _normal(rng, size, channels=3))


def _smooth(rng: np.random.Generator, index: int, *, size: int) -> NDArray[np.uint8]:
    turn, place = divmod(index, len(FRACTIONS))
    turn, contrast = divmod(turn, len(CONTRASTS))
    scale = max(1, size // FRACTIONS[place])
    field_HWC = _tent(rng, size, scales=(scale, scale), channels=1 if turn % 3 == 2 else 3)
    return _pixels(np.broadcast_to(0.5 + CONTRASTS[contrast] * field_HWC, (size, size, 3)))


def _channel(rng: np.random.Generator, _index: int, *, size: int) -> NDArray[np.uint8]:
    return np.concatenate([_one_channel(rng, size) for _ in range(3)], axis=2)


def _one_channel(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    kind, level, spread, *places = rng.random(5)
    scales = [max(1, size // FRACTIONS[int(place * len(FRACTIONS))]) for place in places]
    if kind < _WHITE:
        field_HW1 = _normal(rng, size, channels=1)
    else:
        field_HW1 = _tent(rng, size, scales=(scales[0], scales[1]), channels=1)
    return _pixels(_between(_LEVELS, level) + _between(_SPREADS, spread) * field_HW1)


def _mix(rng: np.random.Generator, index: int, *, size: int) -> NDArray[np.uint8]:
    turn, place = divmod(index, len(_MEMBERS))
    return _MEMBERS[place](rng, turn, size=size)


_MEMBERS: tuple[Draw, ...] = (_uniform, _gaussian, _smooth, _channel)


def _octets(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Random bytes straight from the bit generator, whose stream NumPy promises never to change."""
    words = rng.bit_generator.random_raw(-(-count // 8))
    return words.astype("<u8", copy=False).view(np.uint8)[:count]


def _normal(rng: np.random.Generator, size: int, *, channels: int) -> NDArray[np.float64]:
    """White Gaussian noise (size, size, channels) of mean 0 and variance 1."""
    ranks = _octets(rng, 2 * size * size * channels).view("<u2")
    normal_HWC: NDArray[np.float64] = _quantiles()[ranks].reshape(size, size, channels)
    return normal_HWC


@cache
def _quantiles() -> NDArray[np.float64]:
    """The middle of each of 2^16 equally likely slices of the normal distribution."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((rank + 0.5) / 65536) for rank in range(65536)])


def _tent(rng: np.random.Generator, size: int, *, scales: tuple[int, int], channels: int) -> NDArray[np.float64]:
    """Periodic noise (size, size, channels), mean 0 and variance 1 in each channel, low-passed along y and x.

    Two boxes of s px along an axis leave sinc^4(s f) of the power at f cycles a px: none at 1/s, under 3 % beyond.
    """
    field_HWC = _octets(rng, size * size * channels).reshape(size, size, channels).astype(np.int64)
    for scale in scales:
        field_HWC = _box(_box(field_HWC, scale), scale).swapaxes(0, 1)
    return _standardise(field_HWC)


def _box(field_HWC: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Sums of ``width`` neighbours along the first axis, which goes round."""
    sums_HWC = np.concatenate([field_HWC, field_HWC[:width]]).cumsum(axis=0)
    boxes_HWC: NDArray[np.int64] = sums_HWC[width:] - sums_HWC[:-width]
    return boxes_HWC


def _standardise(field_HWC: NDArray[np.int64]) -> NDArray[np.float64]:
    count = field_HWC.shape[0] * field_HWC.shape[1]
    field_HWC = field_HWC - field_HWC.sum(axis=(0, 1)) // count
    field_HWC >>= max(0, int(np.abs(field_HWC).max()).bit_length() - _BITS)
    mean_C = field_HWC.sum(axis=(0, 1)) / count
    variance_C = (field_HWC * field_HWC).sum(axis=(0, 1)) / count - mean_C * mean_C
    standard_HWC: NDArray[np.float64] = (field_HWC - mean_C) / np.sqrt(variance_C)
    return standard_HWC


def _between(bounds: tuple[float, float], fraction: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * fraction


def _pixels(field_HWC: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(255 * field_HWC).clip(0, 255).astype(np.uint8)


class NoiseCorpus(GeneratedCorpus):
    """Images of noise."""

    scheme = "noise"
    families: ClassVar[Mapping[str, Family]] = {
        name: Family(draw=draw, version=_VERSION)
        for name, draw in (
            ("uniform", _uniform),
            ("gaussian", _gaussian),
            ("smooth", _smooth),
            ("channel", _channel),
            ("mix", _mix),
        )
    }
