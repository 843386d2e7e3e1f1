"""`shards show` and `shards export` at the terminal: what they say of a set."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from shards.cli import main
from shards.errors import ShardError
from shards.index import ShardFolder
from shards.show import describe, lines
from tests.shards import make
from tests.shards.conftest import Sources


@pytest.fixture(scope="module")
def transfer_set(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return sources.pack(tmp_path_factory.mktemp("packed") / "a set").folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shards", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_what_a_transfer_set_is(transfer_set: ShardFolder) -> None:
    found = describe(transfer_set)
    pixels = sum((transfer_set.path / shard.name).stat().st_size for shard in transfer_set.shards)
    assert found["corpora"].keys() == {"one", "two"}
    assert sum(found["corpora"].values()) == 20
    del found["corpora"]
    assert found == {
        "folder": str(transfer_set.path),
        "kind": "transfer-set",
        "id": transfer_set.id,
        "images": 20,
        "splits": {"train": 16, "holdout": 4},
        "size": make.SIZE,
        "classes": {"class 0": 20},
        "classes_are": "the teacher's predictions",
        "teacher": {"name": "toy", "sha256": "ab" * 32},
        "views": 0,
        "shards": 2,
        "blocks": 2,
        "bytes": pixels,
        "bytes_per_image": pixels / 20,
    }


def test_what_a_store_is(tmp_path: Path) -> None:
    found = describe(make.write_store(tmp_path, [[3, 2], []], size=80))
    assert (found["kind"], found["images"], found["splits"]) == ("store", 5, {"all": 5})
    assert (found["corpora"], found["classes"], found["teacher"]) == ({"one": 5}, {}, None)
    text = dict(lines(found))
    assert (text["images"], text["classes"]) == ("5", "none known")
    assert "teacher" not in text


def test_a_person_sees_the_commonest_classes(transfer_set: ShardFolder) -> None:
    many = describe(transfer_set) | {"classes": {f"c{n}": 2000 - n for n in range(12)}, "views": 2}
    text = dict(lines(many))
    assert text["classes"].startswith("12, the teacher's predictions: c0 (2,000), c1 (1,999), ")
    assert text["classes"].endswith("c9 (1,991), and 2 more")
    assert text["images"] == "20 (train 16, holdout 4)"
    assert text["views"] == "2 with logits"


def test_show_at_the_terminal(
    transfer_set: ShardFolder,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert run(monkeypatch, "show", transfer_set.path) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == f"id        {transfer_set.id}"
    assert f"teacher   toy ({'ab' * 6})\n" in out
    assert err == ""
    picture = tmp_path / "mosaic.png"
    assert run(monkeypatch, "show", transfer_set.path, "--json", "--mosaic", picture) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == describe(transfer_set)
    assert err == f"{picture}: 20 images\n"
    with Image.open(picture) as drawn:
        assert drawn.size == (16 * (64 + 1) - 1, 2 * (64 + 1) - 1)
    assert run(monkeypatch, "show", transfer_set.path, "--mosaic", tmp_path / "mosaic.jpg") == 2
    assert "mosaic.jpg'; expected a name that ends in .png" in capfd.readouterr().err
    assert run(monkeypatch, "show", tmp_path) == 2
    assert "is no transfer set" in capfd.readouterr().err


@pytest.mark.parametrize("counts", [[[64] * 20], [[1] * 3], [[5, 60]], [[48, 12]], [[256, 256, 256, 7]]])
def test_a_mosaic_is_of_up_to_64_images_from_all_over(tmp_path: Path, counts: list[list[int]]) -> None:
    from shards.show import sample

    folder = make.write_store(tmp_path, counts)
    images_NCHW = sample(folder)
    assert len(images_NCHW) == min(64, folder.rows())
    assert len({image.tobytes() for image in images_NCHW}) == len(images_NCHW)
    ends = [make.block(counts[0][0]).images_NCHW[0], make.block(counts[0][-1], seed=len(counts[0]) - 1).images_NCHW[-1]]
    assert {end.tobytes() for end in ends} <= {image.tobytes() for image in images_NCHW}
    assert sample(folder).tobytes() == images_NCHW.tobytes()


def test_a_set_without_images_has_no_mosaic(tmp_path: Path) -> None:
    from shards.show import sample

    with pytest.raises(ShardError, match="holds no images"):
        sample(make.write_store(tmp_path, [[]]))


def test_export_at_the_terminal(
    transfer_set: ShardFolder,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    words = ["export", transfer_set.path, "--to", "wds", "--out", out]
    assert run(monkeypatch, *words, "--shard-rows", 10) == 0
    said = f"{out}: all 20 images (train 16, holdout 4) in 3 files, png without loss\n"
    assert capfd.readouterr() == (said + "classes are the teacher's prediction\n", "")
    assert run(monkeypatch, *words) == 2
    assert "was made differently: shard_rows was 10, now" in capfd.readouterr().err
    assert run(monkeypatch, *words, "--image", "jpg", "--quality", 90, "--split", "train", "--replace", "--json") == 0
    said, note = capfd.readouterr()
    found = json.loads(said)
    assert note == f"the old {out} is now {out}.old-1\n"
    assert {name: found[name] for name in ("set", "to", "image", "images", "lossless", "files", "moved")} == {
        "set": transfer_set.id,
        "to": "wds",
        "image": "jpg",
        "images": {"train": 16},
        "lossless": False,
        "files": 1,
        "moved": f"{out}.old-1",
    }
    assert found["bytes"] == sum(file.stat().st_size for file in out.glob("*.tar"))
