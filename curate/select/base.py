"""What a selection rule is: it picks rows out of a pool, within a quota, and says in words why the others stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from curate.choice import Choice

if TYPE_CHECKING:
    from curate.select.pool import Pool

CORPUS_FULL = "corpus full"
"""reason of rows left out because their corpus has given its --cap"""

PICKED = pa.schema(
    [
        ("key", pa.string()),
        ("corpus_order", pa.int64()),
        ("rank", pa.int64()),
        ("reason", pa.string()),
        ("target_class", pa.int32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many rows may be picked, in all and of each corpus (in corpus order)."""

    budget: int
    caps: Sequence[int]
    """at most; the budget where nothing was said"""
    floors: Sequence[int]
    """at least, while the corpus has them; 0 where nothing was said"""

    @classmethod
    def of(cls, choice: Choice, corpora: Sequence[str], *, budget: int | None = None) -> "Quota":
        """The quota that was asked for; ``budget`` replaces the choice's."""
        most = choice.budget if budget is None else budget
        return cls(
            budget=most,
            caps=[min(choice.caps.get(name, most), most) for name in corpora],
            floors=[choice.floors.get(name, 0) for name in corpora],
        )


@dataclass(frozen=True, kw_only=True)
class Picked:
    """What a rule picked."""

    rows: pa.Table
    """PICKED: rank counts from 1 in the rule's order; ties are broken by key"""
    left: str
    """SQL: the reason of a candidate that was not picked, over the columns of `candidates`"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """what the rule has to say, for `selection.json`"""


class Rule(Protocol):
    """A way to choose; stateless, so one object serves all."""

    @property
    def source(self) -> str:
        """Paper and place, or what it is for."""

    @property
    def uses_vectors(self) -> bool:
        """Whether it works on features or logits."""

    def check(self, choice: Choice, /) -> None:
        """Refuse options that the rule cannot work with (`CurateError`)."""

    def pick(self, pool: "Pool", choice: Choice, quota: Quota) -> Picked:
        """Pick at most ``quota.budget`` rows; the same ones in whatever order and by how many threads they are read."""
