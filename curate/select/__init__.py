"""Selection rules, one a file; `SELECTORS` is the whole list."""

from curate.select.balanced import BALANCED
from curate.select.balanced_entropy import BALANCED_ENTROPY
from curate.select.band import BAND
from curate.select.base import Rule
from curate.select.confidence_bottomk import CONFIDENCE_BOTTOMK
from curate.select.confidence_topk import CONFIDENCE_TOPK
from curate.select.dfnd import DFND
from curate.select.energy_bottomk import ENERGY_BOTTOMK
from curate.select.energy_topk import ENERGY_TOPK
from curate.select.entropy_topk import ENTROPY_TOPK
from curate.select.hausdorff import HAUSDORFF
from curate.select.kcenter import KCENTER
from curate.select.margin_bottomk import MARGIN_BOTTOMK
from curate.select.margin_topk import MARGIN_TOPK
from curate.select.random import RANDOM
from curate.select.sql import SQL

SELECTORS: dict[str, Rule] = {
    "entropy-topk": ENTROPY_TOPK,
    "confidence-topk": CONFIDENCE_TOPK,
    "confidence-bottomk": CONFIDENCE_BOTTOMK,
    "margin-topk": MARGIN_TOPK,
    "margin-bottomk": MARGIN_BOTTOMK,
    "energy-topk": ENERGY_TOPK,
    "energy-bottomk": ENERGY_BOTTOMK,
    "dfnd": DFND,
    "balanced": BALANCED,
    "balanced-entropy": BALANCED_ENTROPY,
    "kcenter": KCENTER,
    "hausdorff": HAUSDORFF,
    "band": BAND,
    "random": RANDOM,
    "sql": SQL,
}

__all__ = ["SELECTORS", "Rule"]
