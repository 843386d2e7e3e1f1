"""Procedural renders: what an image depends on, that rays hit what they should, that light behaves."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.corpora import base as corpora_base
from curate.corpora import open_corpus
from curate.corpora.renders import aerial, light, scene, shapes, terrain, weather
from curate.corpora.starter.addressed import generator_at
from curate.corpora.synthetic import SyntheticCorpus

ROOT = Path(__file__).resolve().parents[2]


def images_of(option: str) -> NDArray[np.uint8]:
    corpus = open_corpus(option)
    items = [item for part in corpus.parts() for item in corpus.read(part)]
    assert {item.label for item in items} == {None}
    return np.stack([item.data for item in items if isinstance(item.data, np.ndarray)])


# ------------------------------------------------------------------------------------- what an image depends on


@pytest.mark.parametrize("family", SyntheticCorpus.families)
def test_an_image_depends_on_family_seed_index_and_size_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images_NHWC = images_of(f"synthetic:{family}?n=12&size=16")
    assert images_NHWC.shape == (12, 16, 16, 3)
    assert len({image.tobytes() for image in images_NHWC}) == 12
    monkeypatch.setattr(corpora_base, "PART_SIZE", 5)
    corpus = open_corpus(f"synthetic:{family}?n=7&size=16")
    for part in corpus.parts()[::-1]:
        for item in corpus.read(part):
            assert isinstance(item.data, np.ndarray)
            assert np.array_equal(item.data, images_NHWC[int(item.uri.removeprefix(f"{family}/"))])
    other = images_of(f"synthetic:{family}?n=12&size=16&seed=1")
    assert not {image.tobytes() for image in other} & {image.tobytes() for image in images_NHWC}


@pytest.mark.parametrize("family", SyntheticCorpus.families)
def test_another_process_draws_the_same(family: str) -> None:
    code = f"""
from curate.corpora import open_corpus
corpus = open_corpus("synthetic:{family}?n=3&size=24")
(part,) = corpus.parts()
print(b"".join(item.data.tobytes() for item in corpus.read(part)).hex())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == images_of(f"synthetic:{family}?n=3&size=24").tobytes().hex()


@pytest.mark.parametrize("family", SyntheticCorpus.families)
def test_the_size_changes_the_sharpness_alone(family: str) -> None:
    fine_NHWC, coarse_NHWC = (images_of(f"synthetic:{family}?n=8&size={size}").astype(float) for size in (64, 16))
    boxed_NHWC = fine_NHWC.reshape(8, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    for fine, coarse in zip(boxed_NHWC, coarse_NHWC, strict=True):
        assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.85
        assert np.abs(fine - coarse).mean() < 12


@pytest.mark.parametrize("family", SyntheticCorpus.families)
@pytest.mark.parametrize("size", [8, 17, 90])
def test_any_size(family: str, size: int) -> None:
    images_NHWC = images_of(f"synthetic:{family}?n=2&size={size}")
    assert images_NHWC.shape == (2, size, size, 3)
    assert images_NHWC.std(axis=(1, 2, 3)).min() > 3


# Means over 48 images, grey levels. A change means that the images changed: raise the family's version with it.
@pytest.mark.parametrize(("family", "mean"), [("shapes", 125.05), ("aerial", 141.62)])
def test_golden_means(family: str, mean: float) -> None:
    assert images_of(f"synthetic:{family}?n=48&size=16").mean() == pytest.approx(mean, abs=0.5)


@pytest.mark.parametrize("family", SyntheticCorpus.families)
def test_images_are_exposed_well_and_seldom_flat(family: str) -> None:
    images_NHWC = images_of(f"synthetic:{family}?n=150&size=16")
    assert 110 < images_NHWC.mean() < 165
    assert (images_NHWC == 255).mean() < 0.04
    assert (images_NHWC.std(axis=(1, 2, 3)) > 8).mean() > 0.95


# ------------------------------------------------------------------------------------------------------------ shapes


def a_scene(**changes: object) -> scene.Scene:
    """One red rubber sphere of radius 1 on the ground, seen from the south, 30 degrees up, the lamp to the west."""
    look_3 = np.array([0, np.cos(np.pi / 6), -np.sin(np.pi / 6)])
    stage = scene.Stage(
        ground_3=np.full(3, 0.4, np.float32),
        camera_3=(np.array([0, 0, 1]) - 8 * look_3).astype(np.float32),
        axes_33=np.array([[1, 0, 0], np.cross(look_3, [1, 0, 0]), look_3], np.float32),
        lens=0.4,
        lamp_3=np.array([-8, 0, 6], np.float32),
        lamp_colour_3=np.ones(3, np.float32),
        fill_3=np.array([0, -1, 0], np.float32),
    )
    facts: dict[str, object] = {
        "counts": (1, 0, 0),
        "centre_3M": np.array([[0], [0], [1]], np.float32),
        "half_M": np.ones(1, np.float32),
        "turn_2M": np.array([[1], [0]], np.float32),
        "colour_3M": np.array([[0.5], [0.02], [0.02]], np.float32),
        "metal_M": np.zeros(1, bool),
        "stage": stage,
    }
    return scene.Scene(**(facts | changes))  # type: ignore[arg-type]  # a test's shorthand


def look(what: scene.Scene, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float64]:
    monkeypatch.setattr(shapes, "build", lambda rng: what)
    return shapes.draw(generator_at("none", 0), 0, size=64).astype(float)


def test_a_sphere_is_round_lit_from_its_lamp_and_throws_a_shadow(monkeypatch: pytest.MonkeyPatch) -> None:
    image_HWC = look(a_scene(), monkeypatch)
    red_HW = image_HWC[..., 0] > image_HWC[..., 1] + 40
    rows, columns = np.nonzero(red_HW)
    radius = 1 / np.sqrt(8**2 - 1) / 0.4 * 32  # px: the tangent of the angle that it fills, over that of the picture
    assert np.ptp(rows) + 1 == pytest.approx(2 * radius, abs=2.5)
    assert np.ptp(columns) + 1 == pytest.approx(2 * radius, abs=2.5)
    assert red_HW.sum() == pytest.approx(np.pi * radius**2, rel=0.08)
    assert (rows.mean(), columns.mean()) == pytest.approx((31.5, 31.5), abs=1)
    middle = image_HWC[32]
    assert middle[22, 0] > middle[41, 0] + 40  # west of it is brighter
    grey_HW = image_HWC[40]  # the ground at its foot
    assert grey_HW[47, 1] < grey_HW[16, 1] - 40  # and the shadow falls to the east


def test_metal_mirrors_and_rubber_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rubber_HWC = look(a_scene(), monkeypatch)
    metal_HWC = look(a_scene(metal_M=np.ones(1, bool)), monkeypatch)
    inside = (slice(26, 38), slice(26, 38))
    assert metal_HWC[inside].max() > rubber_HWC[inside].max() + 20  # the lamp
    assert np.abs(np.diff(metal_HWC[inside], axis=0)).max() > 2 * np.abs(np.diff(rubber_HWC[inside], axis=0)).max()


def test_what_is_nearer_hides_what_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = a_scene(
        counts=(1, 0, 1),
        centre_3M=np.array([[0, 0], [2, -1], [1, 0.8]], np.float32),
        half_M=np.array([1, 0.8], np.float32),
        turn_2M=np.array([[1, 1], [0, 0]], np.float32),
        colour_3M=np.array([[0.5, 0.02], [0.02, 0.02], [0.02, 0.5]], np.float32),
        metal_M=np.zeros(2, bool),
    )
    image_HWC = look(pair, monkeypatch)
    front = image_HWC[34, 32]
    assert front[2] > front[0] + 40  # the blue cube, though the red sphere is on the same line


def depth(what: scene.Scene, origin_3P: light.Floats, ray_3P: light.Floats, way_MP: light.Floats) -> light.Floats:
    """Where a point along each ray lies in every object: 0 its middle, 1 its surface."""
    from_3MP = origin_3P[:, None] + way_MP * ray_3P[:, None] - what.centre_3M[:, :, None]
    x_MP, y_MP, z_MP = from_3MP / what.half_M[:, None]
    cos_M1, sin_M1 = what.turn_2M[:, :, None]
    kind_MP = np.broadcast_to(np.repeat([0, 1, 2], what.counts)[:, None], x_MP.shape)
    sphere_MP = np.sqrt(x_MP**2 + y_MP**2 + z_MP**2)
    cylinder_MP = np.maximum(np.hypot(x_MP, y_MP), np.abs(z_MP))
    cube_MP = np.max(np.abs([cos_M1 * x_MP + sin_M1 * y_MP, cos_M1 * y_MP - sin_M1 * x_MP, z_MP]), axis=0)
    return np.asarray(np.choose(kind_MP, [sphere_MP, cylinder_MP, cube_MP]))


def test_intervals_agree_with_points_inside() -> None:
    what = scene.build(generator_at("intervals", 0))
    rng = np.random.default_rng(0)
    origin_3P = rng.uniform(-4, 4, (3, 400)).astype(np.float32) + np.array([[0], [0], [5]], np.float32)
    ray_3P = light.unit(rng.uniform(-3, 3, (3, 400)).astype(np.float32) - origin_3P)
    near_MP, far_MP = shapes._intervals(what, origin_3P, ray_3P)
    assert 0.01 < (far_MP > near_MP).mean() < 0.5
    wide_MP = far_MP > near_MP + 0.05
    assert (depth(what, origin_3P, ray_3P, near_MP + 0.02)[wide_MP] < 1.001).all()
    assert (depth(what, origin_3P, ray_3P, far_MP - 0.02)[wide_MP] < 1.001).all()
    assert (depth(what, origin_3P, ray_3P, near_MP - 0.02)[wide_MP] > 0.999).all()
    assert (depth(what, origin_3P, ray_3P, far_MP + 0.02)[wide_MP] > 0.999).all()
    miss_MP = far_MP < near_MP
    assert (depth(what, origin_3P, ray_3P, (near_MP + far_MP) / 2)[miss_MP] > 0.999).all()


def test_scenes_hold_three_to_ten_objects_that_do_not_meet() -> None:
    counts = []
    for index in range(200):
        what = scene.build(generator_at("scenes", index))
        counts.append(len(what.half_M))
        assert sum(what.counts) == counts[-1]
        cube_M = np.repeat([False, False, True], what.counts)
        reach_M = what.half_M * np.where(cube_M, 2**0.5, 1)
        apart_MM = np.hypot(*(what.centre_3M[:2, :, None] - what.centre_3M[:2, None]))
        np.fill_diagonal(apart_MM, 9)
        assert (apart_MM > reach_M[:, None] + reach_M).all()
        assert np.allclose(what.centre_3M[2], what.half_M)  # they stand on the ground
        away_M = np.linalg.norm(what.stage.camera_3[:, None] - what.centre_3M, axis=0)
        assert (away_M > 1.75 * what.half_M).all()  # the camera is in none of them
    assert set(counts) == set(range(3, 11))


# ------------------------------------------------------------------------------------------------------------ aerial


def test_maps_are_periodic_and_bilinear() -> None:
    land = terrain.build(generator_at("land", 0))
    side, cell = terrain.CELLS, terrain.CELL
    north_P, east_P = np.array([3, 127, 0], np.float32), np.array([5, 0, 127], np.float32)
    at_FP = terrain.sample(land.maps_NNF, east_P * cell, north_P * cell)
    assert np.allclose(at_FP.T, land.maps_NNF[north_P.astype(int), east_P.astype(int)], atol=1e-3)
    round_FP = terrain.sample(land.maps_NNF, (east_P + side) * cell, (north_P - 2 * side) * cell)
    assert np.allclose(round_FP, at_FP, atol=0.05)
    half_FP = terrain.sample(land.maps_NNF, (east_P + 0.5) * cell, north_P * cell)
    next_FP = terrain.sample(land.maps_NNF, (east_P + 1) * cell, north_P * cell)
    assert np.allclose(half_FP, (at_FP + next_FP) / 2, atol=1e-2)


def test_a_tower_throws_its_shadow_away_from_the_sun() -> None:
    height_NN = np.zeros((terrain.CELLS, terrain.CELLS), np.float32)
    height_NN[60:64, 60:64] = 20
    sun_3 = np.array([np.cos(np.pi / 6), 0, np.sin(np.pi / 6)])  # in the east, 30 degrees up
    sun_NN = terrain._sunlit(height_NN, sun_3.astype(np.float64))
    assert sun_NN[62, 52:59].max() < 0.1  # 35 m long
    assert sun_NN[62, 66:90].min() == 1
    assert sun_NN[40, :].min() == 1
    assert sun_NN[62, 20:40].min() == 1


def test_water_lies_flat_and_trees_stand_on_dry_land() -> None:
    wet = trees = 0
    for index in range(30):
        land = terrain.build(generator_at("land", index))
        maps = dict(zip(terrain.MAPS, np.moveaxis(land.maps_NNF, 2, 0), strict=True))
        assert all(np.isfinite(field).all() for field in maps.values())
        assert np.linalg.norm(land.sun_3) == pytest.approx(1, abs=1e-5)
        assert 0.2 < land.sun_3[2] < 0.95
        wet += (maps["depth"] > 0.5).mean() > 0.05
        trees += (maps["tree"] > 1).mean() > 0.02
        assert (maps["tree"][maps["depth"] > 1.5] > 1).mean() < 0.03 if (maps["depth"] > 1.5).any() else True
    assert 5 < wet < 25
    assert 5 < trees < 28


def test_rays_end_where_a_slow_march_ends() -> None:
    for index in range(6):
        rng = generator_at("march", index)
        land = terrain.build(rng)
        camera = aerial._camera(rng, land)
        lines = aerial._lines(land, camera, 64, sight=800)
        across_P, down_P = np.random.default_rng(index).uniform(-1, 1, (2, 200)).astype(np.float32)
        ray_3P = light.rays(camera.axes_33, camera.lens, across_P, down_P)
        flat_P = np.hypot(ray_3P[0], ray_3P[1])
        way_P = aerial._ways(lines, ray_3P, flat_P) / flat_P
        steps_S1 = np.linspace(0, 600, 3000, dtype=np.float32)[:, None]  # in ray lengths: 0.2 m
        place = [camera.place_3[axis] + steps_S1 * ray_3P[axis] for axis in range(3)]
        ground_SP = terrain.sample(land.maps_NNF[:, :, terrain.HEIGHT], place[0].ravel(), place[1].ravel())[0]
        below_SP = place[2] < ground_SP.reshape(3000, 200)
        march_P = np.where(below_SP.any(axis=0), steps_S1[below_SP.argmax(axis=0), 0], np.inf)
        near_P = march_P < 300
        assert near_P.any()
        off_P = np.abs(way_P[near_P] - march_P[near_P]) / march_P[near_P]
        assert np.median(off_P) < 0.02
        assert (off_P < 0.1).mean() > 0.85  # the rest pass close by an edge


def test_haze_takes_what_is_far_and_winter_is_white() -> None:
    land = terrain.build(generator_at("land", 3))
    clear = weather.forecast(generator_at("sky", 0), land.sun_3)
    assert clear.sight > 250
    seasons = [weather.SEASONS[place].snow > 0 for place in range(4)]
    assert seasons == [False, False, False, True]
    brightness = {
        season: images.mean()
        for season, images in ((s, _with_season(s)) for s in (weather.SEASONS[1], weather.SEASONS[3]))
    }
    assert brightness[weather.SEASONS[3]] > brightness[weather.SEASONS[1]] + 10
    assert terrain.CLIMATES["desert"].water == (0, 0)


def _with_season(season: weather.Season) -> NDArray[np.uint8]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weather, "SEASONS", (season,) * 4)
        return np.stack([aerial.draw(generator_at("season", index), index, size=16) for index in range(20)])
