"""What `aerial` flies over: a periodic landscape on a grid, of one climate and season, under one sun.

Every field is a sum of waves with random phases whose amplitude falls with their frequency (fractal noise), so that the
landscape goes on without a seam. Maps are (N, N, F) arrays of float32, north first, then east; lengths are in metres.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from curate.corpora.renders.light import Floats

CELLS = 128  # of the grid, each way
CELL = 3.0  # m
MAPS = ("height", "tree", "moisture", "sun", "east", "north", "road", "depth", "grain", "steep")
HEIGHT, MOISTURE, GRAIN = (slice(MAPS.index(name), MAPS.index(name) + 1) for name in ("height", "moisture", "grain"))
_REACHES = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36)  # cells towards the sun where something may cast a shadow
_ROADS, _RIVERS = 0.4, 0.35  # share of landscapes that have one
_CROWN = 3  # cells either side of a tree that its crown may cover


@dataclass(frozen=True, kw_only=True)
class Climate:
    """Ranges from which a landscape of a kind is drawn."""

    relief: tuple[float, float]  # m, standard deviation of the height
    rough: tuple[float, float]  # power by which amplitude falls with frequency: the higher, the smoother
    water: tuple[float, float]  # share of the ground below the water level
    trees: tuple[int, int]  # on the grid
    snow: float  # share of the height above which snow lies in summer
    cliff: float  # slope above which rock shows
    dry: float  # 0 lush, 1 desert


CLIMATES = {
    "hills": Climate(relief=(4, 12), rough=(2.0, 2.5), water=(0.0, 0.25), trees=(100, 500), snow=9, cliff=0.9, dry=0.3),
    "alps": Climate(relief=(14, 32), rough=(1.9, 2.2), water=(0.0, 0.2), trees=(0, 400), snow=0.6, cliff=0.8, dry=0.2),
    "coast": Climate(relief=(6, 15), rough=(1.9, 2.4), water=(0.35, 0.65), trees=(0, 300), snow=9, cliff=0.8, dry=0.4),
    "desert": Climate(relief=(4, 25), rough=(1.9, 2.5), water=(0, 0), trees=(0, 40), snow=9, cliff=0.6, dry=1.0),
    "forest": Climate(relief=(3, 9), rough=(2.2, 2.6), water=(0, 0.15), trees=(600, 1200), snow=9, cliff=1.2, dry=0.0),
}


@dataclass(frozen=True, kw_only=True)
class Terrain:
    """A landscape ready to be looked at."""

    maps_NNF: Floats  # see MAPS; "sun" is the share of the sun that is seen, "depth" that of water, below 0 on land
    top: float  # m, the highest ground above the lowest
    climate: Climate
    sun_3: Floats  # direction to the sun: east, north, up; length 1
    period: float = CELLS * CELL  # m, after which the landscape repeats


def sample(maps_NNF: Floats, east_P: Floats, north_P: Floats) -> Floats:
    """Maps at places (m), (F, P): bilinear, and periodic."""
    column_P, row_P = east_P / CELL, north_P / CELL
    left_P, under_P = np.floor(column_P), np.floor(row_P)
    right_P1, over_P1 = (column_P - left_P)[:, None], (row_P - under_P)[:, None]
    left_P, under_P = left_P.astype(np.int32) % CELLS, under_P.astype(np.int32) % CELLS
    next_P, above_P = (left_P + 1) % CELLS, (under_P + 1) % CELLS
    flat = maps_NNF.reshape(CELLS * CELLS, -1)
    low_PF = flat[under_P * CELLS + left_P] * (1 - right_P1) + flat[under_P * CELLS + next_P] * right_P1
    high_PF = flat[above_P * CELLS + left_P] * (1 - right_P1) + flat[above_P * CELLS + next_P] * right_P1
    return np.ascontiguousarray((low_PF + over_P1 * (high_PF - low_PF)).T)


def build(rng: np.random.Generator) -> Terrain:
    """A landscape of a random climate, at a random hour."""
    climate = list(CLIMATES.values())[int(rng.integers(len(CLIMATES)))]
    relief, rough, wet = (rng.uniform(*bounds) for bounds in (climate.relief, climate.rough, climate.water))
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(12, 68))
    ground_NN, moisture_NN = _fractal(rng, rough, waves=CELLS)
    ground_NN = _shaped(ground_NN, relief)
    level = float(np.sort(ground_NN[::4, ::4], axis=None)[int(wet * CELLS**2 / 16)]) if wet > 0.02 else -1.0
    road_NN = _winding(rng) if rng.random() < _ROADS else np.full_like(ground_NN, 99)
    depth_NN = level - ground_NN
    if climate.dry < 1 and rng.random() < _RIVERS:
        depth_NN = np.maximum(depth_NN, 2 - _winding(rng) / 3)
    ground_NN = np.maximum(ground_NN, level) - depth_NN.clip(0, 2)
    free_NN = (depth_NN < -0.5) & (road_NN > 7)
    count = int(rng.integers(climate.trees[0], climate.trees[1] + 1))
    tree_NN = _trees(rng.random((count, 3)), free_NN & (moisture_NN > -0.4 + climate.dry))
    height_NN = ground_NN + tree_NN
    sun_3 = np.array([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)]) * np.cos(elevation)
    north_NN, east_NN = _slopes(height_NN)
    bare_north_NN, bare_east_NN = _slopes(ground_NN)
    maps = {
        "height": height_NN,
        "tree": tree_NN,
        "moisture": moisture_NN,
        "sun": _sunlit(height_NN, sun_3),
        "east": east_NN,
        "north": north_NN,
        "road": road_NN,
        "depth": depth_NN,
        "grain": _grain(moisture_NN, sun_3),
        "steep": np.sqrt(bare_north_NN * bare_north_NN + bare_east_NN * bare_east_NN),
    }
    return Terrain(
        maps_NNF=np.stack([maps[name] for name in MAPS], axis=2),
        top=float(ground_NN.max()),
        climate=climate,
        sun_3=sun_3.astype(np.float32),
    )


def _fractal(rng: np.random.Generator, power: float, *, waves: int) -> tuple[Floats, Floats]:
    """Two independent fields of mean 0 and variance about 1: the real and the imaginary part of one transform."""
    place_W, log_WW = _frequencies(waves)
    size_WW = np.exp(-power * log_WW)
    size_WW *= (CELLS**2) * np.sqrt(12 / (size_WW * size_WW).sum())  # 1/12: variance of random_WW
    random_WW = (rng.random((waves, 2 * waves), np.float32) - 0.5).view(np.complex64)
    waves_NN = np.zeros((CELLS, CELLS), np.complex64)
    waves_NN[place_W[:, None], place_W] = random_WW * size_WW
    field_NN = np.fft.ifft2(waves_NN)
    return field_NN.real.copy(), field_NN.imag.copy()


@cache
def _frequencies(waves: int) -> tuple[NDArray[np.intp], Floats]:
    """Where the waves of a coarser grid stand in the transform, and the logarithm of their frequency."""
    place_W = np.fft.fftfreq(waves, 1 / waves).astype(np.intp)
    square_WW = (place_W[:, None] ** 2 + place_W**2).astype(np.float32)
    square_WW[0, 0] = np.inf  # no mean
    return place_W, np.log(square_WW) / 2


def _shaped(field_NN: Floats, relief: float) -> Floats:
    """Ground of a standard deviation of about ``relief`` m above 0: wide valleys, narrow tops."""
    low, high = float(field_NN.min()), float(field_NN.max())
    share_NN = (field_NN - low) / (high - low)
    ground_NN: Floats = share_NN * np.sqrt(share_NN) * (relief * (high - low))
    return ground_NN


def _winding(rng: np.random.Generator) -> Floats:
    """About how far, in m, the nearest point is where a smooth field passes a random value: a line that winds."""
    field_NN = _fractal(rng, 3.0, waves=16)[0] - rng.uniform(-0.5, 0.5)
    north_NN, east_NN = _slopes(field_NN)
    away_NN: Floats = np.abs(field_NN) / np.sqrt(north_NN * north_NN + east_NN * east_NN + 1e-6)
    return away_NN


def _slopes(field_NN: Floats) -> tuple[Floats, Floats]:
    """How much a field rises a metre, to the north and to the east."""
    north_NN, east_NN = ((np.roll(field_NN, -1, axis) - field_NN) / CELL for axis in (0, 1))
    return north_NN, east_NN


def _grain(field_NN: Floats, sun_3: NDArray[np.float64]) -> Floats:
    """The slope of a fractal field towards the sun, variance 1: rough as the field is not, and lit as bumps are."""
    north_NN, east_NN = _slopes(field_NN)
    grain_NN = north_NN * np.float32(sun_3[1]) + east_NN * np.float32(sun_3[0])
    grain_NN /= grain_NN.std()
    return grain_NN


def _trees(spots_T3: NDArray[np.float64], free_NN: NDArray[np.bool_]) -> Floats:
    """How high above the ground the crowns of trees are; they stand where there is room."""
    north_T, east_T, size_T = spots_T3.T
    north_T, east_T = north_T * CELLS, east_T * CELLS
    stands_T = free_NN[north_T.astype(int), east_T.astype(int)]
    north_T, east_T, size_T = north_T[stands_T], east_T[stands_T], size_T[stands_T]
    radius_T1 = (0.8 + 1.1 * size_T)[:, None]  # cells
    near = np.arange(-_CROWN, _CROWN + 1)
    row_TW, column_TW = np.floor(north_T)[:, None] + near, np.floor(east_T)[:, None] + near
    away_TWW = ((row_TW - north_T[:, None]) / radius_T1)[:, :, None] ** 2
    away_TWW = away_TWW + ((column_TW - east_T[:, None]) / radius_T1)[:, None] ** 2
    crown_TWW = (5 + 5 * size_T)[:, None, None] * np.sqrt(np.maximum(1 - away_TWW, 0))
    place_TWW = (row_TW.astype(int) % CELLS)[:, :, None] * CELLS + (column_TW.astype(int) % CELLS)[:, None]
    tree_NN = np.zeros(CELLS * CELLS)
    some = crown_TWW > 0
    np.maximum.at(tree_NN, place_TWW[some], crown_TWW[some])
    return tree_NN.reshape(CELLS, CELLS).astype(np.float32)


def _sunlit(height_NN: Floats, sun_3: NDArray[np.float64]) -> Floats:
    """Share of the sun that is seen: less where ground or trees towards it stand above its rays."""
    flat = float(np.hypot(sun_3[0], sun_3[1]))
    above_NN = np.full_like(height_NN, -99)
    for reach in _REACHES:
        north, east = round(reach * sun_3[1] / flat), round(reach * sun_3[0] / flat)
        way = CELL * float(np.hypot(north, east))
        above_NN = np.maximum(above_NN, (np.roll(height_NN, (-north, -east), (0, 1)) - height_NN) / way)
    return (1 - 5 * (above_NN - np.float32(sun_3[2] / flat))).clip(0, 1)
