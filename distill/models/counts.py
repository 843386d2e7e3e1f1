"""What a network weighs: trainable parameters and multiply-adds, counted and not estimated."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Counts(NamedTuple):
    """The weight of a network."""

    params: int
    """trainable"""
    macs: int
    """multiply-adds of convolutions and matrix products for one image; batch norm, sums and pooling not counted"""


def count(net: nn.Module, *, size: int, channels: int) -> Counts:
    """Count a network at one image of `size` px a side, on its own device: on `meta` nothing is computed."""
    device = next(net.parameters()).device
    was_training = net.training
    with counting() as counter:
        net.eval()(torch.zeros(1, channels, size, size, device=device))
    net.train(was_training)
    params = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return Counts(params=params, macs=counter.get_total_flops() // 2)  # torch counts both halves of a multiply-add


@contextlib.contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """A counter of what is computed meanwhile, without gradients.

    It cannot see into the fused kernels of attention (which of them depends on torch's release), so none is used.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
