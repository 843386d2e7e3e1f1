"""Reader of our own folders of block shards, a corpus store or a transfer set, so that what was packed can be curated.

Items come shard by shard, as they lie there; `?split=train` reads one split of a transfer set. A label is the one that
the sample had in its corpus, as the samples manifest keeps it. Blocks are checked as they are read.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.corpora import base
from curate.corpora.base import Item, Part, fingerprint, part_name, split_options
from curate.errors import CorpusDamaged, CorpusEmpty, UnknownCorpus
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards.index import DOCUMENTS, open_folder
from shards.read import read_block

_PLACE = ("shard", "block", "row")


class _Block(NamedTuple):
    shard: int  # place in the index
    block: int  # place in the shard
    first: int  # row, over the whole folder in the order of its index


class _Span(NamedTuple):
    block: int  # place among the blocks that are read
    start: int  # first row
    stop: int  # one past the last row


class ShardsCorpus:
    """Images of a corpus store or a transfer set."""

    scheme = "shards"

    def __init__(self, name: str, path: str) -> None:
        self.name, self.spec = name, f"shards:{path}"
        place, options = split_options("shards", path, ("split",))
        self._folder, self._split = open_folder(Path(place).expanduser()), options.get("split")
        if self._split not in (None, *self._folder.splits):
            known = ", ".join(self._folder.splits)
            raise UnknownCorpus(f"{place} has no split {self._split!r}; expected one of {known}")
        if not self._folder.rows(self._split):
            raise CorpusEmpty(f"corpus {name!r}: no image in {self.spec}")

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is a finished folder of block shards."""
        return any((path / document).is_file() for document in DOCUMENTS)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """A store's own, if its corpus stated some; a transfer set's are the teacher's, not those of its samples."""
        stated = self._folder.document.get("classes") if self._folder.document["kind"] == "store" else None
        return tuple(stated) if stated else None

    @property
    def builtin(self) -> bool:
        """Whether the images came with the program before they were packed."""
        return bool(self._folder.document.get("builtin", False))

    def identity(self) -> str:
        """Over the id of the folder, wherever it lies, and the split."""
        return fingerprint(self.scheme, self._folder.id, self._split)

    @cached_property
    def _blocks(self) -> list[_Block]:
        """The blocks to read, in uri order."""
        sizes = [facts.rows for shard in self._folder.shards for facts in shard.blocks]
        places = [(n, place) for n, shard in enumerate(self._folder.shards) for place in range(len(shard.blocks))]
        firsts = accumulate(sizes[:-1], initial=0)
        blocks = [_Block(*place, first) for place, first in zip(places, firsts, strict=True)]
        shards = self._folder.shards
        wanted = [block for block in blocks if self._split in (None, shards[block.shard].split)]
        return sorted(wanted, key=lambda block: (shards[block.shard].name, block.block))

    def parts(self) -> list[Part]:
        """Rows in the order of shards, blocks and rows, PART_SIZE a part; a part may cross blocks."""
        sizes = [self._folder.shards[shard].blocks[place].rows for shard, place, _ in self._blocks]
        edges = list(accumulate(sizes, initial=0))
        parts = []
        for number, start in enumerate(range(0, edges[-1], base.PART_SIZE)):
            stop = min(start + base.PART_SIZE, edges[-1])
            where = tuple(
                _Span(block, max(start, edges[block]) - edges[block], min(stop, edges[block + 1]) - edges[block])
                for block in range(bisect_right(edges, start) - 1, bisect_left(edges, stop))
            )
            parts.append(Part(name=part_name(number), count=stop - start, where=where))
        return parts

    def read(self, part: Part) -> Iterator[Item]:
        """The images as HxWx3 uint8 arrays; raises `shards.errors.BlockDamaged` for a block that is not as it was."""
        for number, start, stop in part.where:
            shard, place, first = self._blocks[number]
            facts = self._folder.shards[shard]
            images_NCHW = read_block(self._folder.path / facts.name, facts.blocks[place]).images_NCHW[start:stop]
            images_NHWC = np.ascontiguousarray(images_NCHW.transpose(0, 2, 3, 1))
            images_NHWC.flags.writeable = False
            where = f"{PurePosixPath(facts.name).stem}/{place:06d}"
            labels = self._labels[first + start : first + stop].to_pylist()
            for row, (image_HWC, label) in enumerate(zip(images_NHWC, labels, strict=True), start):
                yield Item(uri=f"{where}/{row:04d}", data=image_HWC, label=label)

    @cached_property
    def _labels(self) -> pa.ChunkedArray:
        """The label of every image, in the order of shards, blocks and rows."""
        columns = read_manifest(self._folder.path, SAMPLES, columns=[*_PLACE, "source_label"])
        there = columns.filter(pc.is_valid(columns["row"]))
        if there.num_rows != self._folder.rows():
            raise CorpusDamaged(
                f"{self._folder.path / SAMPLES.file} places {there.num_rows:,} images, but there are "
                f"{self._folder.rows():,}; make the folder again"
            )
        return there.sort_by([(name, "ascending") for name in _PLACE])["source_label"]
