"""entropy-topk: the images on which the teacher is least sure."""

from curate.select.order import Order

ENTROPY_TOPK = Order(
    order_by=lambda seed: ("-entropy",),
    kept="top-k",
    cut="below cut",
    source="MosaicKD, supplement, Algorithm 1: keep the k images of highest softmax entropy",
)
