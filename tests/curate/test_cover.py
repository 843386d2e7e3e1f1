"""Greedy covering against the plain loop in whole numbers, its ties and limits, and that nothing else decides."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from curate import cover as cover_module
from curate import grid
from curate.cover import Cover, greedy_approach, greedy_cover
from curate.errors import CurateError

Points = NDArray[Any]


def drawn(n: int, d: int = 3, *, seed: int = 0, clusters: int = 5) -> Points:
    """A mixture of Gaussians of several widths, float32."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, clusters, n)
    means, widths = rng.normal(size=(clusters, d)) * 4, rng.uniform(0.1, 2, clusters)
    return (means[cluster] + rng.normal(size=(n, d)) * widths[cluster, None]).astype(np.float32)


def table(a_ND: Points, b_MD: Points) -> NDArray[np.float64]:
    """All squared distances, by differences in float64."""
    apart = a_ND[:, None].astype(np.float64) - b_MD[None].astype(np.float64)
    return np.asarray(np.square(apart).sum(axis=-1))


def radius_of(watched_ND: Points, served_KD: Points) -> float:
    return float(np.sqrt(table(watched_ND, served_KD).min(axis=1).max()))


def plain(
    watched_WD: Points,
    points_ND: Points,
    count: int,
    *,
    groups: Points | None = None,
    room: Points | None = None,
    start: Points | None = None,
    by_itself: bool,
) -> tuple[list[int], list[float]]:
    """Both rules one step at a time, every distance from the table."""
    groups = np.zeros(len(points_ND), int) if groups is None else groups
    left = [len(points_ND)] if room is None else list(room)
    square_WN, chosen, radii = table(watched_WD, points_ND), list[int](), list[float]()
    gap = np.full(len(watched_WD), np.inf)
    if start is not None and len(start):
        gap = table(watched_WD, start).min(axis=1)
    mean_W = np.square(watched_WD - watched_WD.mean(axis=0, dtype=np.float64)).sum(axis=1)
    while len(chosen) < count and any(left[g] > 0 and n not in chosen for n, g in enumerate(groups)):
        has_room = np.array([left[g] > 0 for g in groups])
        asking = []
        for w in range(len(watched_WD)):
            best = w if by_itself else int(np.where(has_room, square_WN[w], np.inf).argmin())
            if has_room[best] and gap[w] > square_WN[w, best]:
                asking.append((mean_W[w] if np.isinf(gap[w]) else gap[w], -w, best))
        rest = [n for n in range(len(points_ND)) if has_room[n] and n not in chosen]
        take = max(asking)[2] if asking else min(rest, key=lambda n: (not by_itself and square_WN[:, n].min(), n))
        chosen.append(take)
        left[groups[take]] -= 1
        gap = np.minimum(gap, square_WN[:, take])
        radii.append(float(np.sqrt(gap.max())))
    return chosen, radii


def whole(n: st.SearchStrategy[int], d: int = 2) -> st.SearchStrategy[Points]:
    """Points of small whole numbers: full of ties and copies. Symmetric about 0, so that the mean is on the grid."""
    coordinates = st.integers(-3, 3)
    rows = n.flatmap(lambda k: st.lists(st.tuples(*[coordinates] * d), min_size=k, max_size=k))
    return rows.map(lambda r: np.array([v for row in r for v in (row, tuple(-x for x in row))], float).reshape(-1, d))


@st.composite
def limits(draw: st.DrawFn, n: int) -> dict[str, Points | None]:
    """No groups, or three with 0 to 4 places each."""
    if draw(st.booleans()):
        return {"groups": None, "room": None}
    groups = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    room = draw(st.lists(st.integers(0, 4), min_size=3, max_size=3))
    return {"groups": np.array(groups, int), "room": np.array(room)}


def check(found: Cover, expected: tuple[list[int], list[float]]) -> None:
    assert found.chosen.tolist() == expected[0]
    np.testing.assert_allclose(found.radius, expected[1], rtol=1e-12, atol=1e-12)
    assert found.chosen.dtype == np.dtype(np.int64)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), points=whole(st.integers(1, 12)), start=whole(st.integers(0, 2)), count=st.integers(0, 30))
@pytest.mark.parametrize("sizes", [(1, 1), (2, 4), (64, 2048)])
def test_cover_is_the_plain_loop_step_for_step(
    sizes: tuple[int, int], data: st.DataObject, points: Points, start: Points, count: int
) -> None:
    limit = data.draw(limits(len(points)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cover_module, "_SMALLEST", sizes[0])
        patch.setattr(cover_module, "_LARGEST", sizes[1])
        found = greedy_cover(
            points, count, groups_N=limit["groups"], room_G=limit["room"], covered_by_MD=start, threads=1
        )
    check(found, plain(points, points, count, start=start, by_itself=True, **limit))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), reference=whole(st.integers(1, 8)), points=whole(st.integers(1, 12)), count=st.integers(0, 30))
@pytest.mark.parametrize("sizes", [(1, 1), (2, 4), (64, 2048)])
def test_approach_is_the_plain_loop_step_for_step(
    sizes: tuple[int, int], data: st.DataObject, reference: Points, points: Points, count: int
) -> None:
    limit = data.draw(limits(len(points)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cover_module, "_SMALLEST", sizes[0])
        patch.setattr(cover_module, "_LARGEST", sizes[1])
        found = greedy_approach(reference, points, count, groups_N=limit["groups"], room_G=limit["room"], threads=1)
    check(found, plain(reference, points, count, by_itself=False, **limit))


@pytest.mark.parametrize("seed", range(3))
def test_clustered_points_are_covered_as_by_the_plain_loop(seed: int) -> None:
    points = drawn(1500, 16, seed=seed)
    found = greedy_cover(points, 300)
    gap, chosen = np.full(len(points), np.inf), list[int]()
    wide = points.astype(np.float64)
    worth = np.square(wide - wide.mean(axis=0)).sum(axis=1)
    for _ in range(300):
        chosen.append(int(worth.argmax()))
        worth = gap = np.minimum(gap, np.square(wide - wide[chosen[-1]]).sum(axis=1))
    assert found.chosen.tolist() == chosen
    assert found.radius[-1] == pytest.approx(np.sqrt(gap.max()), rel=1e-9)


@pytest.mark.parametrize("offset", [0, 10, 1000])
def test_a_large_common_mean_costs_no_accuracy(offset: float) -> None:
    points = offset + np.random.default_rng(0).normal(size=(400, 8)) * 0.01
    found = greedy_cover(points, 40)
    steps = [radius_of(points, points[found.chosen[: i + 1]]) for i in range(40)]
    np.testing.assert_allclose(found.radius, steps, rtol=1e-6)
    assert found.radius[-1] == pytest.approx(steps[-1], rel=1e-9)
    assert (np.diff(found.radius) <= 0).all()


def test_the_last_radius_is_exact_however_coarse_an_outlier_makes_the_grid() -> None:
    points = drawn(300, 4)
    points[7] = 1e6
    found = greedy_cover(points, 50)
    assert found.chosen[0] == 7
    assert found.radius[-1] == pytest.approx(radius_of(points, points[found.chosen]), rel=1e-9)
    assert abs(found.radius[9] - radius_of(points, points[found.chosen[:10]])) < np.sqrt(4) * 2e6 * 2.0**-24
    reference = drawn(200, 4, seed=1)
    reached = greedy_approach(reference, points, 30)
    assert reached.radius[-1] == pytest.approx(radius_of(reference, points[reached.chosen]), rel=1e-9)


@pytest.mark.parametrize("count", [0, -1])
def test_nothing_asked_nothing_taken(count: int) -> None:
    points = drawn(5)
    for found in (greedy_cover(points, count), greedy_approach(points, points, count), greedy_cover(points[:0], 3)):
        assert len(found.chosen) == len(found.radius) == 0
    assert len(greedy_approach(points, points[:0], 3).chosen) == 0


def test_one_point() -> None:
    found = greedy_cover(np.ones((1, 4), np.float32), 5)
    assert (found.chosen.tolist(), found.radius.tolist()) == ([0], [0.0])


def test_more_than_there_are_takes_all_once() -> None:
    points = drawn(100)
    for found in (greedy_cover(points, 1000), greedy_approach(drawn(30, seed=4), points, 1000)):
        assert sorted(found.chosen.tolist()) == list(range(100))
    assert greedy_cover(points, 1000).radius[-1] == 0


def test_equal_points_go_by_index_at_radius_zero() -> None:
    points = np.full((3000, 5), 0.1, np.float32)
    found = greedy_cover(points, 2500)
    assert found.chosen.tolist() == list(range(2500))
    assert not found.radius.any()


def test_copies_come_after_everything_else() -> None:
    points = drawn(200)
    found = greedy_cover(np.concatenate([points, points]), 300)
    assert set(found.chosen[:200].tolist()) == set(range(200))  # the first of each two
    assert found.chosen[200:].tolist() == list(range(200, 300))
    assert found.radius[198] > 0
    assert not found.radius[199:].any()


def test_what_a_reference_covers_is_taken_last() -> None:
    points, more = drawn(100), drawn(20, seed=1) + 50
    found = greedy_cover(np.concatenate([points, more]), 40, covered_by_MD=points)
    assert set(found.chosen[:20].tolist()) == set(range(100, 120))
    assert found.chosen[20:].tolist() == list(range(20))
    all_covered = greedy_cover(points, 10, covered_by_MD=points)
    assert all_covered.chosen.tolist() == list(range(10))
    assert not all_covered.radius.any()


def test_a_group_without_room_is_covered_but_not_taken() -> None:
    points, groups = np.array([[0.0], [1.0], [2.0], [100.0]]), np.array([0, 0, 0, 1])
    found = greedy_cover(points, 9, groups_N=groups, room_G=np.array([2, 0]))
    assert found.chosen.tolist() == [0, 2]
    assert found.radius.tolist() == [100, 98]
    assert len(greedy_cover(points, 9, groups_N=groups, room_G=np.array([0, 0])).chosen) == 0
    assert len(greedy_approach(points, points, 9, groups_N=groups, room_G=np.array([0, 0])).chosen) == 0


def test_groups_and_room_go_together() -> None:
    with pytest.raises(ValueError, match="groups_N and room_G go together"):
        greedy_cover(drawn(3), 1, groups_N=np.zeros(3, int))


def test_approach_takes_the_nearest_group_with_room() -> None:
    reference, points = np.array([[0.0], [10.0]]), np.array([[0.1], [10.1], [0.3], [9.0]])
    groups = np.array([0, 0, 1, 1])
    found = greedy_approach(reference, points, 4, groups_N=groups, room_G=np.array([1, 2]))
    assert found.chosen.tolist() == [0, 3, 2]
    np.testing.assert_allclose(found.radius, [9.9, 1, 1])


def test_beyond_the_floor_approach_takes_what_is_nearest_to_the_reference() -> None:
    reference, points = np.array([[-1.0], [1.0]]), np.array([[5.0], [-3.0], [3.0], [1.5], [-1.5], [0.0]])
    found = greedy_approach(reference, points, 6)
    assert found.chosen.tolist() == [4, 3, 5, 1, 2, 0]
    assert found.radius.tolist() == [2.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_approach_reaches_the_floor_sooner_than_chance() -> None:
    reference, points = np.split(drawn(1300, 8), [300])
    found = greedy_approach(reference, points, 150)
    floor = radius_of(reference, points)
    chance = radius_of(reference, points[np.random.default_rng(0).permutation(1000)[:150]])  # three times as many
    assert (np.diff(found.radius) <= 0).all()
    assert found.radius[-1] == pytest.approx(radius_of(reference, points[found.chosen]), rel=1e-9)
    np.testing.assert_allclose(found.radius[50:], floor, rtol=1e-9)
    assert floor < 0.9 * chance


def test_an_empty_reference_is_refused() -> None:
    with pytest.raises(CurateError, match="the reference holds no features"):
        greedy_approach(drawn(0), drawn(3), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    points = drawn(10)
    points[3, 1], points[4, 1] = bad, -bad
    with pytest.raises(CurateError, match="a feature is NaN or infinite; leave such rows out"):
        greedy_cover(points, 2)
    with pytest.raises(CurateError, match="a feature is NaN or infinite"):
        greedy_cover(drawn(10), 2, covered_by_MD=points)


def test_threads_and_blocks_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, groups = drawn(3000, 24), np.arange(3000) % 3
    room = np.array([40, 200, 200])

    def both(threads: int) -> list[NDArray[Any]]:
        one = greedy_cover(points, 300, groups_N=groups, room_G=room, threads=threads)
        two = greedy_approach(points[:900], points[900:], 300, threads=threads)
        return [one.chosen, one.radius, two.chosen, two.radius]

    expected = both(1)
    for threads, rows, centres, pools in ((3, 1024, 1024, 2048), (2, 77, 5, 100), (1, 4000, 300, 17)):
        monkeypatch.setattr(grid, "_ROWS", rows)
        monkeypatch.setattr(grid, "_CENTRES", centres)
        monkeypatch.setattr(cover_module, "_LARGEST", pools)
        with threadpool_limits(threads):
            for a, b in zip(both(threads), expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_the_order_of_float16_float32_and_float64_is_one() -> None:
    points = drawn(500, 6).astype(np.float16)
    orders = [greedy_cover(points.astype(kind), 60).chosen.tolist() for kind in (np.float16, np.float32, np.float64)]
    assert orders[0] == orders[1] == orders[2]


def test_progress_adds_up_to_what_was_asked() -> None:
    points, told = drawn(400), list[int]()
    greedy_cover(points, 150, advance=told.append)
    assert sum(told) == 150
    told.clear()
    greedy_approach(points[:20], points, 150, advance=told.append)
    assert sum(told) == 150


def test_products_on_the_grid_are_whole_and_exact() -> None:
    (placed_NE,), step = grid.place(drawn(60, 2048, clusters=3))
    points = placed_NE.astype(object).astype(int)  # Python's integers, of any size
    square = ((points[:, None, :-1] - points[None, :20, :-1]) ** 2).sum(axis=-1)
    gaps = grid.Gaps(placed_NE, threads=2)
    gaps.serve(placed_NE[:20])
    assert (gaps.gap_N == square.min(axis=1)).all()
    assert square.max() < 2**53
    assert np.log2(step) == round(np.log2(step))
