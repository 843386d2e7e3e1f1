"""Hour, season and air: what colours the light and the plants of `aerial`."""

from dataclasses import dataclass

import numpy as np

from curate.corpora.renders.light import Floats

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Season:
    """Colours as a screen shows them, 0..255, and the share of the ground under snow."""

    grass: Colour
    leaves: Colour
    others: Colour  # leaves of other trees
    snow: float


SEASONS = (
    Season(grass=(98, 134, 52), leaves=(58, 92, 38), others=(96, 116, 56), snow=0.0),  # spring
    Season(grass=(92, 112, 52), leaves=(34, 60, 28), others=(56, 80, 34), snow=0.0),  # summer
    Season(grass=(132, 120, 66), leaves=(146, 84, 32), others=(70, 78, 36), snow=0.0),  # autumn
    Season(grass=(128, 120, 92), leaves=(50, 58, 46), others=(84, 80, 68), snow=0.85),  # winter
)


@dataclass(frozen=True, kw_only=True)
class Weather:
    """Light and air; colours are linear light."""

    season: Season
    sun_3: Floats  # direction to the sun
    sunlight_3: Floats
    sky_3: Floats  # colour of the sky above
    haze_3: Floats  # colour of the sky at the horizon, and of what is far away
    sight: float  # m, where haze has taken 63 % of the contrast
    clouds: float  # share of the sky


def forecast(rng: np.random.Generator, sun_3: Floats) -> Weather:
    """A season, and air for a sun at some height: the lower, the redder its light and the bluer the shade."""
    season = SEASONS[int(rng.integers(len(SEASONS)))]
    clear, sight, clouds = rng.random(3)
    low = float(1 - min(sun_3[2] / 0.6, 1))  # 1 at the horizon, 0 from 37 degrees on
    overcast = max(0.0, 1.6 * float(clear) - 1)
    sunlight_3 = np.array([1.0, 0.97 - 0.25 * low, 0.90 - 0.50 * low]) * (1.15 - 0.30 * low) * (1 - 0.85 * overcast)
    sky_3 = np.array([0.16, 0.30, 0.62]) * (1 - 0.35 * low)
    haze_3 = np.array([0.60 + 0.10 * low, 0.68 - 0.04 * low, 0.76 - 0.20 * low]) * (1 - 0.15 * low)
    grey_3 = np.array([0.50, 0.53, 0.56])
    return Weather(
        season=season,
        sun_3=sun_3,
        sunlight_3=sunlight_3.astype(np.float32),
        sky_3=(sky_3 + overcast * (grey_3 - sky_3)).astype(np.float32),
        haze_3=(haze_3 + overcast * (grey_3 - haze_3)).astype(np.float32),
        sight=300 * 14 ** float(sight),
        clouds=float(clouds),
    )
