"""The architectures by name: one family a file, one row a network.

To add one: write its family's file beside wrn.py and add its row to `MODELS`; the conformance suite finds it there. A
network is an `nn.Module` that turns normalised images (B, C, H, W) into logits (B, K) and ends in a linear layer. Its
parameters are named as in the published zoos, so that their files load.
"""

import difflib
import functools
import re
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from distill.errors import UnknownModel
from distill.models import external, projected
from distill.models.alexnet import AlexNet
from distill.models.cifar_resnet import CifarResNet
from distill.models.counts import count
from distill.models.lenet import LeNet5
from distill.models.maps import feature_map
from distill.models.mobilenetv2 import MobileNetV2
from distill.models.modelspec import ModelSpec
from distill.models.resnet import ResNet
from distill.models.shufflenetv1 import ShuffleNetV1
from distill.models.shufflenetv2 import ShuffleNetV2
from distill.models.vgg import VGG
from distill.models.wrn import WideResNet

_THIN, _TWICE, _TIMES4 = (16, 16, 32, 64), (16, 32, 64, 128), (32, 64, 128, 256)  # stem and groups of a CIFAR ResNet
_KRIZHEVSKY = (48, 128, 192, 192, 128, 512, 256)
_HE = "He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385"


def _wrn(depth: int, widen_factor: int, *, params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=f"wrn{depth}_{widen_factor}",
        family="wrn",
        build=lambda classes: WideResNet(depth, widen_factor, num_classes=classes),
        head="fc",
        feature_dim=64 * widen_factor,
        params=params,
        macs=macs,
        source="Zagoruyko and Komodakis 2016, Wide Residual Networks, arXiv:1605.07146",
    )


def _cifar_resnet(name: str, depth: int, widths: tuple[int, int, int, int], *, params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="cifar_resnet",
        build=lambda classes: CifarResNet(depth, widths, num_classes=classes),
        head="fc",
        feature_dim=widths[3],
        params=params,
        macs=macs,
        source=f"{_HE}, section 4.2",
    )


def _resnet(depth: int, *, feature_dim: int, params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=f"resnet{depth}",
        family="resnet",
        build=lambda classes: ResNet(depth, num_classes=classes),
        head="linear",
        feature_dim=feature_dim,
        params=params,
        macs=macs,
        source=f"{_HE}, Table 1, with a 3x3 stem",
    )


def _vgg(depth: int, *, params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=f"vgg{depth}_bn",
        family="vgg",
        build=lambda classes: VGG(depth, num_classes=classes),
        head="classifier",
        feature_dim=512,
        params=params,
        macs=macs,
        source="Simonyan and Zisserman 2015, Very Deep Convolutional Networks, arXiv:1409.1556, Table 1, with BN",
    )


def _alexnet(name: str, widths: tuple[int, int, int, int, int, int, int], *, params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="alexnet",
        build=lambda classes: AlexNet(widths, num_classes=classes),
        head="fc3",
        feature_dim=widths[-1],
        params=params,
        macs=macs,
        classes=10,
        smallest=31,
        largest=38,  # sides from 31 to 38 leave the 3x3 positions that its first linear layer reads
        source="Krizhevsky et al. 2012, for CIFAR as in Nayak et al. 2019, arXiv:1905.08114",
    )


def _lenet5(name: str, widths: tuple[int, int, int, int], *, params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="lenet",
        build=lambda classes: LeNet5(widths, num_classes=classes),
        head="fc2",
        feature_dim=widths[3],
        params=params,
        macs=macs,
        classes=10,
        smallest=32,
        channels=1,
        source="LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, section II.B",
    )


def _by_name(rows: Iterable[ModelSpec]) -> dict[str, ModelSpec]:
    return {row.name: row for row in rows}


MODELS: dict[str, ModelSpec] = _by_name(
    [
        _wrn(16, 1, params=180_916, macs=26_663_168),
        _wrn(16, 2, params=703_284, macs=101_118_464),
        _wrn(40, 1, params=569_780, macs=83_286_272),
        _wrn(40, 2, params=2_255_156, macs=327_610_880),
        _cifar_resnet("resnet20", 20, _THIN, params=278_324, macs=40_818_944),
        _cifar_resnet("resnet56", 56, _THIN, params=861_620, macs=125_753_600),
        _cifar_resnet("resnet110", 110, _THIN, params=1_736_564, macs=253_155_584),
        _cifar_resnet("resnet116", 116, _THIN, params=1_833_780, macs=267_311_360),
        _cifar_resnet("resnet110x2", 110, _TWICE, params=6_911_220, macs=1_007_088_128),
        _cifar_resnet("resnet8x4", 8, _TIMES4, params=1_233_540, macs=177_071_104),
        _cifar_resnet("resnet32x4", 32, _TIMES4, params=7_433_860, macs=1_083_040_768),
        _resnet(18, feature_dim=512, params=11_220_132, macs=555_468_800),
        _resnet(34, feature_dim=512, params=21_328_292, macs=1_159_448_576),
        _resnet(50, feature_dim=2048, params=23_705_252, macs=1_298_014_208),
        _vgg(8, params=3_965_028, macs=96_192_512),
        _vgg(11, params=9_277_284, macs=209_438_720),
        _vgg(13, params=9_462_180, macs=284_936_192),
        ModelSpec(
            name="mobilenetv2_half",
            family="mobilenetv2",
            build=lambda classes: MobileNetV2(0.5, num_classes=classes),
            head="classifier.0",
            feature_dim=1280,
            params=812_836,
            macs=6_523_648,
            source="Sandler et al. 2018, MobileNetV2, arXiv:1801.04381",
        ),
        ModelSpec(
            name="shufflenetv1",
            family="shufflenetv1",
            build=lambda classes: ShuffleNetV1(num_classes=classes),
            head="linear",
            feature_dim=960,
            params=949_258,
            macs=38_691_456,
            source="Zhang et al. 2018, ShuffleNet, arXiv:1707.01083, Table 1, 3 groups",
        ),
        ModelSpec(
            name="shufflenetv2",
            family="shufflenetv2",
            build=lambda classes: ShuffleNetV2(num_classes=classes),
            head="linear",
            feature_dim=1024,
            params=1_355_528,
            macs=44_504_448,
            source="Ma et al. 2018, ShuffleNet V2, arXiv:1807.11164, Table 5, width 1",
        ),
        _alexnet("alexnet", _KRIZHEVSKY, params=1_659_178, macs=76_902_912),
        _alexnet("alexnet_half", (24, 64, 96, 96, 64, 256, 128), params=417_434, macs=20_147_968),
        _lenet5("lenet5", (6, 16, 120, 84), params=61_706, macs=416_520),
        _lenet5("lenet5_half", (3, 8, 120, 84), params=35_820, macs=153_720),
    ]
)

_ANY_WRN = re.compile(r"wrn([1-9]\d{0,3})_(0|[1-9]\d{0,2})")


@functools.cache
def spec(name: str) -> ModelSpec:
    """What is known of an architecture: one of `MODELS`, any `wrnD_W`, `projected:...`, or one from outside.

    See projected.py and external.py. Raises UnknownModel, which lists the known.
    """
    if name in MODELS:
        return MODELS[name]
    if inner := projected.parse(name):
        return _projected(*inner)
    if match := _ANY_WRN.fullmatch(name):
        return _any_wrn(int(match[1]), int(match[2]))
    if ":" in name:
        return external.find(name)
    near = difflib.get_close_matches(name.lower().replace("-", "_"), MODELS, n=1, cutoff=0.75)
    guess = f"did you mean {near[0]}? " if near else ""
    raise UnknownModel(f"unknown model {name!r}; {guess}known: {known_names()}")


def known_names() -> str:
    """All names that `spec` knows, for messages."""
    return f"{', '.join(MODELS)}, any wrnDEPTH_WIDTH, {', '.join(external.FORMS)}"


def _any_wrn(depth: int, widen_factor: int) -> ModelSpec:
    try:
        with torch.device("meta"):
            net = WideResNet(depth, widen_factor, num_classes=100)
    except ValueError as error:
        raise UnknownModel(f"no model wrn{depth}_{widen_factor}: {error}") from None
    params, macs = count(net, size=32, channels=3)
    return _wrn(depth, widen_factor, params=params, macs=macs)


def _projected(arch: str, width: int) -> ModelSpec:
    inner = spec(arch)
    if width < 2:  # of which the projector's hidden maps have half
        raise UnknownModel(f"no model {projected.name_of(arch, width=width)}: the width must be >= 2; got {width}")
    size, channels = inner.input_size, inner.channels
    found = feature_map(inner.skeleton(2), head=inner.head, size=size, channels=channels)

    def build_projected(classes: int) -> nn.Module:
        return projected.Projected(
            inner.build(classes), head=inner.head, feature_map=found, width=width, num_classes=classes
        )

    with torch.random.fork_rng(devices=[]):
        params, macs = count(build_projected(inner.classes), size=size, channels=channels)
    return replace(
        inner,
        name=projected.name_of(inner.name, width=width),
        family="projected",
        build=build_projected,
        head="classifier",
        feature_dim=width,
        params=params,
        macs=macs,
        published={},
        auxiliary=(),
        source=f"Tang et al. 2023 (KD3), on {inner.source}",
    )


def build(name: str, num_classes: int) -> nn.Module:
    """A network with fresh weights, in training mode. Raises UnknownModel, which lists the known."""
    return spec(name).build(num_classes)
