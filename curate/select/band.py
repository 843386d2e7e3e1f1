"""band: what lies in the band that --where says; a seeded draw of it where it holds more than the budget."""

from curate.select.order import Order
from curate.select.random import RANDOM

BAND = Order(
    order_by=RANDOM.order_by,
    kept="in band",
    cut="not drawn",
    source="a band of scores, such as the teacher's medium confidences; --where narrows every other rule too",
    needs_where=True,
)
