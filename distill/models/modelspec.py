"""What the zoo knows of one architecture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from distill.errors import UnsupportedSize


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One architecture: how to build it, and what it weighs."""

    name: str
    family: str
    """the module in distill/models that builds it, or where else it comes from"""
    build: Callable[[int], nn.Module]
    """number of classes -> network with fresh weights from torch's global generator"""
    head: str
    """dotted name of the last linear layer"""
    feature_dim: int
    """width D of that layer's input"""
    params: int
    """trainable, with a head of `classes`"""
    macs: int
    """multiply-adds of convolutions and matrix products for one image of `input_size`, BN not counted"""
    classes: int = 100
    """of the head at which params and macs hold: as the papers print them"""
    input_size: int = 32
    """pixels a side at which macs holds and the papers train"""
    smallest: int = 8
    """pixels a side of the smallest image that it takes"""
    largest: int | None = None
    """pixels a side of the largest; None: any"""
    channels: int = 3
    """of its input; 1: it takes the luma of RGB"""
    published: Mapping[str, str] = field(default_factory=dict)
    """metadata that hold for all published weights of it, where a file of them has none: mean, std, classes"""
    auxiliary: tuple[str, ...] = ()
    """prefixes of tensors in published files that serve training alone and are not loaded"""
    code: str | None = None
    """SHA-256 of the user's file that builds it; modules that the file imports are not in it"""
    source: str
    """paper or place that defines it"""

    def check_size(self, size: int) -> None:
        """Raise UnsupportedSize unless the network takes images of `size` px a side."""
        if size < self.smallest or (self.largest is not None and size > self.largest):
            limits = f"at least {self.smallest}" if self.largest is None else f"{self.smallest} to {self.largest}"
            raise UnsupportedSize(f"{self.name} cannot work at {size} px; it takes images of {limits} px a side")

    def skeleton(self, num_classes: int) -> nn.Module:
        """A network to load weights into; torch's random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            return self.build(num_classes)


def plain(arch: str) -> str:
    """An architecture's name with all that a file name should not have as '-'."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in arch).strip(".-")
