"""Rules that are an order: the first rows of it, ties by key, are picked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from curate.choice import Choice
from curate.errors import CurateError
from curate.select.base import CORPUS_FULL, PICKED, Picked, Quota
from curate.select.pool import Pool

FLOOR = "corpus floor"
"""reason of rows that only their corpus's --floor brought in"""

# A row that the whole order keeps is among the first rows of its own corpus: so each corpus gives its best, and only
# those are put together. `min(x, n)` is a heap of n rows, in a tenth of a sort's memory, ~330 bytes a row; all
# of them are held at once, and n must be below a million.
HEAP = 1_000_000
_BEST = "SELECT corpus_order, unnest(min({place}, {most})) AS spot FROM {rows} GROUP BY corpus_order"
_BEST_OF_MANY = "(SELECT corpus_order, {place} AS spot FROM {rows} ORDER BY spot LIMIT {most})"
_NONE = "(SELECT corpus_order, {place} AS spot FROM {rows} LIMIT 0)"
_PICK = """
WITH best AS ({best}),
placed AS (
    SELECT spot.key AS key, corpus_order, row_number() OVER (ORDER BY spot) AS place,
        row_number() OVER (PARTITION BY corpus_order ORDER BY spot) <= {floors}[corpus_order + 1] AS assured
    FROM best
), kept AS (SELECT * FROM placed ORDER BY assured DESC, place LIMIT {budget})
SELECT key, corpus_order, row_number() OVER (ORDER BY place) AS rank,
    CASE WHEN assured AND place > {budget} THEN '{floor}' ELSE '{kept}' END AS reason, NULL::INTEGER AS target_class
FROM kept ORDER BY rank
"""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A rule that keeps the first rows of an order."""

    order_by: Callable[[int], Sequence[str]]
    """seed -> SQL expressions over the columns of `scores`, all ascending; ties then go by key"""
    kept: str
    """reason of the rows it keeps"""
    cut: str
    """reason of the rows beyond the budget"""
    source: str
    """paper and place, or what it is for"""
    needs_where: bool = False
    """whether it means nothing without --where"""
    uses_vectors = False

    def check(self, choice: Choice) -> None:
        """An order takes any options; those of other rules are refused."""
        refuse_foreign(choice)
        if self.needs_where and choice.where is None:
            raise CurateError("--mode band needs its band: --where 'entropy BETWEEN 0.5 AND 1.5', for example")

    def pick(self, pool: Pool, choice: Choice, quota: Quota) -> Picked:
        """The first rows, by corpus floors, caps and the budget."""
        order = self.order_by(choice.seed)
        return pick_first(pool, quota, order=order, source="candidates", kept=self.kept, cut=self.cut)


def pick_first(pool: Pool, quota: Quota, *, order: Sequence[str], source: str, kept: str, cut: str) -> Picked:
    """The first rows of ``source``, a relation with the columns of `candidates`, in an order."""
    template = _BEST if sum(quota.caps) < HEAP else _BEST_OF_MANY
    best = " UNION ALL ".join(
        (template if most else _NONE).format(rows=f"{source} WHERE corpus_order = {n}", place=place(order), most=most)
        for n, most in enumerate(quota.caps)
    )
    query = _PICK.format(best=best, floors=list(quota.floors), budget=quota.budget, floor=FLOOR, kept=kept)
    rows = pool.connection.sql(query).to_arrow_table().cast(PICKED)
    return Picked(rows=rows, left=left_of(quota, taken=pool.per_corpus(rows), cut=cut))


def place(order: Sequence[str]) -> str:
    """SQL: a struct that sorts as an order does, then by key."""
    parts = [*(f"o{n} := {expression}" for n, expression in enumerate(order)), "key := key"]
    return f"struct_pack({', '.join(parts)})"


def left_of(quota: Quota, *, taken: Sequence[int], cut: str) -> str:
    """SQL: `corpus full` for the rows of a corpus that has given its cap, else the rule's own word."""
    full = [n for n, (most, got) in enumerate(zip(quota.caps, taken, strict=True)) if got >= most < quota.budget]
    return (
        f"CASE WHEN corpus_order IN ({', '.join(map(str, full))}) THEN '{CORPUS_FULL}' ELSE '{cut}' END"
        if full
        else f"'{cut}'"
    )


def refuse_foreign(choice: Choice, *, but: Sequence[str] = ()) -> None:
    """Refuse options that belong to other rules: an option that is ignored is worse than one that is refused."""
    of_rules = {
        "--sql": ("sql", choice.sql is not None),
        "--by": ("balanced", choice.by != "random"),
        "--base-limit": ("balanced", choice.base_limit is not None),
    }
    for option, (rule, given) in of_rules.items():
        if given and option not in but:
            raise CurateError(f"{option} belongs to --mode {rule}; --mode {choice.mode} does not use it")
