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


def read_block(path: Path, facts: BlockFacts) -> Block:
    """One block of the tar at ``path``; raises `BlockDamaged` naming file and block."""
    try:
        with path.open("rb", buffering=0) as file:
            data = np.empty(facts.bytes, np.uint8)  # not bytes: what is read is then writable, as torch wants it
            data = data[: os.preadv(file.fileno(), [data.data], facts.offset)]
    except FileNotFoundError:
        raise BlockDamaged(f"{path} is missing, block {facts.block} was to be read from it") from None
    return checked_block(data, facts, where=path)


def checked_block(data: NDArray[np.uint8], facts: BlockFacts, *, where: Path | str) -> Block:
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
    return block


def read_shard(folder: Path, shard: ShardFacts) -> Iterator[Block]:
    """All blocks of a shard, in order."""
    for facts in shard.blocks:
        yield read_block(folder / shard.name, facts)
