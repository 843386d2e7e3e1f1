"""The stream resumes anywhere: any ranks, killed anywhere and any number of times, see the one order, hash for hash."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.errors import ShardError, StreamStateError
from shards.sources.base import Source
from shards.stream import Batch, Stream, Tail
from tests.shards.memory import CLASSES, Memory, digest

Life = tuple[int, int]
"""of a run that is killed: its ranks, and the batches that it saved"""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A set and how it is streamed; ``masks`` are those of the epochs, in turn, or none."""

    source: Source
    batch: int
    masks: tuple[NDArray[np.bool_], ...]
    options: dict[str, Any]

    def stream(self, *, rank: int = 0, world: int = 1, resident: bool = False) -> Stream:
        return Stream(
            self.source, batch_size=self.batch, rank=rank, world=world, resident=resident, seed=7, **self.options
        )

    def narrow(self, stream: Stream, epoch: int) -> None:
        if self.masks:
            stream.narrow(self.masks[epoch % len(self.masks)])

    def next(self, stream: Stream) -> Batch:
        """The next batch of a trainer whose method chooses the rows of every epoch."""
        if stream.batch >= stream.batches_per_epoch:
            self.narrow(stream, stream.epoch + 1)
            stream.epoch, stream.batch = stream.epoch + 1, 0
        return next(stream)

    def batches(self, count: int) -> list[str]:
        """What nobody disturbs."""
        stream = self.stream()
        self.narrow(stream, 0)
        return [digest(self.next(stream)) for _ in range(count)]


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    total = sum(counts)
    tail: Tail = draw(st.sampled_from(["drop", "wrap"]))
    batch = draw(st.sampled_from([b for b in (1, 2, 3, 4, 6, 8, 12) if tail == "wrap" or b <= total]))
    least = batch if tail == "drop" else 1
    mask = st.lists(st.booleans(), min_size=total, max_size=total).filter(lambda bits: sum(bits) >= least)
    masks = draw(st.lists(mask.map(np.array), max_size=2).map(tuple)) if least <= total // 2 else ()
    source = Memory(counts, encoded=draw(st.booleans()), views=draw(st.sampled_from([0, 0, 2, 3])))
    options = {"tail": tail, "window": draw(st.integers(1, 4)), "shuffle": draw(st.booleans())}
    return Setup(source=source, batch=batch, masks=masks, options=options)


@settings(max_examples=40, deadline=None)
@given(setup=setups(), resident=st.booleans(), data=st.data())
def test_the_ranks_shares_put_together_are_the_batch_of_one_rank(
    setup: Setup, resident: bool, data: st.DataObject
) -> None:
    """Also where one keeps windows and another everything."""
    world = data.draw(st.sampled_from(divisors(setup.batch)))
    ranks = [setup.stream(rank=rank, world=world, resident=resident) for rank in range(world)]
    for stream in ranks:
        setup.narrow(stream, 0)
    count = 2 * ranks[0].batches_per_epoch + 2
    found = []
    for _ in range(count):
        shares = [setup.next(stream) for stream in ranks]
        assert {len(share.keys) for share in shares} == {setup.batch // world}
        found.append(digest(*shares))
    assert found == setup.batches(count)
    assert len({json.dumps(stream.state()) for stream in ranks}) == 1


@settings(max_examples=60, deadline=None)
@given(setup=setups(), data=st.data())
def test_killed_anywhere_and_resumed_by_other_ranks_the_order_is_the_undisturbed_one(
    setup: Setup, data: st.DataObject
) -> None:
    """In the middle, at the very end of an epoch, twice in one epoch, at once; what was not saved is done again."""
    life = st.tuples(st.sampled_from(divisors(setup.batch)), st.integers(0, 7))
    lives: list[Life] = data.draw(st.lists(life, min_size=1, max_size=5))
    found: list[str] = []
    state: str | None = None
    for world, saved in lives:
        ranks = [setup.stream(rank=rank, world=world) for rank in range(world)]
        for stream in ranks:
            begun = iter(stream)  # before the state is loaded
            assert begun is stream
            known = {"epoch": 0} if state is None else json.loads(state)
            setup.narrow(stream, known["epoch"])
            if state is not None:
                stream.load_state(known)
        for _ in range(saved):
            found.append(digest(*(setup.next(stream) for stream in ranks)))
            state = json.dumps(ranks[-1].state())
        setup.next(ranks[0])  # killed in the middle of this one
    assert found == setup.batches(len(found))


@pytest.mark.parametrize("world", [1, 2])
def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next(world: int) -> None:
    setup = Setup(source=Memory([4, 4]), batch=4, masks=(), options={})
    old = setup.stream(world=world)
    next(old), next(old)
    assert (old.state()["epoch"], old.state()["batch"]) == (0, old.batches_per_epoch) == (0, 2)
    new = [setup.stream(rank=rank, world=world) for rank in range(world)]
    for stream in new:
        stream.load_state(old.state())
    assert digest(*map(next, new)) == setup.batches(3)[2]
    assert (new[0].epoch, new[0].batch) == (1, 1)


def test_logits_are_those_of_the_view_of_the_epoch() -> None:
    stream = Stream(Memory([4, 4, 4], views=3), batch_size=5, tail="wrap", window=1)
    for epoch in range(5):
        for _ in range(stream.batches_per_epoch):
            batch = next(stream)
            assert batch.logits_BK is not None
            expected = np.repeat(10 * batch.labels[:, None] + epoch % 3, CLASSES, axis=1)
            assert np.array_equal(batch.logits_BK, expected)
    assert Stream(Memory([4]), batch_size=1).read(0, 0).logits_BK is None


def test_the_state_names_the_mask_and_the_epoch_has_its_length() -> None:
    stream = Stream(Memory([4, 4, 4]), batch_size=3, window=1)
    assert (stream.batches_per_epoch, stream.state()["mask"]) == (4, None)
    mask = np.arange(12) % 2 == 0
    stream.narrow(mask)
    assert stream.batches_per_epoch == 2
    assert sorted(label for batch in stream.one_epoch() for label in batch.labels) == [0, 2, 4, 6, 8, 10]
    hashes = {stream.state()["mask"]}
    for other in (~mask, np.ones(12, bool)):
        stream.narrow(other)
        hashes.add(stream.state()["mask"])
    assert len(hashes) == 3
    stream.narrow(mask.copy())
    assert stream.state()["mask"] in hashes
    stream.narrow(None)
    assert (stream.batches_per_epoch, stream.state()["mask"]) == (4, None)


def test_a_mask_that_is_used_again_changes_nothing() -> None:
    stream = Stream(Memory([4, 4]), batch_size=2, shuffle=False)
    mask = np.arange(8) < 5
    stream.narrow(mask)
    mask[:] = ~mask
    assert [label for batch in stream.one_epoch() for label in batch.labels] == [0, 1, 2, 3]


def test_a_mask_without_a_batch_is_refused_and_changes_nothing() -> None:
    stream = Stream(Memory([4, 4]), batch_size=4)
    stream.narrow(np.arange(8) < 5)
    before = stream.state()
    with pytest.raises(ShardError, match=r"the mask leaves 3 of 8 images in a set in memory, less than a batch of 4$"):
        stream.narrow(np.arange(8) < 3)
    with pytest.raises(ShardError, match=r"the mask is bool \(7,\); expected bool \(8,\), a row for each image$"):
        stream.narrow(np.ones(7, bool))
    with pytest.raises(ShardError, match=r"the mask is int64 \(8,\); expected bool"):  # else taken for row numbers
        stream.narrow(np.arange(8) % 2)  # type: ignore[arg-type]
    assert stream.state() == before
    wrapped = Stream(Memory([4, 4]), batch_size=4, tail="wrap")
    wrapped.narrow(np.arange(8) == 5)
    assert next(wrapped).labels.tolist() == [5, 5, 5, 5]
    with pytest.raises(ShardError, match="the mask leaves 0 of 8 images"):
        wrapped.narrow(np.zeros(8, bool))


BATCH = 4


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("id", Stream(Memory([4, 4], id="f" * 32), batch_size=BATCH)),
        ("seed", Stream(Memory([4, 4]), batch_size=BATCH, seed=1)),
        ("global_batch", Stream(Memory([4, 4]), batch_size=2)),
        ("shuffle", Stream(Memory([4, 4]), batch_size=BATCH, shuffle=False)),
        ("tail", Stream(Memory([4, 4]), batch_size=BATCH, tail="wrap")),
        ("window", Stream(Memory([4, 4]), batch_size=BATCH, window=3)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_state_of_another_stream_is_refused_with_both_values(name: str, other: Stream) -> None:
    stream = Stream(Memory([4, 4]), batch_size=BATCH)
    state = stream.state()
    theirs, mine = other.state()[name], state[name]
    assert theirs != mine
    with pytest.raises(StreamStateError) as caught:
        stream.load_state({**other.state(), "batch": 1})
    assert f"{name} was {theirs!r} when the run was saved and is {mine!r} now" in str(caught.value)
    assert stream.state() == state


def test_a_state_under_another_mask_is_refused_with_both_hashes() -> None:
    stream = Stream(Memory([4, 4]), batch_size=BATCH)
    stream.narrow(np.arange(8) < 6)
    state = stream.state()
    stream.narrow(None)
    with pytest.raises(StreamStateError, match=rf"mask was '{state['mask']}' when the run was saved and is None now"):
        stream.load_state(state)


@pytest.mark.parametrize("wrong", [{"epoch": -1}, {"batch": -1}, {"batch": 3}, {"batch": "x"}, {"epoch": None}])
def test_a_state_of_no_place_is_refused(wrong: dict[str, Any]) -> None:
    stream = Stream(Memory([4, 4]), batch_size=BATCH)
    with pytest.raises(StreamStateError, match=r"cannot resume: the saved state is at epoch .* start a new run$"):
        stream.load_state({**stream.state(), **wrong})
    assert (stream.epoch, stream.batch) == (0, 0)


def test_the_state_does_not_grow_with_the_set() -> None:
    small, large = (Stream(Memory([1] * blocks), batch_size=1) for blocks in (10, 100_000))
    for stream in (small, large):
        stream.narrow(np.arange(stream.rows) % 2 == 0)
        stream.epoch, stream.batch = 1, 3
    assert len(json.dumps(small.state())) == len(json.dumps(large.state())) < 300
