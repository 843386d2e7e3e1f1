"""What `shapes` shows: a few solids on a ground plane, a camera and a lamp, all from one generator."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.corpora.renders.light import Floats

KINDS = ("sphere", "cylinder", "cube")
# The eight colours of CLEVR (Johnson et al., CVPR 2017): grey, red, blue, green, brown, purple, cyan, yellow.
COLOURS = np.array(
    [
        (87, 87, 87),
        (173, 35, 35),
        (42, 75, 215),
        (29, 105, 20),
        (129, 74, 25),
        (129, 38, 192),
        (41, 208, 208),
        (255, 238, 51),
    ]
)
_SIZES = (0.42, 0.8)  # half-heights: small and large; the ground's unit
_FIELD = 2.6  # objects stand within this distance of the middle, along x and y
_GAP = 0.15  # between neighbours, so that nothing overlaps
_TRIES = 120


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is around the objects. The ground is the plane z = 0."""

    ground_3: Floats  # linear light
    camera_3: Floats
    axes_33: Floats  # rows: right, down, forward
    lens: float  # tangent of half the field of view
    lamp_3: Floats  # where the key light is
    lamp_colour_3: Floats
    fill_3: Floats  # direction to the fill light, length 1


@dataclass(frozen=True, kw_only=True)
class Scene:
    """M objects, sorted by kind, and what is around them."""

    counts: tuple[int, ...]  # objects of each of KINDS
    centre_3M: Floats
    half_M: Floats  # radius, or half an edge; cylinders are as high as they are wide
    turn_2M: Floats  # cosine and sine of the turn about z
    colour_3M: Floats  # linear light, 0..1
    metal_M: NDArray[np.bool_]
    stage: Stage


def build(rng: np.random.Generator) -> Scene:
    """A scene of 3 to 10 objects."""
    wanted = int(rng.integers(3, 11))
    tries = rng.random((_TRIES, 7)).tolist()
    placed: list[tuple[int, float, float, float, float, float, int, bool]] = []
    for across, along, kind, large, turn, colour, metal in tries:
        x, y, number = _FIELD * (2 * across - 1), _FIELD * (2 * along - 1), int(kind * len(KINDS))
        half = _SIZES[large < 0.5] * (0.8 if KINDS[number] == "cube" else 1.0)
        reach = half * (1.41 if KINDS[number] == "cube" else 1.0)
        if all((x - p[1]) ** 2 + (y - p[2]) ** 2 > (reach + p[3] + _GAP) ** 2 for p in placed):
            placed.append((number, x, y, reach, half, 2 * np.pi * turn, int(colour * len(COLOURS)), metal < 0.5))
        if len(placed) == wanted:
            break
    placed.sort(key=lambda each: each[0])
    kind_M, x_M, y_M, _, half_M, turn_M, colour_M, metal_M = (np.array(column) for column in zip(*placed, strict=True))
    return Scene(
        counts=tuple(int((kind_M == kind).sum()) for kind in range(len(KINDS))),
        centre_3M=np.array([x_M, y_M, half_M], np.float32),
        half_M=half_M.astype(np.float32),
        turn_2M=np.array([np.cos(turn_M), np.sin(turn_M)], np.float32),
        colour_3M=((COLOURS[colour_M].T / 255) ** 2).astype(np.float32),  # gamma 2
        metal_M=metal_M.astype(bool),
        stage=_stage(rng, np.array([x_M.mean(), y_M.mean(), 0.35]), spread=float(np.hypot(x_M.std(), y_M.std()))),
    )


def _stage(rng: np.random.Generator, focus_3: NDArray[np.float64], *, spread: float) -> Stage:
    """Camera, lights and ground, around what the objects' places are."""
    azimuth, height, distance, lens, around, above, away, bright, grey, warm = rng.random(10)
    azimuth, elevation = 2 * np.pi * azimuth, np.radians(15 + 42 * height)
    focus_3 = focus_3 + rng.uniform(-0.3, 0.3, 3) * (1, 1, 0.4)
    camera_3 = focus_3 + (3.8 + 1.3 * spread + 2 * distance) * _direction(azimuth, elevation)
    lamp_3 = (6 + 3 * away) * _direction(azimuth + np.radians(-140 + 280 * around), np.radians(38 + 30 * above))
    forward_3 = (focus_3 - camera_3) / np.linalg.norm(focus_3 - camera_3)
    right_3 = np.array([-forward_3[1], forward_3[0], 0]) * -1 / np.hypot(*forward_3[:2])
    tint_3 = (0.5 + 0.65 * bright) * (1 + 0.12 * (2 * warm - 1) * np.array([1, 0, -1]))
    fill_3 = _direction(azimuth + np.radians(-60), np.radians(30))
    return Stage(
        ground_3=(0.16 + 0.34 * grey) * np.array([1.0, 0.99, 0.98], np.float32),
        camera_3=camera_3.astype(np.float32),
        axes_33=np.array([right_3, np.cross(forward_3, right_3), forward_3], np.float32),
        lens=0.36 + 0.12 * float(lens),
        lamp_3=lamp_3.astype(np.float32),
        lamp_colour_3=tint_3.astype(np.float32),
        fill_3=fill_3.astype(np.float32),
    )


def _direction(azimuth: float, elevation: float) -> NDArray[np.float64]:
    flat = np.cos(elevation)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
