"""MobileNetV2: the zoo's parameter names and shapes, where it halves, what it adds, its activations, any input size."""

import pytest
import torch
from torch import Tensor, nn

from distill.models.mobilenetv2 import InvertedResidual, MobileNetV2

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BLOCKS = (1, 2, 3, 4, 3, 3, 1)
HALF_CHANNELS = (8, 12, 16, 32, 48, 80, 160)


def zoo_names() -> set[str]:
    """RepDistiller's: a block is convolution, BN, ReLU twice, then convolution and BN, by running number."""
    names = {"conv1.0.weight", "conv2.0.weight", "classifier.0.weight", "classifier.0.bias"}
    names |= {f"{stem}.1.{part}" for stem in ("conv1", "conv2") for part in NORM}
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            stem = f"blocks.{stage}.{block}.conv"
            names |= {f"{stem}.{i}.weight" for i in (0, 3, 6)}
            names |= {f"{stem}.{i}.{part}" for i in (1, 4, 7) for part in NORM}
    return names


def test_names_and_shapes_are_those_of_the_zoos_mobile_half() -> None:
    with torch.device("meta"):
        state = MobileNetV2(0.5, num_classes=100).state_dict()
    assert set(state) == zoo_names()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["conv1.0.weight"] == (16, 3, 3, 3)
    assert shapes["blocks.0.0.conv.0.weight"] == (16, 16, 1, 1)  # expanded by 1, which the paper leaves out
    for stage, (channels, into) in enumerate(zip(HALF_CHANNELS, (16, *HALF_CHANNELS), strict=False)):
        hidden = into * (6 if stage else 1)
        assert shapes[f"blocks.{stage}.0.conv.0.weight"] == (hidden, into, 1, 1)
        assert shapes[f"blocks.{stage}.0.conv.3.weight"] == (hidden, 1, 3, 3)
        assert shapes[f"blocks.{stage}.0.conv.6.weight"] == (channels, hidden, 1, 1)
    assert shapes["conv2.0.weight"] == (1280, 160, 1, 1)
    assert shapes["classifier.0.weight"] == (100, 1280)


def test_the_last_convolution_grows_with_the_width_and_does_not_shrink() -> None:
    with torch.device("meta"):
        last = [MobileNetV2(width, num_classes=10).classifier[0].in_features for width in (0.25, 1.0, 1.4)]
    assert last == [1280, 1280, 1792]


def test_resolution_is_halved_four_times() -> None:
    net = MobileNetV2(0.5, num_classes=10).eval()
    sides: list[int] = []
    for module in (net.conv1, *net.blocks, net.conv2):
        module.register_forward_hook(lambda module, args, maps_BCHW: sides.append(maps_BCHW.shape[-1]))
    net(torch.zeros(1, 3, 32, 32))
    assert sides == [16, 16, 16, 8, 4, 4, 2, 2, 2]


def test_a_block_adds_its_input_where_the_shapes_agree_and_has_no_relu_at_its_end() -> None:
    x_BCHW = torch.randn(2, 8, 6, 6)
    for channels_out, stride, expected_BCHW in [
        (8, 1, x_BCHW),
        (12, 1, torch.zeros(2, 12, 6, 6)),
        (8, 2, torch.zeros(2, 8, 3, 3)),
    ]:
        block = InvertedResidual(8, channels_out, stride=stride, expansion=6).eval()
        nn.init.zeros_(block.get_parameter("conv.6.weight"))
        assert torch.equal(block(x_BCHW), expected_BCHW)


def test_activations_are_relu_without_the_cap_at_6() -> None:
    net = MobileNetV2(0.5, num_classes=10).eval()
    features: list[Tensor] = []
    net.classifier.register_forward_pre_hook(lambda module, args: features.append(args[0]))
    net(1e10 * torch.randn(2, 3, 32, 32))  # fresh depthwise convolutions damp it
    assert features[0].min() >= 0
    assert features[0].max() > 6


@pytest.mark.parametrize("size", [1, 20, 32, 64])
def test_any_size(size: int) -> None:
    assert MobileNetV2(0.5, num_classes=7)(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_fresh_weights_are_the_zoos() -> None:
    torch.manual_seed(0)
    net = MobileNetV2(0.5, num_classes=100)
    std = {name: weight.std().item() for name, weight in net.named_parameters() if weight.ndim > 1}
    assert std["conv2.0.weight"] == pytest.approx((2 / 1280) ** 0.5, rel=0.01)
    assert std["blocks.5.1.conv.3.weight"] == pytest.approx((2 / (9 * 480)) ** 0.5, rel=0.05)  # depthwise, 480 channels
    assert std["classifier.0.weight"] == pytest.approx(0.01, rel=0.01)
    assert not net.get_parameter("classifier.0.bias").any()
