"""Nothing damaged passes: every damage of the table is found by verify and refused by the stream, whoever reads."""

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

import shards.pack
from manifests.errors import IntegrityError
from shards.cli import main
from shards.device import Feed
from shards.errors import BlockDamaged
from shards.index import ShardFolder, open_folder
from shards.sources import LocalBlocks
from shards.stream import Stream
from tests.shards import make
from tests.shards.conftest import BLOCK_ROWS, SHARD_ROWS, Sources
from tests.shards.damages import DAMAGES, MANIFEST_DAMAGES, SHARD_DAMAGES, Damage, flip

CPU = torch.device("cpu")
Images = list[tuple[bytes, str]]
"""key and hash of the pixels of each image, in the order they were handed out"""


def images(keys: NDArray[np.bytes_], images_NCHW: NDArray[np.uint8]) -> Images:
    return [(key, hashlib.sha256(i.tobytes()).hexdigest()) for key, i in zip(keys.tolist(), images_NCHW, strict=True)]


def opened(path: Path, *, resident: bool = False, **options: Any) -> Stream:
    source = LocalBlocks(open_folder(path))
    batch = max(5, int(source.counts.sum()) // 12)
    return Stream(source, batch_size=batch, window=2, tail="short", resident=resident, **options)


def epoch(stream: Stream) -> Images:
    return [image for batch in stream.one_epoch() for image in images(batch.keys, batch.images_BCHW)]


def fed(path: Path, *, resident: bool) -> Images:
    """As `distill train` reads."""
    stream = opened(path)
    with Feed(stream, device=CPU, resident=resident) as feed:
        batches = [feed.take() for _ in range(stream.batches_per_epoch)]
    return [image for batch in batches for image in images(batch.keys, batch.images_BCHW.numpy())]


READERS: dict[str, Callable[[Path], Images]] = {
    "windowed": lambda path: epoch(opened(path)),
    "resident": lambda path: epoch(opened(path, resident=True)),
    "fed": lambda path: fed(path, resident=False),
    "fed from the device": lambda path: fed(path, resident=True),
}


@pytest.fixture(scope="module")
def pair(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ShardFolder, ShardFolder]]:
    """Two sets of four shards, of the same images in another order."""
    work = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards.pack, "block_rows", lambda size: BLOCK_ROWS)
        patch.setattr(shards.pack, "shard_rows", lambda size: SHARD_ROWS)
        again = make.write_selection(work / "s", [*sources.stores.values()], budget=20, holdout=4, seed=1)
        yield sources.pack(work / "one").folder, shards.pack.pack(again, sources.stores, work / "other").folder


@pytest.fixture(scope="module")
def real_pair(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ShardFolder, ShardFolder]]:
    """Two sets that `curate select` chose among 2,000 photographs of scenes, of 1,950 images in five shards each."""
    from curate.cli import main as curate

    work = tmp_path_factory.mktemp("real")
    weights, data = shared / "teachers/wrn40_2-cifar10.safetensors", work / "scenes.parquet"
    pq.write_table(pq.read_table(shared / "data/scenes/scenes.parquet").slice(0, 2000), data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards.pack, "shard_rows", lambda size: 512)
        for seed in ("0", "1"):
            arguments = ["select", "--teacher", "wrn40_2", "--teacher-weights", weights, "--corpus", f"scenes={data}"]
            arguments += ["--mode", "random", "--budget", "1950", "--seed", seed]
            arguments += ["--work", work / "work", "--out", work / seed]
            patch.setattr(sys, "argv", ["curate", *map(str, arguments)])
            with pytest.raises(SystemExit, match="0"):
                curate()
        yield open_folder(work / "0"), open_folder(work / "1")


def damaged(pair: tuple[ShardFolder, ShardFolder], damage: Damage, tmp_path: Path) -> Path:
    """A copy of the first set, damaged."""
    copy = tmp_path / "copy"
    shutil.copytree(pair[0].path, copy)
    damage.do(open_folder(copy), pair[1])
    return copy


def check(path: Path, damage: Damage, sound: Images) -> None:
    """Verify names it; a stream refuses it, or hands out what it did before, where that is said."""
    for full in (True, False) if damage.fast else (True,):
        assert damage.named in said_by_verify(path, full=full), full
    if damage.fast is False:
        assert said_by_verify(path, full=False) == ""
    for name, read in READERS.items():
        try:
            found = read(path)
        except IntegrityError as error:
            found, said = None, str(error)
            assert str(path) in said
        assert found == (sound if damage.harmless else None), name


def said_by_verify(path: Path, *, full: bool) -> str:
    """What `shards verify` prints before it exits with 4; nothing if it exits with 0."""
    said, code = io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["shards", "verify", str(path), *([] if full else ["--fast"])])
        patch.setattr(sys, "stdout", said)
        patch.setattr(sys, "stderr", said)
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    assert code in (None, 0, 4), said.getvalue()
    return said.getvalue() if code else ""


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_refused(pair: tuple[ShardFolder, ShardFolder], name: str, tmp_path: Path) -> None:
    check(damaged(pair, DAMAGES[name], tmp_path), DAMAGES[name], epoch(opened(pair[0].path)))


def substitutes(stream: Stream, sound: Stream) -> dict[tuple[bytes, str], tuple[bytes, str]]:
    """What came instead of each image, in this epoch."""
    instead = dict(zip(epoch(sound), epoch(stream), strict=True))  # neither is longer
    assert {*instead.values()} <= {*instead}
    return {image: found for image, found in instead.items() if image != found}


@pytest.mark.parametrize("name", SHARD_DAMAGES)
def test_damage_to_shards_may_be_passed_over(pair: tuple[ShardFolder, ShardFolder], name: str, tmp_path: Path) -> None:
    """Images of bad blocks are others, the same ones whoever reads and in every epoch; the rest is what it was."""
    damage = SHARD_DAMAGES[name]
    path = damaged(pair, damage, tmp_path)
    windowed, resident = (opened(path, resident=kind, on_damage="skip", max_bad=1.0) for kind in (False, True))
    sound = opened(pair[0].path)
    first = substitutes(windowed, sound)
    assert substitutes(resident, sound) == first
    windowed.epoch = sound.epoch = 1
    assert substitutes(windowed, sound) == first
    assert len(first) == windowed.damage.images
    assert windowed.damage == resident.damage
    assert bool(first) == (
        name
        not in {
            "an extra copy",
            "cut in the end of the archive",
            "another shard appended",
            "flipped in the end of the archive",
        }
    )


@pytest.mark.parametrize("name", [name for name, damage in MANIFEST_DAMAGES.items() if not damage.harmless])
def test_damage_to_manifests_is_never_passed_over(
    pair: tuple[ShardFolder, ShardFolder], name: str, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError):
        epoch(opened(damaged(pair, DAMAGES[name], tmp_path), on_damage="skip", max_bad=1.0))


@pytest.fixture
def one_bad_block(pair: tuple[ShardFolder, ShardFolder], tmp_path: Path) -> Path:
    """3 of the 20 images are damaged."""
    return damaged(pair, DAMAGES["flipped in pixels"], tmp_path)


def test_what_was_passed_over_is_reported(one_bad_block: Path) -> None:
    stream = opened(one_bad_block, on_damage="skip", max_bad=0.2)
    assert str(stream.damage) == "no damage met in 20 images"
    epoch(stream)
    report = stream.damage
    assert (report.images, report.of, [*report.blocks]) == (3, 20, [1])
    tar = one_bad_block / "shards" / "train-000000.tar"
    assert report.blocks[1].startswith(f"{tar}: block 1 is damaged (XXH3 ")
    assert str(report) == f"1 damaged block(s), 3 of 20 images replaced: first {report.blocks[1]}"


def test_more_than_the_budget_is_refused_then_and_ever_after(one_bad_block: Path) -> None:
    for resident in (False, True):
        stream = opened(one_bad_block, resident=resident, on_damage="skip", max_bad=0.1)
        for _ in range(2):
            with pytest.raises(BlockDamaged) as caught:
                epoch(stream)
            assert str(caught.value).endswith(
                "so 3 of 20 images are damaged, more than the 10.0% that may be skipped; "
                "make the set again, or copy it again"
            )
            assert "train-000000.tar: block 1 is damaged" in str(caught.value)
    stream = opened(one_bad_block, on_damage="skip")  # the default is 1 %
    with (
        Feed(stream, device=CPU) as feed,
        pytest.raises(BlockDamaged, match=r"more than the 1\.0% that may be skipped"),
    ):
        all(feed.take() for _ in range(stream.batches_per_epoch))


def test_a_set_without_a_good_block_is_refused(pair: tuple[ShardFolder, ShardFolder], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pair[0].path, copy)
    shutil.rmtree(copy / "shards")
    with pytest.raises(BlockDamaged, match=r"copy: no block is good; make it again, or copy it again"):
        epoch(opened(copy, on_damage="skip", max_bad=1.0))


def test_every_rank_gets_its_share_of_every_batch(one_bad_block: Path) -> None:
    def ranks(world: int) -> list[Stream]:
        source = [LocalBlocks(open_folder(one_bad_block)) for _ in range(world)]
        return [
            Stream(s, batch_size=4, window=1, rank=rank, world=world, on_damage="skip", max_bad=0.2)
            for rank, s in enumerate(source)
        ]

    (alone,), (one, two) = ranks(1), ranks(2)
    assert alone.batches_per_epoch == one.batches_per_epoch == two.batches_per_epoch == 5
    halves = zip(one.one_epoch(), two.one_epoch(), strict=True)
    together = [image for pair in halves for b in pair for image in images(b.keys, b.images_BCHW)]
    assert together == epoch(alone)
    assert one.damage == two.damage == alone.damage


def test_a_resumed_stream_passes_over_the_same(pair: tuple[ShardFolder, ShardFolder], one_bad_block: Path) -> None:
    """Also where the damage came between: the state knows nothing of it."""
    undisturbed = opened(one_bad_block, on_damage="skip", max_bad=0.2)
    expected = [images(b.keys, b.images_BCHW) for b, _ in zip(undisturbed, range(9), strict=False)]
    for path in (one_bad_block, pair[0].path):
        before = opened(path, on_damage="skip", max_bad=0.2)
        for stop in range(8):
            next(before)
            after = opened(one_bad_block, on_damage="skip", max_bad=0.2)
            after.load_state(json.loads(json.dumps(before.state())))
            batch = next(after)
            assert images(batch.keys, batch.images_BCHW) == expected[stop + 1]
    strict = opened(pair[0].path)
    strict.load_state(undisturbed.state())  # a run may go on without it


def test_blocks_of_another_number_of_rows_stand_in(tmp_path: Path) -> None:
    """Repeated where they are shorter, cut where they are longer; encoded ones too."""
    for size in (make.SIZE, 66):
        folder = make.write_store(tmp_path / str(size), [[4, 1], [3]], size=size)
        path = folder.path / folder.shards[0].name
        keys = [make.block(rows, size=size, seed=seed).keys.tolist() for seed, rows in enumerate((4, 1, 3))]

        def read() -> list[bytes]:
            stream = Stream(LocalBlocks(folder), batch_size=8, shuffle=False, on_damage="skip", max_bad=1.0)  # noqa: B023
            return [*next(stream).keys.tolist()]

        for number, expected in ((0, keys[1] * 4 + keys[1] + keys[2]), (1, keys[0] + keys[2][:1] + keys[2])):
            place = folder.shards[0].blocks[number].offset + 700
            flip(path, place)
            assert read() == expected
            flip(path, place)


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_the_same_of_a_real_set(real_pair: tuple[ShardFolder, ShardFolder], name: str, tmp_path: Path) -> None:
    check(damaged(real_pair, DAMAGES[name], tmp_path), DAMAGES[name], epoch(opened(real_pair[0].path)))
