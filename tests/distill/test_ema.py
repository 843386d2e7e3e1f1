"""A moving average of a network: its arithmetic, its statistics, and what it leaves alone."""

import pytest
import torch
from torch import nn

from distill.methods.ema import follow, follower


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_by_hand() -> None:
    """From 1 towards 3 and then towards 5 at alpha 0.75: 1.5, then 2.375; buffers likewise, counters are copied."""
    live, average = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    for value, expected in ((3.0, 1.5), (5.0, 2.375)):
        nn.init.constant_(live.weight, value)
        assert live.running_var is not None
        live.running_var.fill_(value)
        assert live.num_batches_tracked is not None
        live.num_batches_tracked.fill_(int(value))
        follow(average, live, momentum=0.75)
        assert average.weight.item() == expected
        assert average.running_var is not None
        assert average.running_var.item() == expected
        assert average.num_batches_tracked == int(value)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_are_exact(momentum: float) -> None:
    live, average = net(0), net(1)
    before = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    follow(average, live, momentum=momentum)
    wanted = live.state_dict() if momentum == 0 else before
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in average.state_dict().items())


def test_a_follower_is_a_copy_that_does_not_train() -> None:
    live = net(0)
    average = follower(live)
    assert all(
        torch.equal(a, b) for a, b in zip(average.state_dict().values(), live.state_dict().values(), strict=True)
    )
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in live.parameters())
    follow(average, net(1), momentum=0.5)
    assert all(torch.equal(a, b) for a, b in zip(live.parameters(), net(0).parameters(), strict=True))


def test_a_follower_goes_by_its_batches_and_keeps_its_statistics() -> None:
    live = net(0)
    average = follower(live)
    images_BCHW = 5 + 3 * torch.randn(8, 3, 4, 4)
    assert torch.equal(average(images_BCHW), live(images_BCHW))
    assert average(images_BCHW).mean().abs() < 1e-5  # normalised by this batch
    assert average.get_buffer("1.running_mean").abs().sum() == 0
    assert live.get_buffer("1.running_mean").abs().sum() > 0
