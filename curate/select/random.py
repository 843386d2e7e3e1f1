"""random: a seeded draw, the control that every other rule has to beat."""

from curate.select.order import Order

RANDOM = Order(
    order_by=lambda seed: (f"md5('random:{seed}:' || key)",),
    kept="drawn",
    cut="not drawn",
    source="control: addressed by (seed, key), so a sample's rank does not depend on what else was read",
)
