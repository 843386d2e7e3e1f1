"""What the two greedy rules share: floors first, then the rest, in one order, as rows with a rank."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.cover import Cover
from curate.select.base import PICKED, Picked, Quota
from curate.select.order import FLOOR, left_of
from curate.select.pool import Points, Pool
from manifests.progress import Advance

Integers = NDArray[np.int64]
Rows = NDArray[np.float32]
Step = Callable[[int, Integers, Integers, Rows, Advance], Cover]
"""count, group of each point, room of each group, vectors chosen before, progress -> what is chosen next"""


def pick_in_steps(pool: Pool, points: Points, quota: Quota, step: Step, *, kept: str, cut: str) -> Picked:
    """Pick as ``step`` says: of each corpus its floor first, then of all until the budget is spent."""
    corpora = len(quota.caps)
    chosen, radius, assured = np.zeros(0, np.int64), np.zeros(0), 0
    for room in (quota.floors, quota.caps):
        assured = len(chosen)
        taken = np.bincount(points.corpus_order[chosen], minlength=corpora)
        groups_N = points.corpus_order.copy()
        groups_N[chosen] = corpora  # a group of its own, without room: what was chosen before
        room_G = np.append(np.maximum(np.asarray(room) - taken, 0), 0)
        count = min(quota.budget - len(chosen), int(room_G.sum()), len(groups_N) - len(chosen))
        if count > 0:
            with pool.progress("choose", count) as advance:
                more = step(count, groups_N, room_G, points.rows_ND[chosen], advance)
            chosen, radius = np.concatenate([chosen, more.chosen]), more.radius
    reasons = [FLOOR] * assured + [kept] * (len(chosen) - assured)
    rows = points.table(chosen).append_column("rank", pa.array(range(1, len(chosen) + 1), pa.int64()))
    rows = rows.append_column("reason", pa.array(reasons, pa.string()))
    rows = rows.append_column("target_class", pa.nulls(len(chosen), pa.int32()))
    facts = {"radius": float(radius[-1])} if len(radius) else {}
    return Picked(rows=rows.cast(PICKED), left=left_of(quota, taken=pool.per_corpus(rows), cut=cut), facts=facts)
