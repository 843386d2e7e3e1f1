"""A shard is written whole or not at all, and its facts are those of its bytes."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash

from shards.layout import Block, decode_block
from shards.write import committed, write_shard
from tests.shards import make

BLOCKS = [make.block(3, seed=1), make.block(3, seed=2), make.block(1, seed=3)]


def test_the_same_blocks_give_the_same_file_and_facts(tmp_path: Path) -> None:
    facts = [write_shard(tmp_path / n, "shards/a.tar", BLOCKS, split="train", first_block=5) for n in ("one", "two")]
    one, two = ((tmp_path / n / "shards" / "a.tar").read_bytes() for n in ("one", "two"))
    assert one == two
    assert facts[0] == facts[1]


def test_facts_are_those_of_the_bytes(tmp_path: Path) -> None:
    facts = write_shard(tmp_path, "shards/a.tar", BLOCKS, split="train", first_block=5)
    data = (tmp_path / "shards" / "a.tar").read_bytes()
    assert (facts.name, facts.split, facts.rows) == ("shards/a.tar", "train", 7)
    assert (facts.bytes, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert [b.block for b in facts.blocks] == [5, 6, 7]
    assert [b.rows for b in facts.blocks] == [3, 3, 1]
    end = 0
    for about, block in zip(facts.blocks, BLOCKS, strict=True):
        assert about.offset == end  # without a gap
        end = about.offset + about.bytes
        piece = data[about.offset : end]
        assert about.xxh3 == xxhash.xxh3_64_hexdigest(piece)
        assert np.array_equal(decode_block(piece).images_NCHW, block.images_NCHW)
    assert not any(data[end:])
    said = committed(facts)
    assert (said.name, said.bytes, said.sha256, said.rows) == (facts.name, facts.bytes, facts.sha256, facts.rows)


def test_no_blocks_make_an_empty_tar(tmp_path: Path) -> None:
    facts = write_shard(tmp_path, "a.tar", [], split="all", first_block=0)
    assert (facts.rows, facts.blocks) == (0, ())
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "a.tar").read_bytes())) as tar:
        assert tar.getnames() == []


def test_a_failure_half_way_leaves_no_tar(tmp_path: Path) -> None:
    def some() -> Iterator[Block]:
        yield BLOCKS[0]
        raise RuntimeError("the disk of the corpus went away")

    with pytest.raises(RuntimeError, match="went away"):
        write_shard(tmp_path, "shards/a.tar", some(), split="all", first_block=0)
    assert list((tmp_path / "shards").iterdir()) == []


def test_a_failure_half_way_keeps_the_tar_that_was_there(tmp_path: Path) -> None:
    write_shard(tmp_path, "a.tar", BLOCKS, split="all", first_block=0)
    before = (tmp_path / "a.tar").read_bytes()
    with pytest.raises(AttributeError):
        write_shard(tmp_path, "a.tar", [BLOCKS[0], None], split="all", first_block=0)  # type: ignore[list-item]
    assert (tmp_path / "a.tar").read_bytes() == before
