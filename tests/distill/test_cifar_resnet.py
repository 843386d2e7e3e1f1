"""CIFAR residual networks: the zoo's parameter names, post-activated blocks, impossible depths, any input size."""

import pytest
import torch
from torch import nn

from distill.models.cifar_resnet import BasicBlock, CifarResNet

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


def zoo_names(blocks: int, projected: tuple[int, ...]) -> set[str]:
    """RepDistiller's names for three groups of `blocks`, where the first block of each `projected` group has a 1x1."""
    names = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{part}" for part in NORM}
    for group in (1, 2, 3):
        for index in range(blocks):
            stem = f"layer{group}.{index}"
            names |= {f"{stem}.conv{i}.weight" for i in (1, 2)} | {
                f"{stem}.bn{i}.{part}" for i in (1, 2) for part in NORM
            }
    for group in projected:
        names.add(f"layer{group}.0.downsample.0.weight")
        names |= {f"layer{group}.0.downsample.1.{part}" for part in NORM}
    return names


def test_names_are_those_of_the_zoo() -> None:
    assert set(CifarResNet(20, NARROW, num_classes=10).state_dict()) == zoo_names(3, projected=(2, 3))


def test_a_group_wider_than_the_stem_is_projected_too() -> None:
    net = CifarResNet(8, WIDE, num_classes=10)
    assert set(net.state_dict()) == zoo_names(1, projected=(1, 2, 3))
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert shapes["conv1.weight"] == (32, 3, 3, 3)
    assert shapes["layer1.0.downsample.0.weight"] == (64, 32, 1, 1)
    assert shapes["layer3.0.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["fc.weight"] == (10, 256)


def test_block_is_postactivated() -> None:
    """With a silent residual branch a block is ReLU of its input, not the identity."""
    block = BasicBlock(4, 4, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)
    x_BCHW = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x_BCHW), x_BCHW.relu())


def test_shortcut_projects_the_input_where_the_stride_halves_it() -> None:
    block = BasicBlock(4, 4, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)
    assert block.downsample is not None
    x_BCHW = torch.randn(2, 4, 6, 6)
    out_BCHW = block(x_BCHW)
    assert out_BCHW.shape == (2, 4, 3, 3)
    assert torch.equal(out_BCHW, block.downsample(x_BCHW).relu())


@pytest.mark.parametrize("size", [1, 8, 20, 64])
def test_any_size(size: int) -> None:
    assert CifarResNet(8, WIDE, num_classes=7)(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_head_reads_the_mean_over_the_map() -> None:
    net = CifarResNet(8, NARROW, num_classes=5).eval()
    maps: list[torch.Tensor] = []
    net.layer3.register_forward_hook(lambda module, args, out_BCHW: maps.append(out_BCHW))
    logits_BK = net(torch.randn(2, 3, 32, 32))
    assert maps[0].shape == (2, 64, 8, 8)
    torch.testing.assert_close(logits_BK, net.fc(maps[0].flatten(2).mean(2)))


def test_fresh_convolutions_are_he_normal_over_the_fan_out() -> None:
    torch.manual_seed(0)
    net = CifarResNet(8, WIDE, num_classes=10)
    weight = net.get_parameter("layer3.0.conv1.weight")  # 128 -> 256, 3x3
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("depth", [2, 21, 40, -4])
def test_impossible_depth(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 2 with n >= 1; got {depth}$"):
        CifarResNet(depth, NARROW, num_classes=10)
