"""Going on in spite of damage, if the user says so: a bad block's rows become those of the next good one, and counted.

So an epoch keeps its length, every rank its number of batches, and the order stays what it is; only what cannot be read
is another image. More than the budget is refused all the same.
"""

from typing import Literal

import numpy as np

from shards.codec import Encoded
from shards.errors import BlockDamaged
from shards.layout import Block
from shards.sources.base import Source

OnDamage = Literal["refuse", "skip"]
BUDGET = 0.01
"""of the rows; the share of bad samples that `curate` tolerates by default too"""


class Skipping:
    """A source whose damaged blocks are passed over, up to a share ``budget`` of its rows."""

    def __init__(self, source: Source, *, budget: float = BUDGET) -> None:
        self._source, self._budget = source, budget
        self.identity, self.name, self.size = source.identity, source.name, source.size
        self.counts, self.views, self.workers = source.counts, source.views, source.workers
        self.damaged: dict[int, str] = {}
        """what was wrong with each bad block that was met"""

    @property
    def skipped(self) -> int:
        """Rows that were replaced, counting each once."""
        return int(self.counts[sorted(self.damaged)].sum())

    def read(self, block: int) -> Block:
        """The block, or the next good one in stored order, its rows repeated or cut to the same number."""
        total, rows = len(self.counts), int(self.counts[block])
        for number in ((block + i) % total for i in range(total)):
            if number in self.damaged:
                continue
            try:
                found = self._source.read(number)
            except BlockDamaged as error:
                self._count(number, str(error))
                continue
            return found if number == block else _resized(found, rows)
        raise BlockDamaged(f"{self.name}: no block is good; make it again, or copy it again")

    def _count(self, block: int, what: str) -> None:
        self.damaged[block] = what
        if self.skipped > self._budget * self.counts.sum():
            raise BlockDamaged(
                f"{what}; with it {self.skipped:,} of {self.counts.sum():,} images are damaged, more than the "
                f"{self._budget:.1%} that may be skipped; make the set again, or copy it again"
            )


def _resized(block: Block, rows: int) -> Block:
    chosen = np.arange(rows) % len(block)
    images = block.images
    if isinstance(images, Encoded):
        every = images.encoded()
        images = Encoded.joined([every[row] for row in chosen])
    else:
        images = images[chosen]
    logits_NVK = None if block.logits_NVK is None else block.logits_NVK[chosen]
    return Block(images=images, keys=block.keys[chosen], labels=block.labels[chosen], logits_NVK=logits_NVK)
