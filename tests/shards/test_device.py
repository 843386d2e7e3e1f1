"""Feed: the stream's own order, read ahead without moving the stream's position."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import shards.hold
from shards.device import AHEAD, Feed, choose_residence
from shards.errors import BlockDamaged, ShardError
from shards.index import ShardFolder
from shards.layout import Block
from shards.sources import LocalBlocks
from shards.stream import Batch, Stream
from tests.shards import make

CPU = torch.device("cpu")
BATCH = 8


@pytest.fixture(scope="module")
def transfer_set(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return make.write_store(tmp_path_factory.mktemp("set"), [[8, 8], [8, 8, 5]])


def fresh(folder: ShardFolder) -> Stream:
    return Stream(LocalBlocks(folder), batch_size=BATCH, seed=3)


def test_batches_and_position_are_the_streams_own(transfer_set: ShardFolder) -> None:
    plain, fed = fresh(transfer_set), fresh(transfer_set)
    with Feed(fed, device=CPU) as feed:
        for _ in range(2 * plain.batches_per_epoch + 1):  # over two epoch edges
            expected, real = next(plain), feed.take()
            assert real.keys.tolist() == expected.keys.tolist()
            assert torch.equal(real.images_BCHW, torch.from_numpy(expected.images_BCHW))
            assert real.epoch == plain.epoch
            assert fed.state() == plain.state()  # of what was handed out, not of what was read ahead


def test_goes_on_from_a_loaded_state(transfer_set: ShardFolder) -> None:
    plain, fed = fresh(transfer_set), fresh(transfer_set)
    next(plain)
    fed.load_state(plain.state())
    with Feed(fed, device=CPU) as feed:
        assert feed.take().keys.tolist() == next(plain).keys.tolist()


def test_labels_are_those_of_the_batch(transfer_set: ShardFolder) -> None:
    with Feed(fresh(transfer_set), device=CPU, labels=lambda batch: torch.arange(len(batch.keys))) as feed:
        labels_B = feed.take().labels_B
    assert labels_B is not None
    assert labels_B.tolist() == list(range(BATCH))


def test_damage_reaches_the_caller(transfer_set: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*arguments: object, size: int) -> None:
        raise BlockDamaged("block 0 is damaged")

    monkeypatch.setattr("shards.sources.local.read_block", damaged)
    with Feed(fresh(transfer_set), device=CPU) as feed, pytest.raises(BlockDamaged, match="block 0 is damaged"):
        feed.take()


def test_reading_ahead_is_bounded(transfer_set: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = fresh(transfer_set)
    read = []

    def counted(epoch: int, batch: int) -> Batch:
        read.append((epoch, batch))
        return Stream.read(stream, epoch, batch)

    monkeypatch.setattr(stream, "read", counted)
    with Feed(stream, device=CPU) as feed:
        feed.take()
    assert len(read) <= AHEAD + 1


def test_a_set_on_the_device_gives_the_same_batches(transfer_set: ShardFolder) -> None:
    plain, fed = fresh(transfer_set), fresh(transfer_set)
    with Feed(fed, device=CPU, labels=lambda batch: torch.from_numpy(batch.labels), resident=True) as feed:
        for _ in range(2 * plain.batches_per_epoch + 1):
            expected, real = next(plain), feed.take()
            assert real.keys.tolist() == expected.keys.tolist()
            assert torch.equal(real.images_BCHW, torch.from_numpy(expected.images_BCHW))
            assert real.labels_B is not None
            assert real.labels_B.tolist() == expected.labels.tolist()
            assert fed.state() == plain.state()


def test_a_set_goes_to_the_device_by_all_the_sources_workers(transfer_set: ShardFolder) -> None:
    together = threading.Barrier(2)

    class Slow(LocalBlocks):
        workers = 2

        def read(self, block: int) -> Block:
            if block < 4:  # the fifth is alone
                together.wait(timeout=10)
            return super().read(block)

    plain, fed = fresh(transfer_set), Stream(Slow(transfer_set), batch_size=BATCH, seed=3)
    with Feed(fed, device=CPU, resident=True) as feed:
        assert feed.take().keys.tolist() == next(plain).keys.tolist()


def test_what_nobody_wants_any_more_is_not_read(transfer_set: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, read, go_on = fresh(transfer_set), list[tuple[int, int]](), threading.Event()

    def slow(epoch: int, batch: int) -> Batch:
        read.append((epoch, batch))
        if batch:
            go_on.wait(timeout=10)
        return Stream.read(stream, epoch, batch)

    monkeypatch.setattr(stream, "read", slow)
    with Feed(stream, device=CPU) as feed:
        feed.take()
        stream.epoch, stream.batch = 7, 0
        threading.Timer(0.2, go_on.set).start()
        feed.take()
        assert read[: read.index((7, 0))] in ([(0, 0)], [(0, 0), (0, 1)])


def test_a_mask_may_come_before_each_epoch(transfer_set: ShardFolder) -> None:
    stream, seen = fresh(transfer_set), []
    with Feed(stream, device=CPU, past_the_epoch=False) as feed:
        for epoch in range(3):
            mask = np.arange(stream.rows) % 3 == epoch
            stream.narrow(mask)
            assert stream.batches_per_epoch == mask.sum() // BATCH == 1
            seen.append(feed.take().keys.tolist())
    stored = [
        key
        for batch in Stream(LocalBlocks(transfer_set), batch_size=1, shuffle=False).one_epoch()
        for key in batch.keys
    ]
    for epoch, keys in enumerate(seen):
        assert {stored.index(key) % 3 for key in keys} == {epoch}


@pytest.mark.parametrize(("asked", "found"), [("auto", "memory"), ("window", "window"), ("device", "device")])
def test_a_small_set_is_held_in_memory_unless_said_otherwise(transfer_set: ShardFolder, asked: str, found: str) -> None:
    assert choose_residence(asked, LocalBlocks(transfer_set), CPU) == found


def test_every_process_of_a_machine_counts_and_so_does_the_limit_of_a_container(
    transfer_set: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = LocalBlocks(transfer_set), tmp_path / "memory.max"
    pixels = int(source.counts.sum()) * 3 * source.size**2
    monkeypatch.setattr(shards.hold, "MEMORY_LIMIT", file)
    assert choose_residence("auto", source, CPU) == "memory"  # of the whole machine
    for limit, processes, found in (
        ("max", 2, "memory"),
        (4 * pixels, 1, "memory"),
        (4 * pixels - 1, 1, "window"),
        (8 * pixels, 2, "memory"),
        (8 * pixels - 1, 2, "window"),
    ):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        file.write_text(f"{limit}\n")
        assert choose_residence("auto", source, CPU) == found, (limit, processes)


def test_another_residence_is_refused(transfer_set: ShardFolder) -> None:
    with pytest.raises(ShardError, match="resident is 'disk'; expected one of auto, device, memory, window"):
        choose_residence("disk", LocalBlocks(transfer_set), CPU)


@pytest.mark.gpu
def test_batches_on_the_gpu_are_those_of_the_stream(transfer_set: ShardFolder) -> None:
    plain = fresh(transfer_set)
    with Feed(fresh(transfer_set), device=torch.device("cuda")) as feed:
        for _ in range(20):
            real = feed.take()
            assert real.images_BCHW.is_cuda
            assert torch.equal(real.images_BCHW.cpu(), torch.from_numpy(next(plain).images_BCHW))
