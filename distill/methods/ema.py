"""A network that follows another slowly: an exponential moving average of all its weights and statistics."""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


def follower(net: M) -> M:
    """A copy of ``net`` that is not trained and whose batch norms leave their running statistics to `follow`.

    It stays in training mode where ``net`` is: its batches are normalised by their own statistics, like those of the
    network that it follows, because averaged statistics are not those of averaged weights.
    """
    copied = copy.deepcopy(net).requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.0
    return copied


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, *, momentum: float) -> None:
    r"""Move ``average`` towards ``net``: theta~ = momentum theta~ + (1 - momentum) theta (MAD, Eq. 5).

    Buffers of real numbers follow as weights do (ours: the paper speaks of parameters), counters are copied. At
    momentum 0 the two are equal, to the bit.

    >>> one, other = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> for net, value in ((one, 1.0), (other, 3.0)):
    ...     _ = nn.init.constant_(net.weight, value)
    >>> follow(one, other, momentum=0.75)
    >>> one.weight.item()
    1.5
    """
    for mine, theirs in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - momentum)
        else:
            mine.copy_(theirs)
