"""Going on in spite of damage, if the user says so: a bad block's rows become those of the next good one, and counted.

So an epoch keeps its length, every rank its number of batches, and the order stays what it is; only what cannot be read
is another image: the same one in every epoch, on every rank, after every resume, for which one it is depends on nothing
but which blocks are bad. More than the budget is refused all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shards.codec import Encoded
from shards.errors import BlockDamaged
from shards.layout import Block
from shards.sources.base import Checkable, Source

OnDamage = Literal["refuse", "skip"]
BUDGET = 0.01
"""of the rows; the share of bad samples that `curate` tolerates by default too"""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What a stream passed over so far."""

    blocks: Mapping[int, str]
    """what was wrong with each bad block that was met, by its number in the source"""
    images: int
    """that were replaced, each counted once"""
    of: int
    """images in the source"""

    def __str__(self) -> str:
        """One line for a person."""
        if not self.blocks:
            return f"no damage met in {self.of:,} images"
        first = self.blocks[min(self.blocks)]
        return f"{len(self.blocks):,} damaged block(s), {self.images:,} of {self.of:,} images replaced: first {first}"


class Skipping:
    """A source whose damaged blocks are passed over, up to a share ``budget`` of its rows."""

    def __init__(self, source: Source, *, budget: float = BUDGET) -> None:
        self._source, self._budget = source, budget
        self.identity, self.name, self.size = source.identity, source.name, source.size
        self.counts, self.views, self.workers = source.counts, source.views, source.workers
        self._bad: dict[int, str] = {}

    @property
    def damage(self) -> Damage:
        """What was passed over so far."""
        bad = dict(sorted(self._bad.copy().items()))  # another thread may be adding to it
        return Damage(blocks=bad, images=int(self.counts[[*bad]].sum()), of=int(self.counts.sum()))

    def read(self, block: int) -> Block:
        """The block, or the next good one in stored order, its rows repeated or cut to the same number.

        Raises `BlockDamaged` once more than the budget is damaged, then and ever after.
        """
        total = len(self.counts)
        for number in ((block + i) % total for i in range(total)):
            if number not in self._bad:
                try:
                    found = self._source.read(number)
                except BlockDamaged as error:
                    self._bad[number] = str(error)
                else:
                    return found if number == block else _resized(found, int(self.counts[block]))
            self._check_budget(self._bad[number])
        raise BlockDamaged(f"{self.name}: no block is good; make it again, or copy it again")

    def _check_budget(self, what: str) -> None:
        damage = self.damage
        if damage.images > self._budget * damage.of:
            raise BlockDamaged(
                f"{what}; so {damage.images:,} of {damage.of:,} images are damaged, more than the "
                f"{self._budget:.1%} that may be skipped; make the set again, or copy it again"
            )


def guarded(source: Source, on_damage: OnDamage, *, budget: float) -> Source:
    """The source as a stream reads it: looked at first, or passing over what turns out to be damaged."""
    if on_damage == "skip":
        return Skipping(source, budget=budget)
    if isinstance(source, Checkable):
        source.check()
    return source


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
