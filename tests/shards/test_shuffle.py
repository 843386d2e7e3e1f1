"""The default window shuffles as a true permutation does, to 5 %, on the set where it is hardest: sorted by class."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.layout import block_rows
from shards.order import WINDOW, Order

ROWS, SEEDS = 50_000, 40


@cache
def orders(window: int) -> list[NDArray[np.int64]]:
    """Stored rows in stream order, one epoch for each seed."""
    step = block_rows(32)
    counts = np.array([min(step, ROWS - start) for start in range(0, ROWS, step)])
    epochs = [Order(id="set", counts=counts, seed=seed, window=window).epoch(0) for seed in range(SEEDS)]
    return [np.concatenate([piece.rows for piece in epoch.pieces(0, ROWS)]) for epoch in epochs]


def run_length(order: NDArray[np.int64], classes: int) -> float:
    """Mean length of runs of one class."""
    return ROWS / (1 + np.count_nonzero(np.diff(order * classes // ROWS)))


@pytest.mark.parametrize("classes", [10, 100])
def test_runs_of_a_class_are_a_permutations_to_5_percent(classes: int) -> None:
    a_permutations = (ROWS - 1) / (ROWS - ROWS // classes)  # one over the chance that the next row is of another class
    found = np.mean([run_length(order, classes) for order in orders(WINDOW)]) / a_permutations
    assert 0.99 < found < 1.05
    assert np.mean([run_length(order, classes) for order in orders(8)]) / a_permutations > 1.05  # so it can be told


def test_rows_go_as_far_as_in_a_permutation_to_5_percent() -> None:
    a_permutations = (ROWS**2 - 1) / (3 * ROWS)
    mean = np.mean([np.abs(order - np.arange(ROWS)).mean() for order in orders(WINDOW)])
    assert mean == pytest.approx(a_permutations, rel=0.05)
    assert all(np.array_equal(np.sort(order), np.arange(ROWS)) for order in orders(WINDOW)[:2])
