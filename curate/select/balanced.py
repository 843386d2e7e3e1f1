"""balanced: as many images of every class as of every other, as far as the corpora go; the teacher says the class.

Nayak, Mopuri and Chakraborty, "Effectiveness of Arbitrary Transfer Sets for Data-free Knowledge Distillation", WACV
2021, section 3.3 and Tables 3 and 6-9: every class is capped at N / K; the base corpus, cut to N images by a draw,
fills first, and each later corpus fills only what is still missing, in the order given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.choice import Choice
from curate.errors import CurateError
from curate.select.base import CORPUS_FULL, PICKED, Picked, Quota
from curate.select.order import HEAP, Order, place, refuse_foreign
from curate.select.pool import Pool

CLASS_FULL, BEYOND = "class full", "beyond base limit"
_OWN = """
CREATE TABLE own AS
SELECT spot.key AS key, corpus_order, pred, row_number() OVER (PARTITION BY corpus_order, pred ORDER BY spot) AS own
FROM (
    SELECT corpus_order, pred, unnest(min({place}, {cap})) AS spot FROM candidates WHERE NOT ({beyond})
    GROUP BY corpus_order, pred
)
"""
_OWN_OF_MANY = """
CREATE TABLE own AS
SELECT key, corpus_order, pred, row_number() OVER (PARTITION BY corpus_order, pred ORDER BY {place}) AS own
FROM candidates WHERE NOT ({beyond})
"""
_PICK = """
SELECT key, corpus_order, row_number() OVER (ORDER BY NOT assured, corpus_order, own, pred) AS rank,
    CASE corpus_order WHEN 0 THEN 'class quota' ELSE 'class filled from corpus ' || (corpus_order + 1) END AS reason,
    pred AS target_class
FROM (
    SELECT o.*, o.own <= t.assured AS assured FROM own o JOIN taken t USING (corpus_order, pred) WHERE o.own <= t.most
)
ORDER BY rank
"""


def fill(
    supply_CK: NDArray[np.int64], cap: int, *, caps: Sequence[int] | None = None, floors: Sequence[int] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many images of each class (K) each corpus (C) gives, and how many of those its floor assures.

    ``supply_CK`` is what there is, corpora in their order; no class gets more than ``cap``, no corpus gives more than
    its ``caps``, and each first gives its ``floors``. Where a corpus may not give all that is wanted, its classes give
    evenly, one image each in turn.
    """
    corpora, classes = supply_CK.shape
    taken_CK = np.zeros_like(supply_CK)

    def take(corpus: int, limit: int) -> None:
        room_K = np.minimum(supply_CK[corpus] - taken_CK[corpus], cap - taken_CK.sum(axis=0))
        taken_CK[corpus] += _in_turn(room_K, limit - int(taken_CK[corpus].sum()))

    for corpus in range(corpora):
        take(corpus, floors[corpus] if floors else 0)
    assured_CK = taken_CK.copy()
    for corpus in range(corpora):
        take(corpus, caps[corpus] if caps else cap * classes)
    return taken_CK, assured_CK


def _in_turn(room_K: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """At most ``limit`` in all, one of each class in turn, lowest class first, until a class has no room."""
    low, high = 0, int(room_K.max(initial=0))
    while low < high:  # the largest number of whole rounds
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(room_K, middle).sum() <= limit else (low, middle - 1)
    given_K = np.minimum(room_K, low)
    more = np.flatnonzero(room_K > low)[: max(0, limit - int(given_K.sum()))]
    given_K[more] += 1
    return given_K


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """A cap on every class, filled corpus by corpus."""

    source: str
    by: str | None = None
    """the order within a class, where the rule fixes it; else --by says it"""
    uses_vectors = False

    def check(self, choice: Choice) -> None:
        """Within a class the order must be one of the rules that are orders."""
        refuse_foreign(choice, but=["--base-limit", *(["--by"] if self.by is None else [])])
        self._order(choice)

    def pick(self, pool: Pool, choice: Choice, quota: Quota) -> Picked:
        """Class by class, corpus by corpus."""
        cap = quota.budget // len(pool.class_names)
        if quota.budget and not cap:
            raise CurateError(
                f"--budget {quota.budget} is less than the teacher's {len(pool.class_names)} classes; "
                "expected one image of each at least"
            )
        beyond = _beyond(pool, choice)
        own = _OWN if 0 < cap * len(pool.class_names) * len(pool.corpora) < HEAP else _OWN_OF_MANY
        pool.run(own.format(place=place(self._order(choice)), beyond=beyond, cap=cap))
        supply_CK = self._supply(pool, cap=cap)
        taken_CK, assured_CK = fill(supply_CK, cap, caps=quota.caps, floors=quota.floors)
        corpus, pred = (index.ravel() for index in np.indices(supply_CK.shape))
        limits = {"corpus_order": corpus, "pred": pred, "most": taken_CK.ravel(), "assured": assured_CK.ravel()}
        with pool.table("taken", pa.table(limits)):
            rows = pool.connection.sql(_PICK).to_arrow_table().cast(PICKED)
        full = [str(n) for n, most in enumerate(quota.caps) if taken_CK[n].sum() >= most < quota.budget]
        left = (
            f"CASE WHEN {beyond} THEN '{BEYOND}' "
            + (f"WHEN corpus_order IN ({', '.join(full)}) THEN '{CORPUS_FULL}' " if full else "")
            + f"ELSE '{CLASS_FULL}' END"
        )
        held_back_by = _held(taken_CK, quota, beyond)
        return Picked(rows=rows, left=left, facts=_facts(pool, taken_CK, cap=cap, held_back_by=held_back_by))

    def _order(self, choice: Choice) -> Sequence[str]:
        from curate.select import SELECTORS  # here: the table names this rule too

        rule = SELECTORS.get(self.by or choice.by)
        if not isinstance(rule, Order) or rule.needs_where:
            orders = [name for name, r in SELECTORS.items() if isinstance(r, Order) and not r.needs_where]
            raise CurateError(f"--by is {choice.by!r}; expected one of {', '.join(orders)}")
        return rule.order_by(choice.seed)

    def _supply(self, pool: Pool, *, cap: int) -> NDArray[np.int64]:
        """Images of each corpus and class, those beyond the cap of a class not counted."""
        supply_CK = np.zeros((len(pool.corpora), len(pool.class_names)), np.int64)
        counted = "SELECT corpus_order, pred, count(*) FROM own GROUP BY ALL"
        for corpus, pred, count in pool.connection.execute(counted).fetchall():
            supply_CK[corpus, pred] = min(count, cap)
        return supply_CK


def _beyond(pool: Pool, choice: Choice) -> str:
    """SQL: whether a candidate is of the first corpus and not among those of it that the draw lets in."""
    limit, draw = choice.base_limit or choice.budget, f"md5('base:{choice.seed}:' || key)"
    if pool.count("candidates WHERE corpus_order = 0") <= limit:
        return "false"
    drawn = f"SELECT {draw} AS draw FROM candidates WHERE corpus_order = 0 ORDER BY draw LIMIT {limit}"
    last = pool.connection.execute(f"SELECT max(draw) FROM ({drawn})").fetchall()[0][0]
    return f"corpus_order = 0 AND {draw} > '{last}'"


def _held(taken_CK: NDArray[np.int64], quota: Quota, beyond: str) -> str | None:
    """The option, if any, that keeps the last corpus from giving more."""
    if taken_CK[-1].sum() >= quota.caps[-1] < quota.budget:
        return "--cap"
    return "--base-limit" if len(taken_CK) == 1 and beyond != "false" else None


def _facts(pool: Pool, taken_CK: NDArray[np.int64], *, cap: int, held_back_by: str | None) -> dict[str, Any]:
    """What each corpus gave, what is missing, and how large the last corpus would have to be to give it."""
    missing_K = cap - taken_CK.sum(axis=0)
    last = len(pool.corpora) - 1
    counted = f"""
        SELECT pred, count(*), (SELECT count(*) FROM scores WHERE corpus_order = {last}) FROM candidates
        WHERE corpus_order = {last} GROUP BY pred
    """
    seen = {pred: (count, total) for pred, count, total in pool.connection.execute(counted).fetchall()}
    would_fill: dict[int, int | None] = {}
    for number in np.flatnonzero(missing_K).tolist():
        wanted = int(missing_K[number] + taken_CK[last, number])
        count, total = seen.get(number, (0, 0))
        would_fill[number] = math.ceil(wanted * total / count) if count else None
    names = pool.class_names
    return {
        "class_cap": cap,
        "given": {corpus: dict(zip(names, taken_CK[n].tolist(), strict=True)) for n, corpus in enumerate(pool.corpora)},
        "shortfall": {names[n]: int(missing_K[n]) for n in would_fill},
        "size_that_fills": {names[n]: size for n, size in would_fill.items()},
        "held_back_by": held_back_by,
    }


BALANCED = Balanced(source="Nayak, Mopuri and Chakraborty, WACV 2021, section 3.3, Tables 6-9")
