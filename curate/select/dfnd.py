"""dfnd: the images whose own prediction costs the teacher the least cross-entropy."""

from curate.select.order import Order

DFND = Order(
    order_by=lambda seed: ("self_ce",),
    kept="top-k",
    cut="below cut",
    source="DFND: Chen et al., Learning Student Networks in the Wild, CVPR 2021: least cross-entropy to the own argmax",
)
