"""confidence-bottomk: the images whose best class has the least probability."""

from curate.select.order import Order

CONFIDENCE_BOTTOMK = Order(
    order_by=lambda seed: ("confidence",),
    kept="top-k",
    cut="below cut",
    source="least confidence sampling: Lewis and Gale, SIGIR 1994; Settles, Active Learning, 2.3",
)
