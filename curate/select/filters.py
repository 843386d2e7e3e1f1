"""Filters: rows that no rule may pick, and why. They come before every rule, in this order, and combine with each."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.choice import Choice
from curate.distance import nearest
from curate.near import near, near_duplicates, spread
from curate.select.pool import Points, Pool

EXCLUDED, NEAR = "excluded", "near duplicate"


def measure(pool: Pool, *, on: str) -> None:
    """Note for every row with finite scores how far its vector lies from the pool's reference, and from which."""
    if pool.reference is not None:
        points = pool.points(on, "scores WHERE status = 'ok'")
        found = nearest(points.rows_ND, pool.reference.rows_ND)
        pool.note_nearest(points, found.distance_N, found.index_N)


def drop_excluded(pool: Pool, hashes: pa.ChunkedArray, given: Points, choice: Choice) -> dict[str, int]:
    """Drop what is in an excluded set: equal pixels, or a vector within a fraction of that set's spread."""
    facts = {"equal_pixels": pool.drop_pixels(hashes, EXCLUDED), "near": 0}
    if choice.exclude_within and len(given.keys):
        points = pool.points(choice.on)
        found_N = near(points.rows_ND, given.rows_ND, choice.exclude_within * spread(given.rows_ND))
        facts["near"] = pool.drop(points.table(np.flatnonzero(found_N >= 0)), EXCLUDED)
    return facts


def drop_near_duplicates(pool: Pool, choice: Choice) -> int:
    """Drop what lies within a fraction of the candidates' spread of an earlier candidate that stays.

    Earlier is the order of the corpora, then of the keys, as with exact duplicates.
    """
    if choice.near_duplicates is None:
        return 0
    points = pool.points(choice.on)
    order: NDArray[np.intp] = np.lexsort((points.keys, points.corpus_order))
    rows_ND = points.rows_ND[order]
    found_N = near_duplicates(rows_ND, choice.near_duplicates * spread(rows_ND)) if len(order) else order
    return pool.drop(points.table(order[found_N >= 0]), NEAR) if len(order) else 0
