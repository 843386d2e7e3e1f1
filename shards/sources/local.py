"""Blocks of a folder on this machine, by offset."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.errors import BlockDamaged, ShardError
from shards.index import ShardFolder
from shards.layout import Block
from shards.read import read_block

HASHED = 64 << 20
"""bytes; manifests up to here are hashed when a set is opened (some 50 ms), larger ones by `shards verify` alone"""


class LocalBlocks:
    """The blocks of one split of a transfer set or store, or of all.

    What can be seen without reading a shard is checked at once (`BlockDamaged`): every shard is there with its size and
    no other lies beside it, and the manifests are those that the set was finished with.
    """

    workers = 1  # a block is read in less time than another thread costs

    def __init__(self, folder: ShardFolder, split: str | None = None) -> None:
        self.folder, self._split = folder, split
        self.name = f"split {split!r} of {folder.path}" if split else str(folder.path)
        self._blocks = [(folder.path / s.name, b) for s in folder.of_split(split) for b in s.blocks]
        self.counts = np.array([facts.rows for _, facts in self._blocks], np.int64)
        self.identity = {"id": folder.id, "split": split}
        self.size = folder.size
        self.views = folder.views
        if not self.counts.sum():
            raise ShardError(f"{self.name} holds no images; its splits: {', '.join(folder.splits) or 'none'}")
        if problem := next(_problems(folder), None):
            raise BlockDamaged(f"{problem}; `shards verify {folder.path}` lists all that is wrong")

    def read(self, block: int) -> Block:
        return read_block(*self._blocks[block])


def _problems(folder: ShardFolder) -> Iterator[str]:
    shards = {shard.name: shard for shard in folder.shards}
    for name, shard in shards.items():
        yield from _size_problem(folder.path / name, shard.bytes)
    found = (path.relative_to(folder.path).as_posix() for path in (folder.path / "shards").glob("*.tar"))
    for name in sorted({*found} - {*shards}):
        yield f"{folder.path / name} is not in the index: a shard of another set, or a copy"
    for name, sha256 in folder.document["contents"].items():
        path = folder.path / name
        if name not in shards and not path.is_file():
            yield f"{path} is missing"
        elif name not in shards and path.stat().st_size <= HASHED and _sha256(path) != sha256:
            yield f"{path} is not the file that the set was finished with: of another set, or damaged"


def _size_problem(path: Path, size: int) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is missing"
    elif (found := path.stat().st_size) != size:
        yield f"{path} holds {found:,} bytes, the index says {size:,}: it was cut, or is of another set"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
