"""Landscapes as a drone sees them, ahead or straight down: in the spirit of Mid-Air (Fonder, Van Droogenbroeck, 2019).

All rays of one azimuth run above one line on the ground. Along each of some hundred such lines the slope from the
camera to the ground is taken at growing distances; a ray hits the ground where the running maximum of the slopes first
passes its own. Vectors are east, north, up in m; light.py has the rest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.corpora.renders.ground import lit_ground, sky
from curate.corpora.renders.light import Floats, picture, rays
from curate.corpora.renders.terrain import HEIGHT, MAPS, Terrain, build, sample
from curate.corpora.renders.weather import Weather, forecast

_STEPS = 96  # distances along a line
_STEEPEST = 50.0  # slope beyond which a ray counts as straight down
_TRIES = 4  # places for the camera, of which the first above land is taken
_NADIR = 0.3  # share of cameras that look straight down, give or take


@dataclass(frozen=True, kw_only=True)
class _Camera:
    place_3: Floats
    axes_33: Floats  # rows: right, down, forward
    lens: float  # tangent of half the field of view
    height: float  # m above the ground below it


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """Lines on the ground through the point below the camera: A azimuths, K distances."""

    first: float  # azimuth of the first
    step: float  # between two
    way_K: NDArray[np.float64]  # m
    slope_AK: NDArray[np.float64]  # from the camera to the ground
    order_AK: NDArray[np.float64]  # running maxima, each line's above those of the lines before it


def draw(rng: np.random.Generator, _index: int, *, size: int) -> NDArray[np.uint8]:
    """Image (size, size, 3); what is seen does not depend on the size."""
    terrain = build(rng)
    weather = forecast(rng, terrain.sun_3)
    camera = _camera(rng, terrain)
    lines = _lines(terrain, camera, size, sight=weather.sight)

    def trace(across_P: Floats, down_P: Floats) -> Floats:
        ray_3P = rays(camera.axes_33, camera.lens, across_P, down_P)
        return _seen(terrain, weather, camera, lines, ray_3P=ray_3P, pixel=camera.lens / size)

    return picture(trace, size=size)


def _camera(rng: np.random.Generator, terrain: Terrain) -> _Camera:
    high, azimuth, roll, lens, pitch = rng.random(5)
    place_2C = (rng.random((2, _TRIES)) * terrain.period).astype(np.float32)
    ground_C, depth_C = sample(terrain.maps_NNF, *place_2C)[[MAPS.index("height"), MAPS.index("depth")]]
    chosen = int(depth_C.argmin() if depth_C.min() > 0 else (depth_C < 0).argmax())  # the first above land, if any is
    straight = rng.random() < _NADIR
    height = 30 * 6**high if straight else 18 * 7**high
    pitch = np.radians(90 - 16 * pitch if straight else 7 + 45 * pitch)
    azimuth, roll = 2 * np.pi * azimuth, np.radians(12 * (2 * roll - 1))
    ahead_3 = np.array([np.cos(azimuth), np.sin(azimuth), 0])
    right_3 = np.array([np.sin(azimuth), -np.cos(azimuth), 0])
    forward_3 = np.cos(pitch) * ahead_3 - np.sin(pitch) * np.array([0, 0, 1])
    down_3 = np.cross(forward_3, right_3)
    axes_33 = np.array(
        [np.cos(roll) * right_3 + np.sin(roll) * down_3, np.cos(roll) * down_3 - np.sin(roll) * right_3, forward_3]
    )
    return _Camera(
        place_3=np.array([*place_2C[:, chosen], ground_C[chosen] + height], np.float32),
        axes_33=axes_33.astype(np.float32),
        lens=0.45 + 0.3 * float(lens),
        height=float(height),
    )


def _lines(terrain: Terrain, camera: _Camera, size: int, *, sight: float) -> _Lines:
    """Lines and distances that cover what is in view, as finely as there are rays."""
    grid_G = np.linspace(-1, 1, 17, dtype=np.float32)
    ray_3G = rays(camera.axes_33, camera.lens, np.tile(grid_G, 17), np.repeat(grid_G, 17)).astype(np.float64)
    slope_G = ray_3G[2] / np.maximum(np.hypot(ray_3G[0], ray_3G[1]), 1e-6)
    middle = float(np.arctan2(ray_3G[1, 144], ray_3G[0, 144]))  # the azimuth of the middle of the image
    turn_G = _wrapped(np.arctan2(ray_3G[1], ray_3G[0]) - middle)
    below_3 = -camera.axes_33[:, 2]
    if below_3[2] > 0 and np.abs(below_3[:2]).max() < camera.lens * below_3[2]:  # straight down is in view
        low, high, steep = -np.pi, np.pi, _STEEPEST
    else:
        low, high, steep = turn_G.min() - 0.05, turn_G.max() + 0.05, min(_STEEPEST, 1.2 * -slope_G.min())
    count = int(min(1.6 * (high - low), 6) * size)
    near, far = 0.2 * camera.height / steep, 5 * sight
    if slope_G.max() < 0:
        far = min(far, 1.2 * float(camera.place_3[2] + 2) / -slope_G.max())
    way_K = np.geomspace(near, max(far, 2 * near), _STEPS)
    azimuth_A1 = middle + low + (high - low) / count * (np.arange(count) + 0.5)[:, None]
    east_AK = camera.place_3[0] + way_K * np.cos(azimuth_A1)
    north_AK = camera.place_3[1] + way_K * np.sin(azimuth_A1)
    flat = sample(
        terrain.maps_NNF[:, :, HEIGHT], east_AK.ravel().astype(np.float32), north_AK.ravel().astype(np.float32)
    )
    slope_AK = (flat[0].reshape(count, _STEPS) - float(camera.place_3[2])) / way_K
    slope_AK = slope_AK.clip(-2 * _STEEPEST, 2 * _STEEPEST)
    order_AK = np.maximum.accumulate(slope_AK, axis=1) + 8 * _STEEPEST * np.arange(count)[:, None]
    return _Lines(first=middle + low, step=(high - low) / count, way_K=way_K, slope_AK=slope_AK, order_AK=order_AK)


def _seen(
    terrain: Terrain, weather: Weather, camera: _Camera, lines: _Lines, *, ray_3P: Floats, pixel: float
) -> Floats:
    """The light that comes back along rays from the camera; neighbouring rays are about ``pixel`` radian apart."""
    flat_P = np.maximum(np.sqrt(ray_3P[0] * ray_3P[0] + ray_3P[1] * ray_3P[1]), 1e-6)
    way_P = _ways(lines, ray_3P, flat_P)
    ground_P, sky_P = np.flatnonzero(way_P < np.inf), np.flatnonzero(way_P == np.inf)
    light_3P = np.empty_like(ray_3P)
    if len(sky_P):
        light_3P[:, sky_P] = sky(terrain, weather, ray_3P[:, sky_P])
    if len(ground_P):
        ray_3G, way_G = ray_3P[:, ground_P], way_P[ground_P] / flat_P[ground_P]
        point_2G = camera.place_3[:2, None] + ray_3G[:2] * way_G
        light_3P[:, ground_P] = lit_ground(terrain, weather, point_2G, ray_3G, way_G, pixel=pixel)
    return light_3P


def _ways(lines: _Lines, ray_3P: Floats, flat_P: Floats) -> Floats:
    """How far, along the ground, each ray goes until it hits it; infinity if it does not."""
    count, steps = lines.slope_AK.shape
    turn_P = (np.arctan2(ray_3P[1], ray_3P[0]) - lines.first) % (2 * np.pi)
    line_P = np.minimum((turn_P / lines.step).astype(int), count - 1)
    slope_P = (ray_3P[2] / flat_P).astype(np.float64).clip(-3 * _STEEPEST, 3 * _STEEPEST)
    place_P = np.searchsorted(lines.order_AK.ravel(), slope_P + 8 * _STEEPEST * line_P)
    step_P = place_P - steps * line_P
    after_P = np.minimum(place_P, count * steps - 1)
    before_P = np.maximum(after_P - 1, 0)
    slopes, last_P = lines.slope_AK.ravel(), np.minimum(step_P, steps - 1)
    share_P = (slope_P - slopes[before_P]) / np.maximum(slopes[after_P] - slopes[before_P], 1e-9)
    before_way_P = lines.way_K[np.maximum(last_P - 1, 0)]
    way_P = before_way_P + share_P.clip(0, 1) * (lines.way_K[last_P] - before_way_P)
    way_P = np.where(step_P == 0, lines.way_K[0] * slopes[after_P] / np.minimum(slope_P, -1e-3), way_P)
    return np.where(step_P >= steps, np.inf, way_P).astype(np.float32)


def _wrapped(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    return (angle + np.pi) % (2 * np.pi) - np.pi
