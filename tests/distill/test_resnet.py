"""ResNet-18, 34 and 50 with the 3x3 stem: the zoos' parameter names, blocks and shortcuts, depths, any input size."""

import pytest
import torch
from torch import nn

from distill.models.resnet import BasicBlock, Bottleneck, ResNet

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def zoo_names(blocks: tuple[int, ...], convolutions: int, projected: tuple[int, ...]) -> set[str]:
    """The names in DAFL, CMI and MosaicKD; the first block of each `projected` group has a shortcut of its own."""
    names = {"conv1.weight", "linear.weight", "linear.bias"} | {f"bn1.{part}" for part in NORM}
    for group, count in enumerate(blocks, start=1):
        for index in range(count):
            for i in range(1, convolutions + 1):
                names.add(f"layer{group}.{index}.conv{i}.weight")
                names |= {f"layer{group}.{index}.bn{i}.{part}" for part in NORM}
    for group in projected:
        names.add(f"layer{group}.0.shortcut.0.weight")
        names |= {f"layer{group}.0.shortcut.1.{part}" for part in NORM}
    return names


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (18, zoo_names((2, 2, 2, 2), 2, projected=(2, 3, 4))),
        (34, zoo_names((3, 4, 6, 3), 2, projected=(2, 3, 4))),
        (50, zoo_names((3, 4, 6, 3), 3, projected=(1, 2, 3, 4))),
    ],
)
def test_names_are_those_of_the_zoos(depth: int, expected: set[str]) -> None:
    with torch.device("meta"):
        net = ResNet(depth, num_classes=10)
    assert set(net.state_dict()) == expected


def test_stem_keeps_the_resolution_and_the_groups_divide_it_by_eight() -> None:
    with torch.device("meta"):
        net = ResNet(50, num_classes=10).eval()
        sizes: list[tuple[int, ...]] = []
        for module in (net.conv1, net.layer1, net.layer2, net.layer3, net.layer4):
            module.register_forward_hook(lambda module, args, out_BCHW: sizes.append(tuple(out_BCHW.shape[1:])))
        net(torch.zeros(1, 3, 32, 32))
    assert sizes == [(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)]


def test_basic_block_is_postactivated() -> None:
    """With a silent residual branch a block is ReLU of its input, not the identity."""
    block = BasicBlock(4, 4, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)
    x_BCHW = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x_BCHW), x_BCHW.relu())


def test_bottleneck_quadruples_and_strides_on_its_3x3() -> None:
    block = Bottleneck(8, 4, stride=2).eval()
    assert [conv.stride for conv in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]
    nn.init.zeros_(block.conv3.weight)
    x_BCHW = torch.randn(2, 8, 6, 6)
    out_BCHW = block(x_BCHW)
    assert out_BCHW.shape == (2, 16, 3, 3)
    assert torch.equal(out_BCHW, block.shortcut(x_BCHW).relu())


@pytest.mark.parametrize("size", [1, 8, 20, 64])
def test_any_size(size: int) -> None:
    assert ResNet(18, num_classes=7)(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_impossible_depth_lists_the_possible() -> None:
    with pytest.raises(ValueError, match=r"depth must be one of 18, 34, 50; got 20$"):
        ResNet(20, num_classes=10)
