"""The architectures by name: one family a file, one row a network.

To add one: write its family's file beside wrn.py and add its row to `MODELS`; the conformance suite finds it there.
A network offers `features(images_BCHW) -> features_BD`, `fc` (its last linear layer) and `forward -> logits_BK`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from distill.errors import UnknownModel
from distill.models.wrn import WideResNet

Network: TypeAlias = WideResNet  # a union as families join


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One architecture: how to build it, and what it weighs."""

    name: str
    build: Callable[[int], Network]  # number of classes -> network with fresh weights from torch's global generator
    feature_dim: int  # width D of the last linear layer's input
    params_100: int  # trainable parameters with a 100-class head
    macs: int  # multiply-adds of convolutions and the 100-class head for one image of input_size, BN not counted
    input_size: int = 32  # pixels a side at which macs holds and the papers train
    source: str  # paper that defines it


def _wrn(depth: int, widen_factor: int, *, params_100: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=f"wrn{depth}_{widen_factor}",
        build=lambda num_classes: WideResNet(depth, widen_factor, num_classes=num_classes),
        feature_dim=64 * widen_factor,
        params_100=params_100,
        macs=macs,
        source="Zagoruyko and Komodakis 2016, Wide Residual Networks, arXiv:1605.07146",
    )


MODELS: dict[str, ModelSpec] = {
    "wrn16_1": _wrn(16, 1, params_100=180_916, macs=26_663_168),
    "wrn16_2": _wrn(16, 2, params_100=703_284, macs=101_118_464),
    "wrn40_1": _wrn(40, 1, params_100=569_780, macs=83_286_272),
    "wrn40_2": _wrn(40, 2, params_100=2_255_156, macs=327_610_880),
}


def spec(name: str) -> ModelSpec:
    """The row of one architecture. Raises UnknownModel, which lists the known."""
    if name not in MODELS:
        raise UnknownModel(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name]


def build(name: str, num_classes: int) -> Network:
    """A network with fresh weights, in training mode. Raises UnknownModel, which lists the known."""
    return spec(name).build(num_classes)
