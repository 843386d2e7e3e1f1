"""Selection rules, one a file; `SELECTORS` is the whole list."""

from curate.select.base import Rule
from curate.select.entropy_topk import ENTROPY_TOPK
from curate.select.random import RANDOM

SELECTORS: dict[str, Rule] = {
    "entropy-topk": ENTROPY_TOPK,
    "random": RANDOM,
}

__all__ = ["SELECTORS", "Rule"]
