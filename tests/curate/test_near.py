"""Near duplicates by their sequential definition, exact at the border; nearness to a given set; the spread."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from curate import near as near_module
from curate.near import near, near_duplicates, spread

FACES = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)


def sequential(features_ND: NDArray[Any], within: float) -> list[int]:
    """The definition, a row at a time."""
    rows, kept, of = features_ND.astype(np.float64), list[int](), list[int]()
    for i, row in enumerate(rows):
        apart = {j: float(np.sqrt(np.square(rows[j] - row).sum())) for j in kept}
        best = min(apart, key=lambda j: (apart[j], j)) if apart else -1
        of.append(best if apart and apart[best] <= within else -1)
        if of[-1] < 0:
            kept.append(i)
    return of


@settings(max_examples=200, deadline=None)
@given(
    features=arrays(np.float32, st.tuples(st.integers(0, 40), st.just(2)), elements=st.integers(-4, 4).map(float)),
    within=st.sampled_from([0, 1, 2**0.5, 2, 3, 5, 100, np.inf]),
    block=st.sampled_from([1, 3, 16, 2048]),
    offset=st.sampled_from([0, 1000]),
)
def test_rows_full_of_ties_and_borders_follow_the_definition(
    features: NDArray[Any], within: float, block: int, offset: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_module, "_BLOCK", block)
        found = near_duplicates(features + np.float32(offset), within, threads=1)
    assert found.tolist() == sequential(features, within)
    assert found.dtype == np.int64


@pytest.mark.parametrize("within", [0.5, 1.5, 2.5, 10])
@pytest.mark.parametrize("block", [7, 64, 2048])
@pytest.mark.parametrize("threads", [1, 3])
def test_neither_blocks_nor_threads_decide(
    monkeypatch: pytest.MonkeyPatch, within: float, block: int, threads: int
) -> None:
    monkeypatch.setattr(near_module, "_BLOCK", block)
    assert near_duplicates(FACES, within, threads=threads).tolist() == sequential(FACES, within)


def test_a_large_common_mean_costs_no_accuracy() -> None:
    features = 10 + FACES.astype(np.float64) * 0.01
    for within in (0.005, 0.015, 0.025):
        assert near_duplicates(features, within).tolist() == sequential(features, within)


@pytest.mark.parametrize("block", [1, 2048])
def test_the_border_belongs_to_it_and_the_next_number_does_not(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(near_module, "_BLOCK", block)
    for a, b in FACES[:40].reshape(20, 2, 6):
        pair = np.stack([a, b])
        border = float(np.sqrt(np.square(a.astype(np.float64) - b.astype(np.float64)).sum()))
        assert near_duplicates(pair, border).tolist() == [-1, 0]
        assert near_duplicates(pair, float(np.nextafter(border, 0))).tolist() == [-1, -1]


def test_rows_that_were_left_out_start_no_chain() -> None:
    steps = np.arange(6.0)[:, None]
    assert near_duplicates(steps, 1).tolist() == [-1, 0, -1, 2, -1, 4]
    assert near_duplicates(steps, 2).tolist() == [-1, 0, 0, -1, 3, 3]


def test_the_nearest_kept_row_is_named() -> None:
    assert near_duplicates(np.array([[0.0], [3.0], [2.0]]), 2).tolist() == [-1, -1, 1]


def test_copies_are_found_at_distance_zero() -> None:
    assert near_duplicates(np.repeat(FACES, 2, axis=0), 0).tolist() == [v for i in range(120) for v in (-1, 2 * i)]
    assert near_duplicates(np.ones((5000, 3)), 0).tolist() == [-1, *[0] * 4999]


def test_no_rows_and_one_row() -> None:
    assert near_duplicates(FACES[:0], 1).tolist() == []
    assert near_duplicates(FACES[:1], 1).tolist() == [-1]


def test_near_names_the_nearest_given_row_within_reach() -> None:
    given_rows = np.array([[0.0, 0.0], [10.0, 0.0]])
    features = np.array([[1.0, 0.0], [9.5, 0.0], [5.0, 0.0], [0.0, 3.0], [3.0001, 0.0]])
    assert near(features, given_rows, 3).tolist() == [0, 1, -1, 0, -1]
    assert near(features, given_rows, 5).tolist() == [0, 1, 0, 0, 0]  # a tie: the smaller index
    assert near(features, given_rows[:0], 3).tolist() == [-1] * 5
    assert near(features[:0], given_rows, 3).tolist() == []


def test_spread_is_the_root_mean_square_distance_to_the_mean() -> None:
    assert spread(np.array([[0.0, 0.0], [6.0, 8.0]])) == 5
    features = (10 + 0.01 * np.random.default_rng(0).normal(size=(5000, 64))).astype(np.float32)
    wide = features.astype(np.float64)
    assert spread(features) == pytest.approx(np.sqrt(wide.var(axis=0).sum()), rel=1e-12)
    assert spread(np.full((9, 4), 0.1, np.float32)) == pytest.approx(0, abs=1e-15)
    assert spread(features[:0]) == 0


def test_progress_counts_the_rows() -> None:
    told = list[int]()
    near_duplicates(np.arange(5000.0)[:, None], 0.5, advance=told.append)
    assert sum(told) == 5000
