"""Distances without rounding error: points are put on a fine grid, on which float64 matrix products are exact.

The expanded square |p|^2 + |c|^2 - 2 p.c is the only fast way to many distances, and it cancels: equal points come out
a little apart, ties are broken by noise, and the noise changes with block sizes, threads and processors. On integers
below 2^26 in norm every product and every partial sum of it stays below 2^53, so nothing is ever rounded and none of
that can matter.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from curate.errors import CurateError

# Norms reach 2^25 steps at most (and half a step a coordinate), so squared distances (2 x 2^25)^2 = 2^52 and a little.
_BITS = 25
# Points x centres of one matrix product, 8 MB of results a thread; 256 to 4,096 of each differ by little in speed.
_ROWS, _CENTRES = 1024, 1024

Integers = NDArray[np.float64]
"""float64 that holds whole numbers"""


def place(points_ND: NDArray[Any], *others: NDArray[Any]) -> tuple[list[Integers], float]:
    """Points in whole steps from the mean of the first set, each with a last coordinate of 1; and the step.

    The step is a power of two, at most 2^-24 of the largest distance to that mean: about what float32 resolves of a
    vector of that length. A distance of two points moves by less than sqrt(D) steps. Raises `CurateError` for a value
    that is not finite. 8 (D + 1) bytes a point.
    """
    with np.errstate(invalid="ignore"):
        centre_D = points_ND.mean(axis=0, dtype=np.float64)
    sets, largest = [], 0.0
    for given_ND in (points_ND, *others):
        placed_NE = np.ones((len(given_ND), given_ND.shape[1] + 1))
        with np.errstate(invalid="ignore", over="ignore"):  # told in words below
            np.subtract(given_ND, centre_D, out=placed_NE[:, :-1])
            square = squares(placed_NE).max(initial=0.0)
        if not np.isfinite(square):
            raise CurateError("a feature is NaN or infinite; leave such rows out before distances are taken")
        largest = max(largest, float(np.sqrt(square)))
        sets.append(placed_NE)
    step = 2.0 ** (int(np.ceil(np.log2(largest))) - _BITS) if largest else 1.0
    for placed_NE in sets:
        placed_ND = placed_NE[:, :-1]
        placed_ND /= step
        np.rint(placed_ND, out=placed_ND)
    return sets, step


def squares(placed_NE: Integers) -> Integers:
    """Squared distance of each point to the mean."""
    placed_ND = placed_NE[:, :-1]
    square_N: Integers = np.einsum("nd,nd->n", placed_ND, placed_ND)
    return square_N


def as_centres(placed_KE: Integers) -> Integers:
    """(2 c, -|c|^2), whose product with a point (p, 1) is |p|^2 - |p - c|^2: largest for the nearest centre."""
    centres_KE = 2 * placed_KE
    centres_KE[:, -1] = -squares(placed_KE)
    return centres_KE


class Gaps:
    """Of each watched point, the squared distance to the nearest centre so far, in squared steps; exact."""

    def __init__(self, watched_NE: Integers, *, threads: int | None) -> None:
        self.watched_NE = watched_NE
        self.square_N = squares(watched_NE)
        self.gap_N = np.full(len(watched_NE), np.inf)
        self._threads = threads or os.cpu_count() or 1
        self._blas = ThreadpoolController()

    def serve(self, placed_KE: Integers, *, beyond: float = 0.0) -> None:
        """Add centres that come no nearer to any point whose squared distance is ``beyond`` at most."""
        rows = np.flatnonzero(self.gap_N > beyond)
        parts = [rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)]
        # Blocks go to threads of our own, so that the maximum is threaded too: one thread in each product.
        with self._blas.limit(limits=1, user_api="blas"), ThreadPoolExecutor(self._threads) as pool:
            for k in range(0, len(placed_KE), _CENTRES):
                centres_KE = as_centres(placed_KE[k : k + _CENTRES])
                list(pool.map(self._serve_rows, parts, repeat(centres_KE)))

    def _serve_rows(self, rows: NDArray[np.int64], centres_KE: Integers) -> None:
        nearest_B = (centres_KE @ self.watched_NE[rows].T).max(axis=0)
        self.gap_N[rows] = np.minimum(self.gap_N[rows], self.square_N[rows] - nearest_B)

    def between(self, rows_P: NDArray[np.int64], placed_CE: Integers) -> Integers:
        """Squared distances (C, P) of some points to the watched points ``rows_P``."""
        with self._blas.limit(limits=self._threads, user_api="blas"):
            return self.square_N[rows_P] - as_centres(placed_CE) @ self.watched_NE[rows_P].T

    def worst(self) -> NDArray[np.int64]:
        """Watched points among which is, off the grid, the one farthest from the centres."""
        moved = np.sqrt(self.watched_NE.shape[1])  # steps by which the grid changes a distance, at most
        distance_N = np.sqrt(self.gap_N)
        return np.flatnonzero(distance_N >= distance_N.max() - 2 * moved)
