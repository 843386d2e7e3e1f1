"""Nearness of features as a filter: near duplicates within a candidate set, and nearness to a given set.

A threshold that a user states is a fraction of `spread`, because the scale of features differs by teacher.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.distance import nearest
from manifests.progress import Advance, nothing

# Rows that are compared at once with all that were kept before them; a table of distances among them is 32 MB.
_BLOCK = 2048


def spread(features_ND: NDArray[Any]) -> float:
    """Root mean square distance to the mean, in float64; 0 for no rows."""
    if not len(features_ND):
        return 0.0
    centre_D = features_ND.mean(axis=0, dtype=np.float64)
    blocks = (features_ND[i : i + _BLOCK] - centre_D for i in range(0, len(features_ND), _BLOCK))
    return float(np.sqrt(sum(float(np.square(block_BD).sum()) for block_BD in blocks) / len(features_ND)))


def near(
    features_ND: NDArray[Any],
    given_MD: NDArray[Any],
    within: float,
    *,
    threads: int | None = None,
    advance: Advance = nothing,
) -> NDArray[np.int64]:
    """Index of the nearest given row where it is no farther than ``within``, else -1."""
    if not len(features_ND) or not len(given_MD):
        return np.full(len(features_ND), -1, np.int64)
    found = nearest(features_ND, given_MD, threads=threads, advance=advance)
    return np.where(found.distance_N <= within, found.index_N, -1)


def near_duplicates(
    features_ND: NDArray[Any],
    within: float,
    *,
    threads: int | None = None,
    advance: Advance = nothing,
) -> NDArray[np.int64]:
    """Of which kept row each row is a near duplicate, else -1 (then it is kept itself).

    Rows come in order of preference. A row is a near duplicate if an earlier row that was kept lies no farther than
    ``within`` from it, in float64; the nearest such is named (ties: the smallest index). Rows that were left out do
    not count, so a chain of small steps is not drawn into one.
    """
    of_N = np.full(len(features_ND), -1, np.int64)
    for start in range(0, len(features_ND), _BLOCK):
        rows_BD = features_ND[start : start + _BLOCK].astype(np.float64)
        of_B, apart_B = np.full(len(rows_BD), -1), np.full(len(rows_BD), np.inf)
        if start:
            kept = np.flatnonzero(of_N[:start] < 0)
            best_B = kept[nearest(rows_BD, features_ND[kept], threads=threads).index_N]
            apart_B = _apart(rows_BD, features_ND[best_B])
            of_B = np.where(apart_B <= within, best_B, -1)
        close_BB = _may_be_close(rows_BD, within)
        for i in np.flatnonzero(close_BB.any(axis=1)):
            earlier = np.flatnonzero(close_BB[i] & (of_B < 0))
            apart = _apart(rows_BD[i], rows_BD[earlier])
            if apart.min(initial=np.inf) < apart_B[i] and apart.min() <= within:
                of_B[i] = start + earlier[apart.argmin()]
        of_N[start : start + _BLOCK] = of_B
        advance(len(rows_BD))
    return of_N


def _apart(a_D: NDArray[Any], b_ND: NDArray[Any]) -> NDArray[np.float64]:
    """Distances in float64, by differences: the same for the same two rows, whatever they are compared with."""
    distance_N: NDArray[np.float64] = np.sqrt(np.square(np.subtract(a_D, b_ND, dtype=np.float64)).sum(axis=-1))
    return distance_N


def _may_be_close(rows_BD: NDArray[np.float64], within: float) -> NDArray[np.bool_]:
    """Is row j before row i, and possibly within reach of it? Errs towards yes, by the rounding of one product."""
    centred_BD = rows_BD - rows_BD.mean(axis=0)
    square_B = np.square(centred_BD).sum(axis=1)
    sum_BB = square_B[:, None] + square_B
    slack = 4 * (rows_BD.shape[1] + 2) * np.finfo(np.float64).eps
    return np.tril(sum_BB - 2 * centred_BD @ centred_BD.T <= within * within * (1 + slack) + slack * sum_BB, -1)
