"""Write one block shard: deterministic bytes, hashed while written, whole or not at all."""

import tarfile
from collections.abc import Iterable
from pathlib import Path

import xxhash

from manifests.commit import FileFacts, atomic_file
from shards.index import BlockFacts, ShardFacts
from shards.layout import TAR_END, Block, encode_block


def write_shard(folder: Path, name: str, blocks: Iterable[Block], *, split: str, first_block: int) -> ShardFacts:
    """Write ``blocks``, numbered from ``first_block``, as the tar ``folder/name``; return its index entry."""
    facts = []
    with atomic_file(folder / name) as file:
        for number, block in enumerate(blocks, first_block):
            offset, digest = file.bytes, xxhash.xxh3_64()
            for piece in encode_block(number, block):
                digest.update(piece)
                file.write(piece)
            facts.append(
                BlockFacts(
                    block=number, rows=len(block), offset=offset, bytes=file.bytes - offset, xxh3=digest.hexdigest()
                )
            )
        file.write(TAR_END)
        file.write(bytes(-file.bytes % tarfile.RECORDSIZE))
    rows = sum(f.rows for f in facts)
    return ShardFacts(name=name, split=split, bytes=file.bytes, sha256=file.sha256, rows=rows, blocks=tuple(facts))


def committed(facts: ShardFacts) -> FileFacts:
    """What a commit record says of a shard."""
    return FileFacts(name=facts.name, bytes=facts.bytes, sha256=facts.sha256, rows=facts.rows)
