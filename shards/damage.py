"""Going on in spite of damage, if the user says so: a bad block's rows become those of the next good one, and counted.

Where a source says that only some rows of a block are bad, only they are replaced, by the next good one of that block.

So an epoch keeps its length, every rank its number of batches, and the order stays what it is; only what cannot be read
is another image: the same one in every epoch, on every rank, after every resume, for which one it is depends on nothing
but what is bad. More than the budget is refused all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.codec import Encoded
from shards.errors import BlockDamaged, RowsDamaged
from shards.layout import Block
from shards.sources.base import Checkable, Source

OnDamage = Literal["refuse", "skip"]
BUDGET = 0.01
"""of the rows; the share of bad samples that `curate` tolerates by default too"""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What a stream passed over so far."""

    blocks: Mapping[int, str]
    """what was wrong with each block that was met and is not wholly good, by its number in the source"""
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
        self._bad: dict[int, tuple[str, int]] = {}  # what was wrong with a block, and how many of its rows are bad

    @property
    def damage(self) -> Damage:
        """What was passed over so far."""
        bad = dict(sorted(self._bad.copy().items()))  # another thread may be adding to it
        return Damage(
            blocks={number: what for number, (what, _) in bad.items()},
            images=sum(rows for _, rows in bad.values()),
            of=int(self.counts.sum()),
        )

    def read(self, block: int) -> Block:
        """The block, or the next one in stored order with a good row, its rows repeated or cut to the same number.

        Raises `BlockDamaged` once more than the budget is damaged, then and ever after.
        """
        total = len(self.counts)
        for number in ((block + i) % total for i in range(total)):
            found = self._mended(number)
            if number in self._bad:
                self._check_budget(self._bad[number][0])
            if found is not None:
                return found if number == block else _rows_of(found, np.arange(self.counts[block]) % len(found))
        raise BlockDamaged(f"{self.name}: no block is good; make it again, or copy it again")

    def _mended(self, number: int) -> Block | None:
        """A block, each bad row of it replaced by the next good one, around its end; None if there is none."""
        rows = int(self.counts[number])
        if number in self._bad and self._bad[number][1] == rows:  # known since it was first read
            return None
        try:
            return self._source.read(number)
        except RowsDamaged as error:
            self._bad[number] = (str(error), rows - len(error.rows))
            return _rows_of(error.good, np.searchsorted(error.rows, np.arange(rows)) % len(error.rows))
        except BlockDamaged as error:
            self._bad[number] = (str(error), rows)
            return None

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


def _rows_of(block: Block, chosen: NDArray[np.intp]) -> Block:
    images = block.images
    images = images.take(chosen) if isinstance(images, Encoded) else images[chosen]
    logits_NVK = None if block.logits_NVK is None else block.logits_NVK[chosen]
    return Block(images=images, keys=block.keys[chosen], labels=block.labels[chosen], logits_NVK=logits_NVK)
