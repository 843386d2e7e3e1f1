"""LeNet-5 and half: the zoo's names, the papers' counts, the classic network at 32 pixels, averages above."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.models.lenet import LeNet5

WHOLE = (6, 16, 120, 84)
ZSKD_HALF = (3, 8, 120, 84)
DAFL_HALF = (3, 8, 60, 42)


@pytest.mark.parametrize("widths", [WHOLE, ZSKD_HALF, DAFL_HALF])
def test_names_and_shapes_are_those_of_the_zoo(widths: tuple[int, int, int, int]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in LeNet5(widths, num_classes=10).state_dict().items()}
    layers = ("conv1", "conv2", "conv3", "fc1", "fc2")
    assert set(shapes) == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    for layer, channels, into in zip(layers[:3], widths, (1, *widths), strict=False):
        assert shapes[f"{layer}.weight"] == (channels, into, 5, 5)
    assert shapes["fc1.weight"] == (widths[3], widths[2])
    assert shapes["fc2.weight"] == (10, widths[3])


@pytest.mark.parametrize(("widths", "printed"), [(WHOLE, 61_706), (ZSKD_HALF, 35_820), (DAFL_HALF, 15_738)])
def test_parameters_are_those_that_zskd_prints(widths: tuple[int, int, int, int], printed: int) -> None:
    """The third is DAFL's half, which its paper does not count: from its published code."""
    assert sum(parameter.numel() for parameter in LeNet5(widths, num_classes=10).parameters()) == printed


def test_at_32_pixels_it_is_the_classic_network() -> None:
    """Flattened 5x5 maps into a linear layer of 120, which is how ZSKD and DeGAN write the third convolution."""
    net = LeNet5(WHOLE, num_classes=10)
    images_BCHW = torch.randn(4, 1, 32, 32)
    maps_BCHW = F.max_pool2d(F.relu(F.conv2d(images_BCHW, net.conv1.weight, net.conv1.bias)), 2)
    maps_BCHW = F.max_pool2d(F.relu(F.conv2d(maps_BCHW, net.conv2.weight, net.conv2.bias)), 2)
    hidden_BD = F.relu(F.linear(maps_BCHW.flatten(1), net.conv3.weight.flatten(1), net.conv3.bias))
    expected_BK = net.fc2(F.relu(net.fc1(hidden_BD)))
    torch.testing.assert_close(net(images_BCHW), expected_BK)


def test_larger_images_are_averaged_over_positions() -> None:
    net = LeNet5(ZSKD_HALF, num_classes=7)
    maps: list[Tensor] = []
    net.conv3.register_forward_hook(lambda module, args, out_BCHW: maps.append(out_BCHW))
    logits_BK = net(torch.randn(2, 1, 64, 64))
    assert maps[0].shape == (2, 120, 9, 9)
    torch.testing.assert_close(logits_BK, net.fc2(F.relu(net.fc1(maps[0].relu().flatten(2).mean(2)))))


def test_sides_below_32_fail() -> None:
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        LeNet5(WHOLE, num_classes=10)(torch.randn(1, 1, 28, 28))
