"""Distances equal brute force in float64 on data that break the usual shortcut, and never depend on threads."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate import distance as distance_module
from curate import search as search_module
from curate.distance import Directed, directed, hausdorff, nearest
from curate.errors import DistanceError

Rows = NDArray[Any]


def brute(a_ND: Rows, b_MD: Rows) -> tuple[Rows, Rows]:
    """Nearest distances and first nearest rows, from float64 differences."""
    a_ND, b_MD = a_ND.astype(np.float64), b_MD.astype(np.float64)
    pairs = [np.sqrt(np.square(a_D - b_MD).sum(axis=1)) for a_D in a_ND]
    return np.array([d_M.min() for d_M in pairs]), np.array([d_M.argmin() for d_M in pairs])


def normal(*shape: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def in_two_tight_clusters(rows: int, width: int, *, seed: int) -> Rows:
    """1e-4 wide, 100 apart: float32 sees two points."""
    ends = normal(2, width, seed=99) * 100
    return ends[np.random.default_rng(seed).integers(0, 2, rows)] + normal(rows, width, seed=seed) * np.float32(1e-2)


def with_row(rows_ND: Rows, row: int, value: float) -> Rows:
    rows_ND[row] = value
    return rows_ND


A, B = normal(300, 32, seed=1), normal(3000, 32, seed=2)  # the base: more than one chunk
CASES: dict[str, tuple[Rows, Rows]] = {
    "plain": (A, B),
    "mean 10, sd 0.01": (A * np.float32(0.01) + 10, B * np.float32(0.01) + 10),
    "two tight clusters": (in_two_tight_clusters(300, 32, seed=1), in_two_tight_clusters(3000, 32, seed=2)),
    "nearly its own neighbours": (B[:300] * np.float32(1000) + A * np.float32(1e-3), B * np.float32(1000)),
    "float64, closer than float32 can tell": (1 + A.astype(np.float64) * 1e-10, 1 + B.astype(np.float64) * 1e-10),
    "an outlier in the base": (A, with_row(B.copy(), 1234, 1e6)),
    "an outlier among the queries": (with_row(A.copy(), 123, 1e6), B),
    "whole numbers, many ties": (np.round(A[:, :4]), np.round(B[:, :4]) + 0.5),
    "the same rows over and over": (A[:50].repeat(6, axis=0), np.tile(B[:7], (400, 1))),
    "all in one point": (np.full((300, 32), 0.1, np.float32), np.full((3000, 32), 0.3, np.float32)),
    "a subset": (B[1000:1300], B),
    "partly a subset": (np.concatenate([B[2000:2100], A[:200]]), B),
    "one number a row": (A[:, :1], B[:, :1]),
    "wide rows": (normal(20, 4096, seed=1), normal(300, 4096, seed=2)),
    "half precision against double": (A.astype(np.float16), B.astype(np.float64)),
    "integers": ((A * 100).astype(np.int64), (B * 100).astype(np.int64)),
    "rows in reversed memory": (A[::-1, ::-1], np.asfortranarray(B)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_brute_force(name: str) -> None:
    a_ND, b_MD = CASES[name]
    distance_N, index_N = brute(a_ND, b_MD)
    for threads in (1, 3):
        found = nearest(a_ND, b_MD, threads=threads)
        np.testing.assert_allclose(found.distance_N, distance_N, rtol=1e-14)
        np.testing.assert_array_equal(found.index_N, index_N)
        farthest = directed(a_ND, b_MD, threads=threads)
        assert farthest.distance == found.distance_N.max()
        assert farthest.a_index == found.distance_N.argmax()
        assert farthest.b_index == index_N[farthest.a_index]


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e-6, 1e6, 1e30, 1e300])
def test_scale_is_only_scale(factor: float) -> None:
    a_ND, b_MD = (rows.astype(np.float64) for rows in CASES["partly a subset"])
    plain, scaled = nearest(a_ND, b_MD), nearest(a_ND * factor, b_MD * factor)
    np.testing.assert_array_equal(scaled.index_N, plain.index_N)
    np.testing.assert_allclose(scaled.distance_N / factor, plain.distance_N, rtol=1e-13)


SMALL = st.integers(1, 12)
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1 + 2**-23, 1e-20, -1e-20, 3e5, 3e5 + 0.03125, 1e18, -7.25])


@st.composite
def two_sets(draw: st.DrawFn) -> tuple[Rows, Rows]:
    """Two small sets of awkward numbers: equal rows, zeros of both signs, scales that drown one another."""
    width = draw(st.integers(1, 4))
    sets = [
        draw(st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=12)) for _ in range(2)
    ]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return np.array(sets[0], dtype), np.array(sets[1], dtype)


@given(two_sets())
@settings(max_examples=150, deadline=None)
def test_awkward_numbers_equal_brute_force(sets: tuple[Rows, Rows]) -> None:
    a_ND, b_MD = sets
    distance_N, index_N = brute(a_ND, b_MD)
    found, farthest = nearest(a_ND, b_MD, threads=1), directed(a_ND, b_MD, threads=1)
    np.testing.assert_allclose(found.distance_N, distance_N, rtol=1e-14)
    np.testing.assert_array_equal(found.index_N, index_N)
    row = int(found.distance_N.argmax())
    assert farthest == Directed(distance=found.distance_N[row], a_index=row, b_index=int(index_N[row]))


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 64]))
@settings(max_examples=25, deadline=None)
def test_small_pieces_find_the_same(seed: int, queries: int, base: int, width: int) -> None:
    """Chunks of one row and blocks of two queries: every seam of the search is crossed."""
    a_ND, b_MD = normal(queries, width, seed=seed), normal(base, width, seed=seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"FIRST": 1, "CHUNK": 3, "TILE": 2, "TASK": 4, "MANY": 0, "MEASURED": 1, "SAMPLE": 2}.items():
            patch.setattr(search_module, name, size)
        for name, size in {"BLOCK": 2, "AT_ONCE": 5, "PROBES": 2}.items():
            patch.setattr(distance_module, name, size)
        found, farthest = nearest(a_ND, b_MD, threads=2), directed(a_ND, b_MD, threads=2)
    np.testing.assert_array_equal(found.index_N, brute(a_ND, b_MD)[1])
    assert farthest.distance == found.distance_N.max()
    assert farthest.a_index == found.distance_N.argmax()


def test_rows_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    a_ND, b_MD = normal(40, 3, seed=1), normal(50, 3, seed=2)
    b_MD[7] = b_MD[30] = a_ND[11]
    monkeypatch.setattr(search_module.Search, "_hashes", lambda self, rows: np.zeros(len(rows), np.uint64))
    found = nearest(a_ND, b_MD)
    np.testing.assert_array_equal(found.index_N, brute(a_ND, b_MD)[1])
    assert (found.index_N[11], found.distance_N[11]) == (7, 0.0)


def test_the_bounds_are_bounds() -> None:
    """The claim on which everything rests, over every pair: below the truth, and not far below."""
    a_ND, b_MD = CASES["two tight clusters"]
    with search_module.Search(a_ND, b_MD, threads=1) as search:
        queries = np.arange(len(a_ND))
        below_NC = search.minima(queries, range(search.chunks)).astype(np.float64)
        above_N = search.above(queries, below_NC.astype(np.float32), range(search.chunks))
        true_N = np.square(brute(a_ND, b_MD)[0] * search.scale)
        assert (below_NC.min(axis=1) + search.square_N <= true_N).all()
        assert (true_N <= above_N).all()
        assert (above_N - true_N < 1e-4 * (search.square_N + 1)).all()


def test_both_directions_and_their_companions() -> None:
    a_ND, b_MD = CASES["partly a subset"]
    found = hausdorff(a_ND, b_MD)
    for way, one, other in ((found.a_to_b, a_ND, b_MD), (found.b_to_a, b_MD, a_ND)):
        distance_N, index_N = brute(one, other)
        assert way.directed.a_index == distance_N.argmax()
        assert way.directed.b_index == index_N[distance_N.argmax()]
        assert way.directed.distance == pytest.approx(distance_N.max(), rel=1e-14)
        assert way.mean_of_min == pytest.approx(distance_N.mean(), rel=1e-14)
        assert way.q95 == pytest.approx(np.quantile(distance_N, 0.95), rel=1e-14)
    assert found.a_to_b.directed != found.b_to_a.directed
    for name in ("mean_of_min", "q95"):
        assert getattr(found, name) == max(getattr(found.a_to_b, name), getattr(found.b_to_a, name))
    assert found.hausdorff == max(found.a_to_b.directed.distance, found.b_to_a.directed.distance)
    quick = hausdorff(a_ND, b_MD, robust=False)
    assert (quick.a_to_b.directed, quick.b_to_a.directed) == (found.a_to_b.directed, found.b_to_a.directed)
    assert (quick.mean_of_min, quick.q95, quick.a_to_b.nearest) == (None, None, None)
    assert quick.hausdorff == found.hausdorff


def test_a_subset_is_at_no_distance_from_its_set_but_not_the_reverse() -> None:
    found = hausdorff(*CASES["a subset"])
    assert found.a_to_b.directed == Directed(distance=0.0, a_index=0, b_index=1000)
    assert found.a_to_b.q95 == 0
    assert found.b_to_a.directed.distance > 0


def test_few_pairs_are_looked_at_where_the_maximum_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    a_ND, b_MD = normal(1000, 16, seed=1), normal(20_000, 16, seed=2)
    a_ND[77] += 5
    looked: list[int] = []
    minima = search_module.Search.minima

    def counted(self: search_module.Search, queries: Rows, chunks: range) -> Rows:
        looked.append(len(queries) * (self.edges[chunks.stop] - self.edges[chunks.start]))
        return minima(self, queries, chunks)

    monkeypatch.setattr(search_module.Search, "minima", counted)
    assert directed(a_ND, b_MD).a_index == 77
    assert sum(looked) < 0.06 * len(a_ND) * len(b_MD)


def test_progress_reaches_the_total() -> None:
    a_ND, b_MD = CASES["partly a subset"]
    for work in (nearest, directed):
        told: list[int] = []
        work(a_ND, b_MD, advance=told.append)
        assert sum(told) == len(a_ND)
        assert min(told) >= 0


def test_inputs_are_left_as_they_were() -> None:
    a_ND, b_MD = CASES["plain"]
    before = a_ND.copy(), b_MD.copy()
    hausdorff(a_ND, b_MD)
    np.testing.assert_array_equal(a_ND, before[0])
    np.testing.assert_array_equal(b_MD, before[1])


def test_threads_of_the_matrix_library_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from threadpoolctl import threadpool_info

    def blas() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = blas()
    nearest(normal(10, 3), normal(20, 3))
    assert blas() == before

    def fail(self: search_module.Search) -> None:
        assert set(blas()) == {1}
        raise KeyboardInterrupt

    monkeypatch.setattr(search_module.Search, "_twins", fail)
    with pytest.raises(KeyboardInterrupt):
        nearest(normal(10, 3), normal(20, 3))
    assert blas() == before


PLAIN = normal(5, 3)
HOLED = PLAIN.copy()
HOLED[3, 1] = np.nan
ENDLESS = PLAIN.copy()
ENDLESS[[1, 2], 0] = -np.inf


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (HOLED, PLAIN, "A: NaN or infinity in 1 of 5 rows, first in row 3; leave those rows out"),
        (PLAIN, ENDLESS, "B: NaN or infinity in 2 of 5 rows, first in row 1; leave those rows out"),
        (PLAIN, PLAIN[:, :2], "A: rows of 3 numbers, B: of 2; expected vectors of one length"),
        (PLAIN[:0], PLAIN, r"A: no vectors \(shape \(0, 3\)\); a distance needs at least one on each side"),
        (PLAIN, PLAIN[:0], r"B: no vectors \(shape \(0, 3\)\)"),
        (PLAIN[:, :0], PLAIN[:, :0], r"A: no vectors \(shape \(5, 0\)\)"),
        (PLAIN[0], PLAIN, r"A: float32 of shape \(3,\); expected numbers, a row for each sample \(N, D\)"),
        (PLAIN, [["a"]], r"B: <U1 of shape \(1, 1\); expected numbers"),
        (PLAIN, PLAIN + 1j, r"B: complex64 of shape \(5, 3\); expected numbers"),
    ],
)
def test_what_has_no_distance_is_refused_in_words(a: Rows, b: Rows, words: str) -> None:
    for measure in (directed, hausdorff):
        with pytest.raises(DistanceError, match=f"^{words}"):
            measure(a, b)
    with pytest.raises(DistanceError):
        nearest(a, b)
