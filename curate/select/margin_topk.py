"""margin-topk: the images that lie farthest from a boundary between two classes."""

from curate.select.order import Order

MARGIN_TOPK = Order(
    order_by=lambda seed: ("-margin", "self_ce"),
    kept="top-k",
    cut="below cut",
    source="the opposite of margin sampling: easy images, as a control",
)
