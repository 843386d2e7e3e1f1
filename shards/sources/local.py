"""Blocks of a folder on this machine, by offset."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from manifests.commit import Ledger, check_file
from manifests.errors import IntegrityError
from shards.errors import BlockDamaged, ShardError
from shards.index import ShardFolder
from shards.layout import Block
from shards.read import read_block
from shards.verify import record_problems, stray_problems

HASHED = 64 << 20
"""bytes; manifests up to here are hashed when a set is opened (some 50 ms), larger ones by `shards verify` alone"""


class LocalBlocks:
    """The blocks of one split of a transfer set or store, or of all.

    The manifests are checked at once, down to their hashes: nothing can be passed over there (`BlockDamaged`).
    """

    workers = 1  # a block is read in less time than another thread costs

    def __init__(self, folder: ShardFolder, split: str | None = None) -> None:
        self.folder, self._split = folder, split
        self.name = f"split {split!r} of {folder.path}" if split else str(folder.path)
        paths = [(folder.path / shard.name, shard.blocks) for shard in folder.of_split(split)]
        self._blocks = [(path, facts) for path, blocks in paths for facts in blocks]
        self.counts = np.array([facts.rows for _, facts in self._blocks], np.int64)
        self.identity = {"id": folder.id, "split": split}
        self.size = folder.size
        self.views = folder.views
        if not self.counts.sum():
            raise ShardError(f"{self.name} holds no images; its splits: {', '.join(folder.splits) or 'none'}")
        self._refuse(_manifest_problems(folder))

    def check(self) -> None:
        """Every shard is there with its size, and no other lies beside it (`BlockDamaged`)."""
        self._refuse(_shard_problems(self.folder))

    def read(self, block: int) -> Block:
        return read_block(*self._blocks[block], size=self.size)

    def _refuse(self, problems: Iterator[str]) -> None:
        if problem := next(problems, None):
            raise BlockDamaged(f"{problem}; `shards verify {self.folder.path}` lists all that is wrong")


def _manifest_problems(folder: ShardFolder) -> Iterator[str]:
    yield from record_problems(folder.path, folder.document)
    kind = folder.document["kind"]
    manifests = {f"{kind}.json", *folder.document["contents"]} - {shard.name for shard in folder.shards}
    record = Ledger(folder.path).read(kind)
    for facts in record.files if record else ():
        path = folder.path / facts.name
        if facts.name in manifests and (facts.bytes <= HASHED or not path.is_file()):
            try:
                check_file(path, bytes=facts.bytes, sha256=facts.sha256)
            except IntegrityError as error:
                yield str(error)


def _shard_problems(folder: ShardFolder) -> Iterator[str]:
    for shard in folder.shards:
        yield from _size_problem(folder.path / shard.name, shard.bytes)
    yield from stray_problems(folder)


def _size_problem(path: Path, size: int) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is missing"
    elif (found := path.stat().st_size) != size:
        yield f"{path} holds {found:,} bytes, the index says {size:,}: it was cut, or is of another set"
