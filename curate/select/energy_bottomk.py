"""energy-bottomk: the images of lowest energy, most like what the teacher was trained on."""

from curate.select.order import Order

ENERGY_BOTTOMK = Order(
    order_by=lambda seed: ("energy",),
    kept="top-k",
    cut="below cut",
    source="Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020, Eq. 4: -logsumexp(logits)",
)
