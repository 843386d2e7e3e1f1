"""Read blocks by offset, checking every one before it is handed out."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.errors import BlockDamaged
from shards.index import BlockFacts, ShardFacts
from shards.layout import Block, decode_block


def read_block(path: Path, facts: BlockFacts, *, size: int | None = None) -> Block:
    """One block of the tar at ``path``; raises `BlockDamaged` naming file and block.

    With ``size`` (px) images of another size are damage too, and are seen before any is decoded.
    """
    if not path.is_file():  # a pipe would be waited for
        raise BlockDamaged(f"{path} is missing, block {facts.block} was to be read from it")
    with path.open("rb", buffering=0) as file:
        there = min(facts.bytes, max(0, os.fstat(file.fileno()).st_size - facts.offset))
        data = np.empty(there, np.uint8)  # not bytes: what is read is then writable, as torch wants it
        data = data[: os.preadv(file.fileno(), [data.data], facts.offset)]
    return checked_block(data, facts, where=path, size=size)


def checked_block(data: NDArray[np.uint8], facts: BlockFacts, *, where: Path | str, size: int | None = None) -> Block:
    """The block whose bytes are ``data``, if they are those that the index says (else `BlockDamaged`)."""
    if len(data) != facts.bytes:
        raise BlockDamaged(f"{where}: block {facts.block} ends after {len(data):,} of {facts.bytes:,} bytes")
    if (found := xxhash.xxh3_64_hexdigest(data.data)) != facts.xxh3:
        raise BlockDamaged(f"{where}: block {facts.block} is damaged (XXH3 {found}, index says {facts.xxh3})")
    try:
        block = decode_block(data)
    except ValueError as error:
        raise BlockDamaged(f"{where}: block {facts.block} cannot be decoded: {error}") from error
    if len(block) != facts.rows:
        raise BlockDamaged(f"{where}: block {facts.block} holds {len(block)} images, the index says {facts.rows}")
    if size not in (None, block.size):
        raise BlockDamaged(f"{where}: block {facts.block} holds images of {block.size} px, the set says {size}")
    return block


def read_shard(folder: Path, shard: ShardFacts) -> Iterator[Block]:
    """All blocks of a shard, in order."""
    for facts in shard.blocks:
        yield read_block(folder / shard.name, facts)
