"""Filters: rows that no rule may pick, and why. They come before every rule, in this order, and combine with each."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.choice import Choice
from curate.distance import nearest
from curate.errors import CurateError
from curate.near import near, near_duplicates, spread
from curate.select.pool import Points, Pool

EXCLUDED, NEAR = "excluded", "near duplicate"


def measure(pool: Pool, *, on: str) -> None:
    """Note for every row with finite scores how far its vector lies from the pool's reference, and from which."""
    if pool.reference is None:
        return
    if not len(pool.reference.keys):
        raise CurateError("--reference: the teacher has a finite answer to none of its images; expected one at least")
    points = pool.points(on, "scores WHERE status = 'ok'")
    distance_N, index_N = np.empty(0), np.empty(0, np.int64)
    if len(points.keys):
        with pool.progress("distances to the reference", len(points.keys)) as advance:
            found = nearest(points.rows_ND, pool.reference.rows_ND, threads=pool.threads, advance=advance)
        distance_N, index_N = found.distance_N, found.index_N
    pool.note_nearest(points, distance_N, index_N)


def drop_excluded(pool: Pool, hashes: pa.ChunkedArray, given: Points | None, choice: Choice) -> dict[str, int]:
    """Drop what is in an excluded set: equal pixels, or a vector within a fraction of that set's spread.

    ``given`` are the vectors of that set; None: only pixels are compared.
    """
    facts = {"equal_pixels": pool.drop_pixels(hashes, EXCLUDED), "near": 0}
    if given is not None and len(given.keys):
        points = pool.points(choice.on)
        with pool.progress("excluded", len(points.keys)) as advance:
            within = choice.exclusion * spread(given.rows_ND)
            found_N = near(points.rows_ND, given.rows_ND, within, threads=pool.threads, advance=advance)
        facts["near"] = pool.drop(points.table(np.flatnonzero(found_N >= 0)), EXCLUDED)
    return facts


def drop_near_duplicates(pool: Pool, choice: Choice) -> int:
    """Drop what lies within a fraction of the candidates' spread of an earlier candidate that stays.

    Earlier is the order of the corpora, then of the keys, as with exact duplicates.
    """
    if choice.near_duplicates is None:
        return 0
    points = pool.points(choice.on)
    if not len(points.keys):
        return 0
    order: NDArray[np.intp] = np.lexsort((points.keys, points.corpus_order))
    rows_ND = points.rows_ND[order]
    with pool.progress("near duplicates", len(order)) as advance:
        within = choice.near_duplicates * spread(rows_ND)
        found_N = near_duplicates(rows_ND, within, threads=pool.threads, advance=advance)
    return pool.drop(points.table(order[found_N >= 0]), NEAR)
