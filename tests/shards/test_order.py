"""The order of an epoch: every wanted row once, in windows of whole blocks, and any stretch of it computed alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.order import Epoch, Order

counts_of_blocks = st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(any)
windows = st.integers(1, 5)


def order(counts: list[int], *, window: int = 2, seed: int = 0, shuffle: bool = True, id: str = "x") -> Order:
    return Order(id=id, counts=np.array(counts, np.int64), seed=seed, window=window, shuffle=shuffle)


def rows(epoch: Epoch, start: int = 0, stop: int | None = None) -> list[int]:
    return [row for piece in epoch.pieces(start, epoch.rows if stop is None else stop) for row in piece.rows.tolist()]


def draw_mask(data: st.DataObject, counts: list[int]) -> NDArray[np.bool_] | None:
    """No mask, or one that leaves something."""
    total = sum(counts)
    bits = data.draw(st.none() | st.lists(st.booleans(), min_size=total, max_size=total).filter(any))
    return None if bits is None else np.array(bits)


@settings(deadline=None)
@given(counts=counts_of_blocks, window=windows, shuffle=st.booleans(), number=st.integers(0, 3), data=st.data())
def test_an_epoch_is_every_wanted_row_once(
    counts: list[int], window: int, shuffle: bool, number: int, data: st.DataObject
) -> None:
    mask = draw_mask(data, counts)
    wanted = list(range(sum(counts))) if mask is None else np.flatnonzero(mask).tolist()
    epoch = order(counts, window=window, shuffle=shuffle).epoch(number, mask)
    found = rows(epoch)
    assert epoch.rows == len(wanted)
    assert sorted(found) == wanted
    assert shuffle or found == wanted


@settings(deadline=None)
@given(counts=counts_of_blocks, window=windows, data=st.data())
def test_windows_are_whole_blocks_as_even_as_they_get(counts: list[int], window: int, data: st.DataObject) -> None:
    mask = draw_mask(data, counts)
    epoch = order(counts, window=window).epoch(0, mask)
    block_of = np.repeat(np.arange(len(counts)), counts)
    wanted = np.unique(block_of if mask is None else block_of[mask])
    sizes = [len(blocks) for blocks in epoch.windows]
    assert sorted(np.concatenate(epoch.windows).tolist()) == wanted.tolist()  # a block that has none is not read
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(window, len(wanted))
    assert max(sizes) < 2 * window or len(sizes) == 1
    pieces = list(epoch.pieces(0, epoch.rows))
    assert [piece.window for piece in pieces] == list(range(len(sizes)))
    for piece in pieces:
        assert set(block_of[piece.rows]) <= set(epoch.windows[piece.window].tolist())


@settings(deadline=None)
@given(counts=counts_of_blocks, window=windows, data=st.data())
def test_any_stretch_can_be_computed_alone(counts: list[int], window: int, data: st.DataObject) -> None:
    """Also by another process, and beyond the end, where it begins again."""
    mask = draw_mask(data, counts)
    one, other = (order(counts, window=window).epoch(1, mask) for _ in range(2))
    whole = rows(one) * 3
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert rows(other, start, stop) == whole[start:stop]


@settings(deadline=None)
@given(counts=counts_of_blocks, window=windows)
def test_a_mask_that_leaves_all_changes_nothing(counts: list[int], window: int) -> None:
    made = order(counts, window=window)
    assert rows(made.epoch(2)) == rows(made.epoch(2, np.ones(sum(counts), bool)))


def test_set_seed_and_epoch_each_give_another_order() -> None:
    counts = [8] * 8
    made = [order(counts), order(counts, seed=1), order(counts, id="y")]
    found = [tuple(rows(each.epoch(number))) for each in made for number in (0, 1)]
    assert len(set(found)) == len(found)
    assert found[0] == tuple(rows(order(counts).epoch(0)))


@settings(deadline=None)
@given(counts=counts_of_blocks, seed=st.integers(0, 2**40), epoch=st.integers(0, 2**20))
def test_the_order_of_blocks_does_not_depend_on_the_mask(counts: list[int], seed: int, epoch: int) -> None:
    """So that an epoch of a method that keeps nearly all rows reads the set nearly as any other does."""
    first = next(iter(np.flatnonzero(counts).tolist()))
    mask = np.ones(sum(counts), bool)
    mask[: counts[first]] = False  # all of one block
    assume(mask.any())
    made = order(counts, window=1, seed=seed)
    every, some = (np.concatenate(made.epoch(epoch, m).windows).tolist() for m in (None, mask))
    assert some == [block for block in every if block != first]


@pytest.mark.parametrize("blocks", [1, 31, 32, 63, 64, 1000])
def test_a_window_has_from_w_to_2w_blocks(blocks: int) -> None:
    epoch = order([3] * blocks, window=32).epoch(0)
    edges = np.cumsum([0, *map(len, epoch.windows)]).tolist()
    assert edges[-1] == blocks
    assert all(min(32, blocks) <= b - a < 64 for a, b in pairwise(edges))
