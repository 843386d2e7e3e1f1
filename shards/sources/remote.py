"""Blocks of a folder that lies elsewhere: fetched by byte range, checked, and kept in a bounded cache on this disk.

Its document and index are asked of the server each time a set is opened, so that what is read is what lies there now:
without the server nothing is opened, whatever the cache holds. Once it is open, blocks in the cache need no server.
"""

import tempfile
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import IntegrityError, TransfersetError
from manifests.schema import SHARDS
from shards.block_cache import BlockCache
from shards.errors import BlockDamaged, NotThere, ShardError
from shards.index import DOCUMENTS, BlockFacts, ShardFacts, ShardFolder, contents_id, open_folder
from shards.layout import Block
from shards.read import checked_block
from shards.remote_files import RemoteFolder, cache_home

CACHE_BYTES = 10 << 30


class RemoteBlocks:
    """The blocks of one split of a transfer set or store at a URL that fsspec opens, or of all.

    ``cache`` is a folder (default: `blocks` in the user's cache folder) in which all sets together take no more than
    ``cache_bytes``; one smaller than a block keeps nothing. Raises `NotAShardFolder`, `Unreachable`, `IntegrityError`.
    """

    workers = 8  # a request waits for the network, not for the processor

    def __init__(
        self, url: str, split: str | None = None, *, cache: Path | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._files = RemoteFolder(url)
        folder = _fetch_index(self._files)
        self.document: Mapping[str, Any] = folder.document
        """`transfer-set.json` or `store.json`"""
        self._shards = folder.of_split(split)
        self._blocks = [(s.name, b) for s in self._shards for b in s.blocks]
        self._cache = BlockCache((cache or cache_home() / "blocks") / folder.id, limit=cache_bytes)
        self.name = f"split {split!r} of {self._files.url}" if split else self._files.url
        self.counts = np.array([facts.rows for _, facts in self._blocks], np.int64)
        self.identity = {"id": folder.id, "split": split}
        self.size = folder.size
        self.views = folder.views
        if not self.counts.sum():
            raise ShardError(f"{self.name} holds no images; its splits: {', '.join(folder.splits) or 'none'}")

    def check(self) -> None:
        """Every shard is there with its size, as far as the server says it (`BlockDamaged`)."""
        with ThreadPoolExecutor(self.workers) as pool:
            deque(pool.map(self._check_shard, self._shards), maxlen=0)

    def _check_shard(self, shard: ShardFacts) -> None:
        url = self._files.url_of(shard.name)
        try:
            found = self._files.size(shard.name)
        except NotThere:
            raise BlockDamaged(f"{url} is missing; copy the set there again") from None
        if found not in (None, shard.bytes):
            raise BlockDamaged(
                f"{url} holds {found:,} bytes, the index says {shard.bytes:,}: it was cut, or is of another set; "
                f"copy the set there again"
            )

    def read(self, block: int) -> Block:
        """One block; raises `BlockDamaged`, or `Unreachable` when the server does not answer."""
        shard, facts = self._blocks[block]
        if (kept := self._kept(facts)) is not None:
            return kept
        with self._cache.fetching(facts.block, facts.bytes):
            if (kept := self._kept(facts)) is not None:  # by another process meanwhile
                return kept
            data, found = self._fetched(shard, facts)
            self._cache.put(facts.block, data)
        return found

    def _kept(self, facts: BlockFacts) -> Block | None:
        """The block from the cache, if it is there and whole."""
        data = self._cache.get(facts.block, facts.bytes)
        with suppress(BlockDamaged):
            return None if data is None else self._checked(data, facts, self.name)
        return None

    def _fetched(self, shard: str, facts: BlockFacts) -> tuple[NDArray[np.uint8], Block]:
        """The bytes of a block from the server, and what they hold; what is wrong is asked for once more."""
        data = self._fetch(shard, facts)
        with suppress(BlockDamaged):
            return data, self._checked(data, facts, self._files.url_of(shard))
        data = self._fetch(shard, facts)
        return data, self._checked(data, facts, self._files.url_of(shard))

    def _fetch(self, shard: str, facts: BlockFacts) -> NDArray[np.uint8]:
        try:
            data = self._files.read_range(shard, facts.offset, facts.offset + facts.bytes)
        except NotThere:
            url = self._files.url_of(shard)
            raise BlockDamaged(f"{url} is missing, block {facts.block} was to be read from it") from None
        return np.frombuffer(bytearray(data), np.uint8)  # a copy that is writable, as what is read from files

    def _checked(self, data: NDArray[np.uint8], facts: BlockFacts, where: str) -> Block:
        return checked_block(data, facts, where=where, size=self.size)


def _fetch_index(files: RemoteFolder) -> ShardFolder:
    """The folder as its document and index say, which are fetched and checked as those of a local one."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        for wanted in (DOCUMENTS, (SHARDS.file,)):
            _fetch_first(files, wanted, here)
        try:
            folder = open_folder(here)
        except TransfersetError as error:
            raise type(error)(str(error).replace(name, files.url)) from None
    if contents_id(folder.document["contents"]) != folder.id:
        kind = folder.document["kind"]
        raise IntegrityError(
            f"{files.url_of(f'{kind}.json')} is damaged: its id {folder.id!r} is not that of the contents it lists; "
            f"copy the set there again"
        )
    return folder


def _fetch_first(files: RemoteFolder, names: Iterable[str], here: Path) -> None:
    """Bring here the first of some files that is there; if none is, opening the folder says so."""
    for name in names:
        with suppress(NotThere):
            (here / name).write_bytes(files.read(name))
            return
