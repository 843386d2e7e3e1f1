"""The face for anybody's torch loop: the one order whatever the loader's workers, exact resume, rows for samplers."""

import json
import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.distributed
from torch.utils.data import DataLoader, RandomSampler, default_collate

from manifests.keys import content_key
from shards import IterableShards, MapShards, ShardFolder, Stream, open_folder
from shards.errors import ShardError, StreamStateError
from shards.export import export
from shards.index import seal, write_index
from shards.layout import Block
from shards.sources import LocalBlocks
from shards.write import write_shard
from tests.shards import make

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on two cores
ROOT = Path(__file__).parents[2]
ROWS = 40
VIEWS = 2
Way = Literal["fork", "spawn"]
SPAWN = pytest.param("spawn", marks=pytest.mark.slow)  # every worker imports torch


@pytest.fixture(scope="module", params=["raw", "encoded"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    """40 images in blocks of 5 to 7; below or above 64 px."""
    size = make.SIZE if request.param == "raw" else 80
    return make.write_store(tmp_path_factory.mktemp(request.param), [[7, 7, 6], [5, 5, 5, 5]], size=size)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return make.write_store(tmp_path_factory.mktemp("raw"), [[7, 7, 6], [5, 5, 5, 5]])


def keys(batches: Iterable[Any]) -> list[list[str]]:
    return [batch["key"] for batch in batches]


def every(rows: MapShards) -> list[dict[str, Any]]:
    return rows.__getitems__(range(len(rows)))


def order(folder: ShardFolder, count: int, **options: Any) -> list[list[str]]:
    stream = Stream(LocalBlocks(folder), **options)
    return [[key.decode() for key in batch.keys.tolist()] for batch in islice(stream, count)]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_loader_gives_the_one_order_whatever_its_workers(raw: ShardFolder, workers: int) -> None:
    shards = IterableShards(raw.path, batch_size=6, window=2, tail="wrap", seed=3)
    loader = DataLoader(shards, batch_size=None, num_workers=workers)
    assert len(loader) == 7
    found = keys(loader)
    assert found == order(raw, 7, batch_size=6, window=2, tail="wrap", seed=3)
    assert keys(loader) == found  # as any loader does: another epoch is another `set_epoch`
    shards.set_epoch(1)
    assert found + keys(loader) == order(raw, 14, batch_size=6, window=2, tail="wrap", seed=3)


@pytest.mark.parametrize("way", ["fork", SPAWN])
def test_batches_are_whole_and_like_collated_rows(folder: ShardFolder, way: Way) -> None:
    """Also in workers that are forked after the set was read here, in threads that they do not have."""
    rows = MapShards(folder.path)
    place = {row["key"]: number for number, row in enumerate(every(rows))}
    assert len(place) == len(rows) == ROWS
    shards = IterableShards(str(folder.path), batch_size=8)
    next(iter(shards))
    for batch in DataLoader(shards, batch_size=None, num_workers=2, multiprocessing_context=way, timeout=120):
        expected = default_collate([rows[place[key]] for key in batch["key"]])
        assert batch.keys() == expected.keys() == {"image", "key", "label"}
        assert batch["key"] == expected["key"]
        assert torch.equal(batch["label"], expected["label"])
        assert torch.equal(batch["image"], expected["image"])
        assert (batch["image"].dtype, batch["label"].dtype) == (torch.uint8, torch.int64)
        assert [content_key(image.numpy()) for image in batch["image"]] == batch["key"]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("stop", [0, 3, 5, 6, 8])
def test_the_state_is_where_the_delivered_batches_end(
    raw: ShardFolder, workers: int, persistent: bool, stop: int
) -> None:
    """Not where the workers are, who are ahead; resumed with another number of workers, and twice in an epoch."""
    options: dict[str, Any] = {"batch_size": 8, "window": 2}  # 5 batches an epoch
    expected = order(raw, 20, **options)

    def run(state: dict[str, Any] | None, count: int, workers: int) -> tuple[list[list[str]], dict[str, Any]]:
        shards = IterableShards(raw.path, **options)
        if state:
            shards.load_state_dict(state)
        loader = DataLoader(shards, batch_size=None, num_workers=workers, persistent_workers=persistent and workers > 0)
        found: list[list[str]] = []
        while len(found) < count:
            found += keys(islice(shards.counted(loader), count - len(found)))
        return found, json.loads(json.dumps(shards.state_dict()))

    first, state = run(None, stop, workers)
    second, state = run(state, 1, 0)
    third, state = run(state, 7, workers)
    assert first + second + third == expected[: stop + 8]
    straight = Stream(LocalBlocks(raw), **options)
    straight.load_state(state)  # the same state as the stream's own
    assert [[key.decode() for key in next(straight).keys.tolist()]] == expected[stop + 8 : stop + 9]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_over_epochs_resumes_in_the_epoch_it_was_in(raw: ShardFolder, workers: int) -> None:
    """As everybody writes it, `set_epoch` first; persistent workers are told of it too."""

    def loop(shards: IterableShards, begin: int, stop: int) -> list[list[str]]:
        loader = DataLoader(shards, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
        found: list[list[str]] = []
        for epoch in range(begin, 3):
            shards.set_epoch(epoch)
            for batch in shards.counted(loader):
                found.append(batch["key"])
                if len(found) == stop:
                    return found
        return found

    expected = order(raw, 15, batch_size=8, window=2)
    for stop in (3, 5, 7, 15):
        old, new = (IterableShards(raw.path, batch_size=8, window=2) for _ in range(2))
        found = loop(old, 0, stop)
        new.load_state_dict(old.state_dict())
        assert found + loop(new, new.state_dict()["epoch"], -1) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_was_left_goes_on_where_it_was(raw: ShardFolder, workers: int) -> None:
    """With the same loader, whose workers had begun other batches."""
    shards = IterableShards(raw.path, batch_size=8, window=2)
    loader = DataLoader(shards, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    found = [key for count in (2, 1, 9, 1) for key in keys(islice(shards.counted(loader), count))]
    assert found == order(raw, 6, batch_size=8, window=2)


def test_the_state_of_a_batch_looks_at_no_shard(raw: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a set that lies elsewhere that is a request for each of them."""
    shards = IterableShards(raw.path, batch_size=8)
    batches = shards.counted(shards)
    next(batches)
    monkeypatch.setattr(LocalBlocks, "check", lambda self: pytest.fail("looked at the shards"))
    for _ in batches:
        assert shards.state_dict()["batch"] > 0


def test_ranks_share_each_batch(raw: ShardFolder) -> None:
    ranks = [IterableShards(raw.path, batch_size=8, rank=rank, world=2) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [5, 5]
    assert [one + two for one, two in zip(*map(keys, ranks), strict=True)] == order(raw, 5, batch_size=8)
    assert ranks[0].state_dict() == ranks[1].state_dict()


def test_ranks_are_those_of_torch_distributed(raw: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ShardError, match=r"WORLD_SIZE is 2 but torch\.distributed is not initialised yet, .*rank="):
        IterableShards(raw.path, batch_size=8)
    assert len(next(iter(IterableShards(raw.path, batch_size=8, rank=0, world=1)))["key"]) == 8
    with pytest.raises(ShardError, match="rank is 1 and world is None; expected both or neither"):
        IterableShards(raw.path, batch_size=8, rank=1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert next(iter(IterableShards(raw.path, batch_size=8)))["key"] == order(raw, 1, batch_size=8)[0][4:]


def test_a_state_of_another_set_or_batch_is_refused(raw: ShardFolder) -> None:
    state = IterableShards(raw.path, batch_size=8).state_dict()
    with pytest.raises(StreamStateError, match="global_batch was 8 when the run was saved and is 4 now"):
        IterableShards(raw.path, batch_size=4).load_state_dict(state)


def test_another_set_in_its_place_is_refused(raw: ShardFolder, tmp_path: Path) -> None:
    make.write_store(tmp_path / "set", [[6, 6]])
    made: list[IterableShards | MapShards] = [
        IterableShards(tmp_path / "set", batch_size=2),
        MapShards(tmp_path / "set"),
    ]
    pickled = [pickle.dumps(dataset) for dataset in made]
    (tmp_path / "set").rename(tmp_path / "old")
    new = make.write_store(tmp_path / "set", [[6, 6]], seed=1)
    for data in pickled:
        with pytest.raises(ShardError, match=rf"/set was set \w+ when it was opened and is {new.id} now"):
            next(iter(pickle.loads(data)))


def test_what_travels_to_a_worker_is_small(tmp_path: Path) -> None:
    folder = make.write_store(tmp_path, [[1] * 60] * 5)
    rows = MapShards(folder.path)
    _ = rows[0]
    travelling = pickle.dumps(rows)
    assert len(travelling) < 1000 + 8 * 300  # where each block ends
    assert pickle.loads(travelling)[7]["key"] == rows[7]["key"]
    assert len(pickle.dumps(IterableShards(folder.path, batch_size=8))) < 1500


@pytest.mark.parametrize("way", [None, "fork", SPAWN])
def test_rows_come_in_the_order_of_a_sampler(folder: ShardFolder, way: Way | None) -> None:
    rows = MapShards(folder.path)
    stored = [key for batch in order(folder, ROWS // 4, batch_size=4, shuffle=False) for key in batch]
    assert [row["key"] for row in every(rows)] == stored
    drawn = list(RandomSampler(rows, generator=torch.Generator().manual_seed(0)))
    workers: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": way, "timeout": 120} if way else {}
    loader = DataLoader(rows, batch_size=9, sampler=drawn, **workers)
    found = list(loader)
    assert [key for batch in found for key in batch["key"]] == [stored[row] for row in drawn]
    for batch in found:
        assert [content_key(image.numpy()) for image in batch["image"]] == batch["key"]


def test_rows_by_number(raw: ShardFolder) -> None:
    rows = MapShards(raw.path, split="all")
    last = rows[-1]
    assert last["key"] == rows[ROWS - 1]["key"]
    assert type(last["label"]) is int
    assert last["image"].shape == (3, make.SIZE, make.SIZE)
    last["image"].zero_()  # a copy, and a writable one
    assert rows[-1]["image"].any()
    for wrong in (ROWS, -ROWS - 1):
        with pytest.raises(IndexError, match=f"row {wrong} of 40"):
            _ = rows[wrong]
    with pytest.raises(ShardError, match=r"split 'train' of .* holds no images; its splits: all"):
        MapShards(raw.path, split="train")


def test_a_batch_of_rows_reads_each_block_once(raw: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original: Callable[[LocalBlocks, int], Block] = LocalBlocks.read

    def counting(self: LocalBlocks, block: int) -> Block:
        read.append(block)
        return original(self, block)

    monkeypatch.setattr(LocalBlocks, "read", counting)
    rows = MapShards(raw.path, cached=1)
    asked = [39, 0, 1, 38, 0, 20]
    assert [row["key"] for row in rows.__getitems__(asked)] == [rows[row]["key"] for row in asked]
    assert sorted(read[:3]) == [0, 3, 6]
    assert read[3:] == [0, 6, 0, 3]  # one is kept: asked for were 6, 0, 0, 6, 0, 3


def test_logits_are_those_of_one_view(tmp_path: Path) -> None:
    logits_NVK = np.arange(6 * VIEWS * 3, dtype=np.float16).reshape(6, VIEWS, 3)
    folder = write_set(tmp_path, replace(make.block(6), logits_NVK=logits_NVK), views=VIEWS)
    for view in range(VIEWS):
        rows = MapShards(folder.path, view=view)
        found = torch.stack([row["logits"] for row in every(rows)])
        assert torch.equal(found, torch.from_numpy(logits_NVK[:, view]))
    shards = IterableShards(folder.path, batch_size=6, shuffle=False)
    for epoch in range(3):
        shards.set_epoch(epoch)
        assert torch.equal(next(iter(shards))["logits"], torch.from_numpy(logits_NVK[:, epoch % VIEWS]))
    with pytest.raises(ShardError, match=re.escape(f"view is 2; {folder.path} carries the logits of 2 views")):
        MapShards(folder.path, view=2)


def write_set(folder: Path, block: Block, *, views: int = 0) -> ShardFolder:
    """A transfer set of one block, in the split `train`."""
    shard = write_shard(folder, "shards/train-000000.tar", [block], split="train", first_block=0)
    files = [write_index(folder, [shard], provenance=make.MADE)]
    about = {"size": make.SIZE, "views": {"count": views}}
    seal(folder, about, kind="transfer-set", files=files, fingerprint="f")
    return open_folder(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_tars_of_samples_are_sets_too(raw: ShardFolder, tmp_path: Path, workers: int) -> None:
    export(raw, tmp_path, to="wds", rows=15)
    pattern = str(tmp_path / "train-{000000..000002}.tar")
    shards = IterableShards(pattern, size=make.SIZE, batch_size=8, tail="wrap")
    found = list(DataLoader(shards, batch_size=None, num_workers=workers))
    images = {image.numpy().tobytes() for batch in found for image in batch["image"]}
    assert images == {row["image"].numpy().tobytes() for row in every(MapShards(raw.path))}
    rows = MapShards(pattern, size=make.SIZE)
    assert len(rows) == ROWS
    with pytest.raises(ShardError, match="images in tars come in any size, and none is given"):
        IterableShards(pattern, batch_size=8)


def test_a_forked_worker_reads_no_header_again(
    raw: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(raw, tmp_path, to="wds")
    sets = [made(tmp_path, size=make.SIZE) for made in (partial(IterableShards, batch_size=8), MapShards)]
    monkeypatch.setattr("shards.sample_index.index_tar", lambda path: pytest.fail(f"read {path} again"))
    for data, batch in zip(sets, (None, 8), strict=True):
        loader = DataLoader(data, batch_size=batch, num_workers=2, multiprocessing_context="fork")
        assert len(list(loader)) == ROWS // 8


def test_the_example_of_the_guide_runs_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fences = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    (example,) = (fence for fence in fences if "IterableShards" in fence)
    write_set(tmp_path / "transfer-set", make.block(600))
    monkeypatch.chdir(tmp_path)

    def run() -> tuple[int, dict[str, Any]]:
        """Batches seen, and the state that is left."""
        seen: list[torch.Size] = []
        exec(
            example.replace("images_BCHW = batch", "seen.append(batch['image'].shape); images_BCHW = batch"),
            {"seen": seen},
        )
        assert set(seen) <= {torch.Size([256, 3, make.SIZE, make.SIZE])}
        return len(seen), json.loads(Path("stream.json").read_text())

    assert example.count("images_BCHW = batch") == 1
    seen, whole = run()
    assert seen == whole["batch"] + 2 * whole["epoch"]
    for epoch, batch in ((0, 0), (0, 1), (0, 2), (whole["epoch"], 2)):
        Path("stream.json").write_text(json.dumps({**whole, "epoch": epoch, "batch": batch}))
        assert run() == (seen - 2 * epoch - batch, whole)
