"""Schedules are pure functions of the step, equal to the ones that PyTorch steps through."""

import pytest
import torch

from distill.methods.schedules import cosine, one_cycle


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_cosine_is_pytorchs(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        assert 0.1 * cosine(step, steps) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_cosine_by_hand() -> None:
    assert [cosine(step, 4) for step in range(5)] == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0])


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 10, 99, 1000])
def test_one_cycle_rises_then_falls_within_its_bounds(steps: int) -> None:
    factors = [one_cycle(step, steps) for step in range(steps)]
    top = factors.index(max(factors))
    assert factors[0] == 0.04
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert top <= max(1, 0.2 * steps + 1)


def test_one_cycle_by_hand() -> None:
    """Ten steps: two of warming up, then a cosine over eight."""
    assert [one_cycle(step, 10) for step in (0, 1, 2, 6)] == pytest.approx([0.04, 0.52, 1.0, 0.5])
    assert one_cycle(9, 10) == pytest.approx(cosine(7, 8))
