"""The ring of past images: order, wrap, levels and state."""

import pytest
import torch

from distill.methods.memory import Memory

CPU = torch.device("cpu")


def filled(*batches: list[int], capacity: int = 4) -> Memory:
    """A memory of one-pixel images, the numbers being 255ths."""
    memory = Memory((1, 1, 1), capacity=capacity, device=CPU)
    for batch in batches:
        memory.keep(torch.tensor(batch).view(-1, 1, 1, 1) / 255)
    return memory


def content(memory: Memory) -> list[int]:
    images_BCHW = memory.images(torch.arange(len(memory)))
    return [round(value) for value in (images_BCHW * 255).flatten().tolist()]


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([], []),
        ([[1, 2]], [1, 2]),
        ([[1, 2], [3, 4]], [1, 2, 3, 4]),
        ([[1, 2], [3, 4], [5]], [5, 2, 3, 4]),
        ([[1, 2, 3], [4, 5, 6]], [5, 6, 3, 4]),
        ([[1, 2, 3, 4, 5, 6]], [5, 6, 3, 4]),
        ([[1], [2, 3, 4, 5, 6, 7, 8, 9, 10]], [9, 10, 7, 8]),
    ],
)
def test_the_newest_take_the_place_of_the_oldest(batches: list[list[int]], expected: list[int]) -> None:
    assert content(filled(*batches)) == expected


def test_images_are_rounded_to_256_levels() -> None:
    memory = Memory((3, 2, 2), capacity=5, device=CPU)
    images_BCHW = torch.rand(5, 3, 2, 2, requires_grad=True)
    memory.keep(images_BCHW)
    kept_BCHW = memory.images(torch.arange(5))
    assert (kept_BCHW - images_BCHW).abs().max() <= 0.5 / 255 + 1e-6
    assert not kept_BCHW.requires_grad
    assert memory.state_dict()["images"].dtype == torch.uint8


def test_state_goes_on_where_it_was() -> None:
    old, new = filled([1, 2], [3]), filled([9] * 7)
    new.load_state_dict(old.state_dict())
    for memory in (old, new):
        memory.keep(torch.tensor([4, 5]).view(-1, 1, 1, 1) / 255)
    assert content(new) == content(old) == [5, 2, 3, 4]


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a memory of \(4, 1, 1, 1\) is no \(3, 1, 1, 1\)"):
        filled(capacity=3).load_state_dict(filled([1]).state_dict())
