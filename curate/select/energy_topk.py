"""energy-topk: the images of highest energy, farthest out of the teacher's distribution."""

from curate.select.order import Order

ENERGY_TOPK = Order(
    order_by=lambda seed: ("-energy",),
    kept="top-k",
    cut="below cut",
    source="Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020, Eq. 4: -logsumexp(logits)",
)
