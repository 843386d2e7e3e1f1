"""Where a run's images lie: on the device, in memory, in windows, in damaged blocks, in tars, behind a URL."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shards.pack
from distill.errors import DistillError
from distill.material import Material
from distill.models.teachers import load_classifier
from distill.run import distill
from shards.errors import BlockDamaged
from shards.index import ShardFolder
from tests.distill import toys
from tests.distill.test_cli import Command, Distill
from tests.shards.range_server import serving

HERE: Command = ["--updates", "4", "--batch-size", "8", "--dtype", "float32", "--device", "cpu", "--threads", "1"]


@pytest.mark.parametrize("method", ["kd", "kd3"])
@pytest.mark.parametrize("views", [0, 2])
def test_residence_changes_no_byte(weights: Path, tmp_path: Path, method: str, views: int) -> None:
    folder = toys.write_transfer_set(tmp_path, weights, views=views)
    settings: dict[str, Any] = {"threshold": 0.3} if method == "kd3" else {}
    found = set()
    for residence in ("device", "memory", "window"):
        out, place = tmp_path / residence, replace(toys.PLACE, residence=residence)
        config = toys.run_config(method, updates=6, **settings)  # into the second epoch
        distill(Material.of(folder), load_classifier(weights), config, out=out, place=place)
        found.add((out / "student.safetensors").read_bytes())
    assert len(found) == 1


def test_a_residence_that_is_none() -> None:
    with pytest.raises(DistillError, match="--resident is 'disk'; expected one of auto, device, memory, window"):
        replace(toys.PLACE, residence="disk")


# damage


@pytest.fixture
def damaged(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardFolder:
    """250 images in blocks of 2, of which one, in the middle, is not what was written."""
    monkeypatch.setattr(shards.pack, "block_rows", lambda size: 2)
    folder = toys.write_transfer_set(tmp_path, weights, train=240, holdout=10)
    return damage(folder, "train", 60)


def damage(folder: ShardFolder, split: str, number: int) -> ShardFolder:
    """Flip a bit in a block."""
    (shard,) = (shard for shard in folder.shards if split in shard.name)
    block = shard.blocks[number]
    with (folder.path / shard.name).open("r+b") as file:
        file.seek(block.offset + block.bytes - 300)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    return folder


def test_damage_is_refused_unless_it_may_be_skipped(damaged: ShardFolder, weights: Path, command: Distill) -> None:
    asked: Command = ["train", "--shards", damaged.path, "--teacher-weights", weights, *HERE, "--out", "run"]
    asked[asked.index("--updates") + 1] = "30"  # an epoch
    command(*asked).refused("block 60", code=4)
    said = command(*asked, "--on-damage", "skip", "--resident", "window", "--json")
    assert "2 of 240 images lie in damaged blocks and were replaced by others" in said.err
    report = said.json
    assert report["damage"].keys() == {"blocks", "images", "of"}
    assert (report["damage"]["images"], report["damage"]["of"]) == (2, 240)
    assert [*report["damage"]["blocks"]] == ["60"]
    assert report["damage"] == json.loads(Path("run/report.json").read_text())["damage"]
    again = command(*asked, "--on-damage", "skip")
    assert "2 of 240 images" in again.err
    assert again.out.startswith("run: finished")
    command(*asked, "--on-damage", "ignore", "--out", "x").refused(
        "--on-damage is 'ignore'; expected one of refuse, skip"
    )


def test_damage_in_what_is_held_out_is_told_too(damaged: ShardFolder, weights: Path, command: Distill) -> None:
    damage(damaged, "holdout", 3)
    asked: Command = ["train", "--shards", damaged.path, "--teacher-weights", weights, *HERE, "--on-damage", "skip"]
    command(*asked, "--out", "strict").refused("2 of 10 images are damaged, more than the 1.0%", code=4)
    said = command(*asked, "--out", "run", "--max-bad", "0.2", "--json")
    assert "2 of 10 held-out images lie in damaged blocks" in said.err
    assert (said.json["held_out_damage"]["images"], [*said.json["held_out_damage"]["blocks"]]) == (2, ["3"])


def test_what_an_earlier_slice_passed_over_is_still_told(damaged: ShardFolder, weights: Path, tmp_path: Path) -> None:
    """The last slice may read nothing more of the bad block."""
    from distill.train import Pace

    teacher, place = load_classifier(weights), replace(toys.PLACE, on_damage="skip", residence="device")
    config, out = toys.run_config("kd", updates=3), tmp_path / "run"

    def go(residence: str, **pace: Any) -> dict[str, Any]:
        there = replace(place, residence=residence)
        return distill(Material.of(damaged), teacher, config, out=out, place=there, pace=Pace(**pace))

    first = go("device", stop_after_s=0.0)
    assert (first["finished"], first["damage"]["images"]) == (False, 2)
    last = go("window")
    assert last["finished"]
    assert last["damage"] == first["damage"]


def test_more_damage_than_may_be_skipped_is_refused(damaged: ShardFolder, weights: Path, tmp_path: Path) -> None:
    (shard,) = (shard for shard in damaged.shards if "train" in shard.name)
    path = damaged.path / shard.name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    place = replace(toys.PLACE, on_damage="skip", residence="device")
    with pytest.raises(BlockDamaged, match=r"images are damaged, more than the 1\.0% that may be skipped"):
        distill(Material.of(damaged), load_classifier(weights), toys.run_config("kd"), out=tmp_path / "r", place=place)


# other people's tars, and sets elsewhere


@pytest.fixture
def tars(tmp_path: Path) -> str:
    """Two tars of 20 images each, of other sizes than the teacher's; their pattern."""
    draw = np.random.default_rng(0)
    for number in range(2):
        with tarfile.open(tmp_path / f"x-{number}.tar", "w") as tar:
            for image in range(20):
                buffer = io.BytesIO()
                pixels = draw.integers(0, 256, (12, 10 + image % 3, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "PNG")
                for suffix, data in (("png", buffer.getvalue()), ("cls", str(image % 4).encode())):
                    info = tarfile.TarInfo(f"{number:02}{image:03}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(tmp_path / "x-{0..1}.tar")


@pytest.mark.parametrize("method", ["kd", "mosaickd"])
def test_tars_of_others_with_a_teacher_of_ones_own(tars: str, weights: Path, command: Distill, method: str) -> None:
    asked: Command = ["train", "--shards", tars, "--teacher-weights", weights, "--method", method, *HERE]
    report = command(*asked, "--out", "run", "--json").json
    assert report["finished"]
    assert (report["images"], report["agreement"]["images"]) == (38, 2)  # 5 % of 40 held out
    assert report["transfer_set"].endswith("x-{0..1}.tar")
    assert len(report["run"]["transfer_set"]) == 32
    assert Path("run/report.html").read_text().count("Transfer set") == 0  # nothing is known of it but its images
    assert command(*asked, "--out", "again", "--resize", "plain", "--json").json["finished"]
    first, other = (Path(out, "student.safetensors").read_bytes() for out in ("run", "again"))
    assert first != other  # other pixels


def test_tars_need_a_teacher(tars: str, command: Distill) -> None:
    command("train", "--shards", tars, *HERE).refused(
        "which teacher? pass --teacher NAME or --teacher-weights FILE; only a transfer set knows its own"
    )


@pytest.fixture
def elsewhere(transfer_set: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The toy set behind a web server."""
    monkeypatch.setenv("TRANSFERSET_CACHE", str(tmp_path / "cache"))
    with serving(transfer_set.path) as server:
        yield server.url


def test_a_set_behind_a_url_gives_the_same_student(
    elsewhere: str, transfer_set: ShardFolder, weights: Path, command: Distill
) -> None:
    """With its teacher found by hash, once it is stored; stopped on one and resumed on the other."""
    asked: Command = ["--teacher-weights", weights, *HERE]
    here = command("train", "--shards", transfer_set.path, *asked, "--out", "here", "--json").json
    there = command("train", "--shards", elsewhere, *HERE, "--out", "there", "--json").json
    assert there["run"] == here["run"]
    assert there["agreement"] == here["agreement"]
    assert Path("here/student.safetensors").read_bytes() == Path("there/student.safetensors").read_bytes()
    assert not command("train", "--shards", elsewhere, *HERE, "--out", "mixed", "--stop-after", "0.000001s").err
    assert command("train", "--shards", transfer_set.path, *HERE, "--out", "mixed", "--json").json["finished"]
    assert Path("mixed/student.safetensors").read_bytes() == Path("here/student.safetensors").read_bytes()
