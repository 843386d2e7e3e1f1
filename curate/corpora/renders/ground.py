"""What a ray of `aerial` sees where it ends: layers of ground, water and trees under sun, sky and haze, or the sky."""

import numpy as np

from curate.corpora.renders.light import Floats, dot, linear, mixed, unit
from curate.corpora.renders.terrain import CELL, GRAIN, MAPS, MOISTURE, Terrain, sample
from curate.corpora.renders.weather import Weather

# Colours as a screen shows them, 0..255.
_STRAW, _SAND, _DUNE = (164, 148, 104), (206, 188, 146), (198, 160, 112)
_ROCK, _SNOW, _ROAD, _TRACK = (112, 106, 100), (226, 231, 238), (84, 84, 88), (160, 142, 114)
_FINER = (4.7, 17.0, 61.0)  # by how much detail is finer than the grid
_SHALLOW, _DEEP = (70, 116, 112), (22, 48, 66)


def lit_ground(
    terrain: Terrain, weather: Weather, point_2P: Floats, ray_3P: Floats, way_P: Floats, *, pixel: float
) -> Floats:
    """Light from points on the ground, ``way_P`` ray lengths away; detail below ``pixel`` (radian) fades away."""
    layer = dict(zip(MAPS, sample(terrain.maps_NNF, *point_2P), strict=True))
    way_P = way_P * np.sqrt(dot(ray_3P, ray_3P))
    grain_P = _grain(terrain, point_2P, way_P * pixel)
    upright_P = 1 / np.sqrt(1 + layer["east"] ** 2 + layer["north"] ** 2)
    wet_P = (3 * layer["depth"]).clip(0, 1)
    colour_3P = _colours(terrain, weather, layer, grain_P=grain_P)

    lambert_P = weather.sun_3[2] - layer["east"] * weather.sun_3[0] - layer["north"] * weather.sun_3[1]
    lambert_P = np.maximum(upright_P * lambert_P, 0)
    around_P = 0.55 + 0.35 * upright_P
    around_P = around_P * (0.72 + 0.28 * layer["sun"])  # where the sun is hidden, some sky is too
    light_3P = weather.sunlight_3[:, None] * (lambert_P * layer["sun"]) + weather.sky_3[:, None] * around_P
    light_3P += 0.10 * weather.haze_3[:, None]
    light_3P *= colour_3P
    light_3P += wet_P * _gleam(weather, ray_3P, grain_P, layer["sun"])

    haze_P = 1 - np.exp(-way_P / weather.sight)
    return mixed(light_3P, haze_P, weather.haze_3[:, None])


def _colours(terrain: Terrain, weather: Weather, layer: dict[str, Floats], *, grain_P: Floats) -> Floats:
    """Share of the light that each point sends back, in layers from the soil up."""
    climate, season, steep_P = terrain.climate, weather.season, layer["steep"]
    bare, dry = (_DUNE, 1.0) if climate.dry == 1 else (_STRAW, climate.dry)
    lush_P = ((0.85 - dry) + 0.30 * layer["moisture"] + 0.35 * grain_P).clip(0, 1)
    shore_P = (1 + layer["depth"] / 1.5).clip(0, 1) * (steep_P < 0.5)
    rock_P = (3 * (steep_P - climate.cliff) + grain_P).clip(0, 1)
    line_P = layer["height"] / terrain.top
    snow_P = (8 * (line_P - climate.snow) + 2 * grain_P).clip(0, 1)
    if climate.dry < 1:
        snow_P = np.maximum(snow_P, (season.snow + 0.5 * (grain_P + layer["moisture"])).clip(0, 1) * (season.snow > 0))
    snow_P = snow_P * (1 - rock_P)
    tree_P = layer["tree"].clip(0, 1)
    kind_P = (0.5 + 2 * layer["moisture"] + grain_P).clip(0, 1)
    leaves_3P = mixed(linear(season.leaves), kind_P, linear(season.others))
    leaves_3P = mixed(leaves_3P, 0.35 * snow_P, linear(_SNOW))
    road = _TRACK if climate.dry > 0.25 else _ROAD

    colour_3P = mixed(linear(bare), lush_P, linear(season.grass))
    for share_P, over in (
        (shore_P, linear(_SAND)),
        (rock_P, linear(_ROCK)),
        (snow_P, linear(_SNOW)),
        ((3.0 - layer["road"]).clip(0, 1), linear(road)),
        (tree_P, leaves_3P),
    ):
        colour_3P = mixed(colour_3P, share_P, over)
    colour_3P *= 1 + 0.35 * grain_P
    water_3P = mixed(linear(_SHALLOW), (layer["depth"] / 4).clip(0, 1), linear(_DEEP))
    water_3P *= 1 + 0.12 * grain_P
    return mixed(colour_3P, (3 * layer["depth"]).clip(0, 1), water_3P)


def _gleam(weather: Weather, ray_3P: Floats, grain_P: Floats, sunlit_P: Floats) -> Floats:
    """Sky and sun in the water, more of them at grazing angles (Schlick), broken by ripples."""
    ray_3P = unit(ray_3P)
    share_P = 0.04 + 0.75 * (1 + ray_3P[2]).clip(0, 1) ** 4
    toward_P = ray_3P[0] * weather.sun_3[0] + ray_3P[1] * weather.sun_3[1] - ray_3P[2] * weather.sun_3[2]
    glint_P = np.maximum(toward_P + 0.03 * grain_P, 0) ** 60 * sunlit_P
    sky_3P = mixed(weather.haze_3[:, None], (-ray_3P[2]).clip(0, 1), weather.sky_3[:, None])
    gleam_3P: Floats = share_P * sky_3P + 0.8 * glint_P * weather.sunlight_3[:, None]
    return gleam_3P


def sky(terrain: Terrain, weather: Weather, ray_3P: Floats) -> Floats:
    """Light of the sky: haze below, blue above, clouds that are smaller towards the horizon, and the sun's glow."""
    ray_3P = unit(ray_3P)
    up_P = np.maximum(ray_3P[2], 0)
    light_3P = mixed(weather.haze_3[:, None], np.sqrt(up_P), weather.sky_3[:, None])
    place_2P = ray_3P[:2] * (40 / (up_P + 0.08))
    cloud_P = sample(terrain.maps_NNF[:, :, MOISTURE], *place_2P)[0]
    cloud_P = (cloud_P + (3 * weather.clouds - 2)).clip(0, 1) * (6 * up_P).clip(0, 1)
    light_3P = mixed(light_3P, cloud_P, (weather.haze_3 + 0.3 * weather.sunlight_3)[:, None])
    toward_P = np.maximum(dot(ray_3P, weather.sun_3[:, None]), 0)
    light_3P += (0.35 * toward_P**8 + toward_P**400) * weather.sunlight_3[:, None]
    return light_3P


def _grain(terrain: Terrain, point_2P: Floats, blur_P: Floats) -> Floats:
    """Detail finer than the grid, about -1..1: one map at smaller scales, less where a pixel spans it."""
    grain_P = np.zeros_like(blur_P)
    for finer in _FINER:
        field_P = sample(terrain.maps_NNF[:, :, GRAIN], *(point_2P * finer))[0]
        grain_P += 0.45 * field_P / (1 + (blur_P * (finer / (3 * CELL))) ** 2)
    return grain_P.clip(-1, 1)
