"""Two stores, a selection over them, and packing in small shards."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import shards.pack
from shards.index import ShardFolder
from shards.pack import PackResult, pack
from shards.selection import SelectionFolder
from tests.shards import make

BLOCK_ROWS, SHARD_ROWS = 3, 6


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a transfer set is packed from."""

    stores: dict[str, ShardFolder]
    selection: SelectionFolder
    selected: int

    def pack(self, out: Path, *, replace: bool = False) -> PackResult:
        return pack(self.selection, self.stores, out, replace=replace)


@pytest.fixture(scope="module", autouse=True)
def _without_fsync() -> Iterator[None]:
    """No test here outlives a power cut, and a disk takes its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """31 images in two stores, one of which has a shard without images; 20 selected, 4 of them held out."""
    work = tmp_path_factory.mktemp("work #1?")
    stores = {
        "two": make.write_store(work / "two", [[4, 4, 1], [], [3, 2]], corpus="two", seed=1),
        "one": make.write_store(work / "one", [[5, 5], [5, 2]], corpus="one", seed=2),
    }
    selection = make.write_selection(work / "selection", list(stores.values()), budget=20, holdout=4)
    return Sources(stores=stores, selection=selection, selected=20)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3 images and shards of 2 blocks, so that a small set has several."""
    monkeypatch.setattr(shards.pack, "block_rows", lambda size: BLOCK_ROWS)
    monkeypatch.setattr(shards.pack, "shard_rows", lambda size: SHARD_ROWS)


@pytest.fixture
def packed(sources: Sources, small_shards: None, tmp_path: Path) -> ShardFolder:
    """A transfer set of 16 + 4 images in four shards, free to be damaged."""
    return sources.pack(tmp_path / "transfer set").folder
