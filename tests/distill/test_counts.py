"""Parameters and multiply-adds against sums done by hand."""

import pytest
import torch
from torch import nn

from distill.models.counts import Counts, count


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


PARAMS = (3 * 9 + 1) * 8 + 2 * 8 + 8 * 2 * 9 + (8 + 1) * 5
MACS = 8 * 5 * 5 * 3 * 9 + 8 * 3 * 3 * 2 * 9 + 8 * 5  # maps of 5x5 and 3x3 from 10x10; biases, BN and pooling not


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_by_hand(device: str) -> None:
    assert count(small().to(device), size=10, channels=3) == Counts(params=PARAMS, macs=MACS)


def test_channels_are_of_the_image() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, 7))
    assert count(net, size=6, channels=1).macs == 2 * 16 * 9 + 32 * 7


def test_frozen_parameters_are_not_counted() -> None:
    net = small()
    net[0].requires_grad_(False)
    assert count(net, size=10, channels=3) == Counts(params=PARAMS - (3 * 9 + 1) * 8, macs=MACS)


def test_attention_is_counted_whole() -> None:
    """Projections (in, out) and both products of the scores; the fused kernel would hide them all."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 2, batch_first=True)

        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            x_BND = images_BCHW.flatten(2)[:, :, :12]  # 3 tokens of 12
            attended_BND: torch.Tensor = self.attention(x_BND, x_BND, x_BND, need_weights=False)[0]
            return attended_BND

    assert count(Attending(), size=4, channels=3).macs == 4 * 3 * 12 * 12 + 2 * 3 * 3 * 12


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training: bool) -> None:
    net = small().train(training)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fused = torch.backends.mha.get_fastpath_enabled()
    count(net, size=10, channels=3)
    assert net.training == training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fused
