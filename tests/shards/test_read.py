"""A block is checked before it is handed out; what is wrong is said with file and block."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from manifests.errors import IntegrityError
from shards.errors import BlockDamaged
from shards.index import ShardFacts
from shards.read import read_block, read_shard
from shards.write import write_shard
from tests.shards import make

BLOCKS = [make.block(3, seed=1), make.block(2, seed=2)]


@pytest.fixture
def shard(tmp_path: Path) -> ShardFacts:
    return write_shard(tmp_path, "a b#?.tar", BLOCKS, split="all", first_block=4)


def refused(tmp_path: Path, shard: ShardFacts, words: str, block: int = 1) -> None:
    with pytest.raises(BlockDamaged, match=words) as caught:
        read_block(tmp_path / shard.name, shard.blocks[block])
    assert str(tmp_path / shard.name) in str(caught.value)
    assert isinstance(caught.value, IntegrityError)
    assert caught.value.exit_code == 4


def test_blocks_come_back_in_order(tmp_path: Path, shard: ShardFacts) -> None:
    for read, written in zip(read_shard(tmp_path, shard), BLOCKS, strict=True):
        assert np.array_equal(read.images_NCHW, written.images_NCHW)
        assert np.array_equal(read.keys, written.keys)
        assert np.array_equal(read.labels, written.labels)


def test_any_flipped_bit_is_seen_and_the_other_block_still_read(tmp_path: Path, shard: ShardFacts) -> None:
    path, about = tmp_path / shard.name, shard.blocks[1]
    whole = path.read_bytes()
    for at in (about.offset, about.offset + 600, about.offset + about.bytes - 1):  # header, payload, padding
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        refused(tmp_path, shard, r"block 5 is damaged \(XXH3 [0-9a-f]{16}, index says [0-9a-f]{16}\)")
        assert len(read_block(path, shard.blocks[0])) == 3


def test_a_cut_file_is_seen(tmp_path: Path, shard: ShardFacts) -> None:
    path, about = tmp_path / shard.name, shard.blocks[1]
    path.write_bytes(path.read_bytes()[: about.offset + 1500])
    refused(tmp_path, shard, f"block 5 ends after 1,500 of {about.bytes:,} bytes")
    assert len(read_block(path, shard.blocks[0])) == 3


def test_a_missing_file_is_seen(tmp_path: Path, shard: ShardFacts) -> None:
    (tmp_path / shard.name).unlink()
    refused(tmp_path, shard, r"tar is missing, block 5 was to be read from it")


def test_an_index_that_is_wrong_itself_is_seen(tmp_path: Path, shard: ShardFacts) -> None:
    blocks = (shard.blocks[0], replace(shard.blocks[1], rows=7))
    refused(tmp_path, replace(shard, blocks=blocks), "block 5 holds 2 images, the index says 7")
    data = (tmp_path / shard.name).read_bytes()[7:1000]
    blocks = (replace(shard.blocks[0], offset=7, bytes=993, xxh3=xxhash.xxh3_64_hexdigest(data)), shard.blocks[1])
    refused(tmp_path, replace(shard, blocks=blocks), "block 4 cannot be decoded: not a block", block=0)
