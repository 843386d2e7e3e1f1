"""What a selection rule is: an order over the candidates, and the words for kept and left out."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that keeps the first rows of an order; ties always end in the key."""

    order_by: Callable[[int], str]
    """seed -> SQL order over the columns of `scores`; must give equal keys to nothing but ties"""
    kept: str
    """reason of the rows it keeps"""
    cut: str
    """reason of the rows beyond the budget"""
    source: str
    """paper and place, or what it is for"""
