"""margin-bottomk: the images that lie nearest to a boundary between two classes."""

from curate.select.order import Order

MARGIN_BOTTOMK = Order(
    order_by=lambda seed: ("margin",),
    kept="top-k",
    cut="below cut",
    source="margin sampling: Scheffer, Decomain and Wrobel, IDA 2001; Settles, Active Learning, 2.3",
)
