"""The stream: every image once an epoch, the same order whoever asks and wherever it resumes."""

import json
import multiprocessing
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import shards.sources.local
from manifests.keys import content_key
from shards.errors import BlockDamaged, ShardError, StreamStateError, Unreachable
from shards.index import BlockFacts, ShardFolder, open_folder, seal, write_index
from shards.layout import Block
from shards.read import read_block
from shards.sources import LocalBlocks
from shards.stream import Batch, Stream, Tail
from shards.write import write_shard
from tests.shards import make

Counts = tuple[tuple[int, ...], ...]
"""rows of each block of each shard"""
Store = Callable[[Counts], ShardFolder]
COUNTS: Counts = ((4, 4, 1), (), (4, 3))
TOTAL = 16

counts_of_blocks = (
    st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=3)
    .map(tuple)
    .filter(lambda counts: any(map(sum, counts)))
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """``store(counts)``: a store with blocks of these sizes; made once."""
    made: dict[Counts, ShardFolder] = {}

    def get(counts: Counts = COUNTS) -> ShardFolder:
        if counts not in made:
            made[counts] = make.write_store(tmp_path_factory.mktemp("store"), counts)
        return made[counts]

    return get


def keys(batches: Any) -> list[bytes]:
    return [key for batch in batches for key in batch.keys.tolist()]


def stored_keys(folder: ShardFolder) -> list[bytes]:
    return keys(Stream(LocalBlocks(folder), batch_size=1, shuffle=False).one_epoch())


def whole_epoch(stream: Stream, epoch: int) -> list[Batch]:
    return [stream.read(epoch, number) for number in range(stream.batches_per_epoch)]


def arrays(batch: Batch) -> list[NDArray[Any]]:
    return [batch.images_BCHW, batch.keys, batch.labels]


def equal(one: Batch, other: Batch) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(arrays(one), arrays(other), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    counts=counts_of_blocks,
    batch=st.integers(1, 9),
    window=st.integers(1, 4),
    shuffle=st.booleans(),
    tail=st.sampled_from(get_args(Tail)),
    epoch=st.integers(0, 2),
)
def test_an_epoch_holds_every_image_once(  # noqa: PLR0917  hypothesis calls it by keyword
    store: Store, counts: Counts, batch: int, window: int, shuffle: bool, tail: Tail, epoch: int
) -> None:
    folder = store(counts)
    rows = folder.rows()
    batch = min(batch, rows) if tail == "drop" else batch
    stream = Stream(LocalBlocks(folder), batch_size=batch, window=window, shuffle=shuffle, tail=tail)
    stream.epoch = epoch
    batches = list(stream.one_epoch())
    assert len(batches) == stream.batches_per_epoch == (rows // batch if tail == "drop" else -(-rows // batch))
    assert {len(b.keys) for b in batches[:-1]} <= {batch}
    assert len(batches[-1].keys) == (rows - batch * (len(batches) - 1) if tail == "short" else batch)
    found = keys(batches)
    assert len(set(found)) == min(rows, len(found))
    assert len(found) == (rows if tail == "short" else batch * len(batches))
    assert len(set(found[:rows])) == len(found[:rows])  # what wraps is what the epoch began with
    assert found[rows:] == (found * batch)[: len(found[rows:])]
    for b in batches:  # pixels stay with their key and label
        assert [content_key(image).encode() for image in b.images_BCHW] == b.keys.tolist()
        assert len(b.labels) == len(b.keys)


@settings(max_examples=20, deadline=None)
@given(counts=counts_of_blocks, window=st.integers(1, 4), batch=st.integers(1, 6), data=st.data())
def test_a_batch_does_not_depend_on_those_before_it(
    store: Store, counts: Counts, window: int, batch: int, data: st.DataObject
) -> None:
    folder = store(counts)
    one, other = (Stream(LocalBlocks(folder), batch_size=batch, window=window, tail="short", seed=3) for _ in range(2))
    in_order = [b for epoch in range(2) for b in whole_epoch(one, epoch)]
    length = len(in_order) // 2
    asked = data.draw(st.permutations(range(2 * length)))
    assert all(equal(other.read(*divmod(number, length)), in_order[number]) for number in asked)


def test_without_shuffle_the_order_is_that_of_the_shards(store: Store) -> None:
    folder = store(COUNTS)
    written = [key for i, rows in enumerate((4, 4, 1, 4, 3)) for key in make.block(rows, seed=i).keys.tolist()]
    for batch, window in ((1, 1), (5, 2), (16, 16)):
        stream = Stream(LocalBlocks(folder), batch_size=batch, window=window, shuffle=False, tail="short")
        assert keys(islice(stream, 2 * stream.batches_per_epoch)) == written * 2


def test_a_shuffle_depends_on_id_seed_and_epoch_and_on_nothing_else(store: Store) -> None:
    folder = store(COUNTS)

    def order(folder: ShardFolder, *, seed: int = 0, epoch: int = 0, batch: int = 4) -> tuple[bytes, ...]:
        stream = Stream(LocalBlocks(folder), batch_size=batch, seed=seed, window=2)
        return tuple(keys(whole_epoch(stream, epoch)))

    other = replace(folder, id="f" * 32)
    orders = [order(folder), order(folder, seed=1), order(folder, epoch=1), order(other)]
    assert len({*orders, tuple(stored_keys(folder))}) == 5
    assert order(folder, batch=1) == order(folder, batch=8) == orders[0] == order(open_folder(folder.path))


def test_the_order_is_what_it_has_always_been(store: Store) -> None:
    """A run that is resumed with another release, NumPy or machine must see the same order."""
    folder = replace(store(COUNTS), id="0" * 32)
    place = {key: number for number, key in enumerate(stored_keys(folder))}
    stream = Stream(LocalBlocks(folder), batch_size=16, seed=5, window=2)
    golden = [9, 0, 3, 12, 2, 1, 10, 11, 8, 6, 7, 5, 14, 4, 15, 13]
    assert [place[key] for key in keys([next(stream)])] == golden


def test_a_window_mixes_its_blocks_and_no_others(store: Store) -> None:
    """Five blocks in windows of at least two: two windows, of two and of three, each block in one of them."""
    counts = (4, 4, 1, 4, 3)
    where = {key: block for block, rows in enumerate(counts) for key in make.block(rows, seed=block).keys}
    stream = Stream(LocalBlocks(store(COUNTS)), batch_size=1, window=2, tail="short")
    blocks = [where[key] for key in keys(stream.one_epoch())]
    edge = next(i for i in range(1, len(blocks)) if not set(blocks[:i]) & set(blocks[i:]))
    first, second = blocks[:edge], blocks[edge:]
    assert {len(set(first)), len(set(second))} == {2, 3}
    assert sorted(first) != first or sorted(second) != second  # rows are mixed, not block after block


@settings(max_examples=30, deadline=None)
@given(
    stops=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    shuffle=st.booleans(),
    tail=st.sampled_from(get_args(Tail)),
)
def test_a_resumed_stream_goes_on_with_the_same_batches(
    store: Store, stops: list[int], shuffle: bool, tail: Tail
) -> None:
    """Stopped once or more, anywhere: in an epoch twice, at its very end, after it."""

    def fresh() -> Stream:
        return Stream(LocalBlocks(store(COUNTS)), batch_size=5, window=2, shuffle=shuffle, tail=tail)

    undisturbed = list(islice(fresh(), sum(stops) + 5))
    stream, seen = fresh(), []
    for stop in stops:
        seen += list(islice(stream, stop))
        state = json.loads(json.dumps(stream.state()))
        stream = fresh()
        stream.load_state(state)
    seen += list(islice(stream, 5))
    assert all(equal(one, other) for one, other in zip(seen, undisturbed, strict=True))


def test_a_state_reaches_an_iterator_made_before_it_was_loaded(store: Store) -> None:
    folder = store(COUNTS)
    old = Stream(LocalBlocks(folder), batch_size=4)
    batches = list(islice(old, 4))
    assert old.state()["batch"] == old.batches_per_epoch  # at the end of the epoch, not yet in the next
    after = next(old)
    new = Stream(LocalBlocks(folder), batch_size=4)
    before = iter(new)
    assert equal(next(before), batches[0])
    new.load_state({**old.state(), "epoch": 0, "batch": 4})
    assert equal(next(before), after)
    assert (new.epoch, new.batch) == (1, 1)


def test_the_state_is_a_few_plain_values(store: Store) -> None:
    stream = Stream(LocalBlocks(store(COUNTS), "all"), batch_size=4, seed=2)
    next(stream)
    assert stream.state() == {
        "id": store(COUNTS).id,
        "split": "all",
        "seed": 2,
        "global_batch": 4,
        "shuffle": True,
        "tail": "drop",
        "mask": None,
        "window": 32,
        "epoch": 0,
        "batch": 1,
    }


@pytest.mark.parametrize(
    ("name", "saved"), [("id", "f" * 32), ("seed", 1), ("global_batch", 8), ("split", "all"), ("window", 3)]
)
def test_a_state_of_another_stream_is_refused(store: Store, name: str, saved: Any) -> None:
    stream = Stream(LocalBlocks(store(COUNTS)), batch_size=4)
    next(stream)
    state = stream.state()
    words = f"cannot resume: {name} was {saved!r} when the run was saved and is {state[name]!r} now; use the same one"
    with pytest.raises(StreamStateError, match=words):
        stream.load_state({**state, name: saved, "batch": 3})
    assert stream.state() == state  # where it was


@pytest.mark.parametrize(("batch", "tail"), [(17, "drop"), (0, "drop"), (0, "short"), (-4, "wrap")])
def test_a_batch_that_does_not_fit_is_refused(store: Store, batch: int, tail: Tail) -> None:
    folder = store(COUNTS)
    with pytest.raises(
        ShardError, match=rf"batch size {batch} does not fit the 16 images in .*; choose one from 1 to 16"
    ):
        Stream(LocalBlocks(folder), batch_size=batch, tail=tail)


def test_a_set_smaller_than_a_batch_is_one_short_batch(store: Store) -> None:
    stream = Stream(LocalBlocks(store(((3,),))), batch_size=50, tail="short")
    assert [len(batch.keys) for batch in islice(stream, 2)] == [3, 3]


def test_a_split_without_images_is_refused(store: Store) -> None:
    with pytest.raises(ShardError, match=r"split 'train' of .* holds no images; its splits: all$"):
        LocalBlocks(store(COUNTS), "train")
    with pytest.raises(ShardError, match="holds no images"):
        LocalBlocks(store(((),)))


def test_a_split_is_streamed_alone(tmp_path: Path) -> None:
    splits = {"train": make.block(5, seed=1), "holdout": make.block(3, seed=2)}
    shards = [
        write_shard(tmp_path, f"{split}.tar", [block], split=split, first_block=i)
        for i, (split, block) in enumerate(splits.items())
    ]
    files = [write_index(tmp_path, shards, provenance=make.MADE)]
    seal(tmp_path, {"size": make.SIZE}, kind="transfer-set", files=files, fingerprint="f")
    for split, block in splits.items():
        found = keys(Stream(LocalBlocks(open_folder(tmp_path), split), batch_size=1).one_epoch())
        assert sorted(found) == sorted(block.keys.tolist())


def test_one_epoch_stays_in_its_epoch_and_moves_nothing(store: Store) -> None:
    stream = Stream(LocalBlocks(store(COUNTS)), batch_size=4)
    expected = whole_epoch(stream, 0)
    epoch = stream.one_epoch()
    assert stream.state()["batch"] == 0
    list(islice(stream, 5))  # into the next epoch
    assert all(equal(one, other) for one, other in zip(epoch, expected, strict=True))
    assert (stream.epoch, stream.batch) == (1, 1)


def test_each_block_is_read_once_an_epoch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(path: Path, facts: BlockFacts, *, size: int) -> Block:
        read.append(facts.block)
        return read_block(path, facts, size=size)

    monkeypatch.setattr(shards.sources.local, "read_block", counted)
    for _ in Stream(LocalBlocks(store(COUNTS)), batch_size=3, window=2, tail="short").one_epoch():
        pass
    assert sorted(read) == [0, 1, 2, 3, 4]


def test_a_few_windows_are_in_memory(tmp_path: Path) -> None:
    rows, blocks, window, size = 8, 20, 2, 64
    folder = make.write_store(tmp_path, [[rows] * blocks], size=size)
    stream = Stream(LocalBlocks(folder), batch_size=rows + 3, window=window)  # batches cross windows
    one_block = rows * 3 * size * size
    tracemalloc.start()
    try:
        first, *_ = islice(stream, 2 * stream.batches_per_epoch)
        del _
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _batch in stream.one_epoch():
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    tables = 3 * (window + 1) * one_block  # the one that is read, the next, and one that is used again
    assert held < tables + 2 * one_block + first.images_BCHW.nbytes
    assert peak < tables + 2 * one_block + 4 * first.images_BCHW.nbytes
    assert first.images_BCHW.base is None  # a batch is no view that would keep its window


def until_away(stream: Stream) -> Iterator[Batch]:
    with pytest.raises(Unreachable):
        yield from stream


def test_what_could_not_be_read_is_read_again_when_it_is_asked_for_again(store: Store) -> None:
    class Away(LocalBlocks):
        away = False

        def read(self, block: int) -> Block:
            if self.away:
                raise Unreachable("the server is away")
            return super().read(block)

    source = Away(store(COUNTS))
    for resident in (False, True):
        expected = keys(Stream(LocalBlocks(source.folder), batch_size=4, window=1).one_epoch())
        stream = Stream(source, batch_size=4, window=1, resident=resident)
        found = keys([next(stream)])
        for _ in range(3):
            source.away = True
            found += keys(until_away(stream))
            source.away = False
        found += keys(islice(stream, stream.batches_per_epoch - stream.batch))
        assert found == expected


@pytest.mark.parametrize("resident", [False, True])
def test_a_stream_goes_on_in_a_forked_process(store: Store, resident: bool) -> None:
    """As where a loader's worker inherits one that was read from."""
    stream = Stream(LocalBlocks(store(COUNTS)), batch_size=4, window=1, resident=resident)
    next(stream)
    theirs, ours = multiprocessing.get_context("fork").Pipe(duplex=False)

    def read() -> None:
        ours.send(keys(islice(stream, 6)))

    child = multiprocessing.get_context("fork").Process(target=read, daemon=True)
    child.start()
    assert theirs.poll(30), "it waits for a thread that is not there"
    assert theirs.recv() == keys(islice(stream, 6))
    child.join()


def test_a_damaged_block_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = make.write_store(tmp_path / "with space # and ?", [[4, 4], [4]])
    path, facts = folder.path / folder.shards[0].name, folder.shards[0].blocks[1]
    data = bytearray(path.read_bytes())
    data[facts.offset + 700] ^= 4
    path.write_bytes(data)
    stream = Stream(LocalBlocks(folder), batch_size=4, window=1, shuffle=False)
    assert len(next(stream).keys) == 4
    with pytest.raises(BlockDamaged, match=r"000000.tar: block 1 is damaged") as caught:
        next(stream)
    assert str(path) in str(caught.value)
