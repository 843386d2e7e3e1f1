"""`shards bench`: a set is measured as it is, any other folder with a set that is gone afterwards."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import shards.bench
from shards.bench import bench, write_noise
from shards.cli import app
from shards.errors import BlockDamaged, NotAShardFolder
from shards.sources import LocalBlocks
from shards.stream import Stream


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.bench, "SECONDS", 0.01)
    monkeypatch.setattr(shards.bench, "SAMPLE", 1 << 20)
    monkeypatch.setattr(shards.bench, "_cores", lambda: [0])


def test_a_set_of_noise_is_one_that_streams(tmp_path: Path) -> None:
    opened = write_noise(tmp_path / "set", images=1000, size=8)
    assert opened.rows() == 1000
    assert sorted(key for batch in Stream(LocalBlocks(opened), batch_size=100).one_epoch() for key in batch.keys) == [
        f"{row:032x}".encode() for row in range(1000)
    ]


def test_a_folder_is_measured_with_a_set_that_is_gone_afterwards(briefly: None, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    done: list[int] = []
    found = {line.what: line for line in bench(tmp_path, advance=done.append)}
    assert [*found] == [
        "write: blocks",
        "write: the same bytes, hashed",
        "read: from the disk",
        "read: from memory",
        "hash: sha256",
        "hash: xxh3",
        "stream: in windows, 1 core",
        "stream: held in memory, 1 core",
    ]
    assert all(line.mb_per_s is None or line.mb_per_s > 0 for line in found.values())
    assert [what for what, line in found.items() if line.images_per_s] == [*found][-2:]
    assert sum(done) == shards.bench.STEPS
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_set_is_read_and_nothing_is_written(briefly: None, tmp_path: Path) -> None:
    write_noise(tmp_path / "set", images=300, size=8)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = CliRunner().invoke(app, ["bench", str(tmp_path / "set"), "--json"])
    assert done.exit_code == 0, done.output
    assert [line["what"].split(":")[0] for line in json.loads(done.stdout)] == ["read"] * 2 + ["hash"] * 2 + [
        "stream"
    ] * 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAShardFolder, match="nowhere is no folder"):
        bench(tmp_path / "nowhere")


def test_a_set_that_lacks_a_shard_is_damaged(tmp_path: Path) -> None:
    opened = write_noise(tmp_path / "set", images=300, size=8)
    (opened.path / opened.shards[0].name).unlink()
    with pytest.raises(BlockDamaged, match=r"000000.tar is missing; `shards verify .*set` lists all that is wrong"):
        bench(tmp_path / "set")
