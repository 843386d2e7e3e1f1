"""confidence-topk: the images on which the teacher is surest."""

from curate.select.order import Order

CONFIDENCE_TOPK = Order(
    order_by=lambda seed: ("-confidence", "self_ce"),
    kept="top-k",
    cut="below cut",
    source="confidence as in KD3's selection of instances, the largest softmax probability; without its thresholds",
)
