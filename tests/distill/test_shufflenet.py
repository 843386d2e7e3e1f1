"""ShuffleNet V1 and V2: the zoo's parameter names, groups, shuffles and branches, resolutions, any input size."""

import pytest
import torch
from torch import Tensor, nn

from distill.models import shufflenetv1, shufflenetv2
from distill.models.shufflenetv1 import ShuffleNetV1
from distill.models.shufflenetv2 import ShuffleNetV2

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BLOCKS = (4, 8, 4)
FAMILIES = pytest.mark.parametrize("family", [ShuffleNetV1, ShuffleNetV2])


def zoo_names(*, after_stem: int, first: int, rest: int) -> set[str]:
    """RepDistiller's: numbered pairs of convolution and BN, so many in each stage's first block and in the others."""
    pairs = {"": after_stem}
    for layer, blocks in enumerate(BLOCKS, start=1):
        pairs |= {f"layer{layer}.{block}.": rest if block else first for block in range(blocks)}
    names = {"linear.weight", "linear.bias"}
    for stem, count in pairs.items():
        names |= {f"{stem}conv{i}.weight" for i in range(1, count + 1)}
        names |= {f"{stem}bn{i}.{part}" for i in range(1, count + 1) for part in NORM}
    return names


def test_v1_names_and_shapes_are_those_of_the_zoo() -> None:
    with torch.device("meta"):
        state = ShuffleNetV1(num_classes=10).state_dict()
    assert set(state) == zoo_names(after_stem=1, first=3, rest=3)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["conv1.weight"] == (24, 3, 1, 1)
    assert shapes["layer1.0.conv1.weight"] == (54, 24, 1, 1)  # a quarter of 240 - 24; all 24 read by each
    assert shapes["layer1.0.conv3.weight"] == (216, 18, 1, 1)  # 54 inputs in 3 groups
    assert shapes["layer2.0.conv1.weight"] == (60, 80, 1, 1)
    assert shapes["layer3.1.conv1.weight"] == (240, 320, 1, 1)
    assert shapes["layer3.1.conv2.weight"] == (240, 1, 3, 3)
    assert shapes["linear.weight"] == (10, 960)


def test_v2_names_and_shapes_are_those_of_the_zoo() -> None:
    with torch.device("meta"):
        state = ShuffleNetV2(num_classes=10).state_dict()
    assert set(state) == zoo_names(after_stem=2, first=5, rest=3)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["conv1.weight"] == (24, 3, 1, 1)
    assert shapes["layer1.0.conv1.weight"] == (24, 1, 3, 3)
    assert shapes["layer1.0.conv3.weight"] == (58, 24, 1, 1)
    assert shapes["layer2.1.conv3.weight"] == (116, 116, 1, 1)
    assert shapes["layer3.3.conv2.weight"] == (232, 1, 3, 3)
    assert shapes["conv2.weight"] == (1024, 464, 1, 1)
    assert shapes["linear.weight"] == (10, 1024)


def test_v1_block_at_stride_1_adds_its_input_before_the_relu() -> None:
    block = shufflenetv1.Bottleneck(240, 240, stride=1).eval()
    nn.init.zeros_(block.conv3.weight)
    x_BCHW = torch.randn(2, 240, 4, 4)
    assert torch.equal(block(x_BCHW), x_BCHW.relu())


def test_v1_block_at_stride_2_appends_the_average_of_its_input() -> None:
    block = shufflenetv1.Bottleneck(240, 480, stride=2).eval()
    nn.init.zeros_(block.conv3.weight)
    x_BCHW = torch.rand(2, 240, 4, 4)
    out_BCHW = block(x_BCHW)
    assert out_BCHW.shape == (2, 480, 2, 2)
    assert not out_BCHW[:, :240].any()
    torch.testing.assert_close(out_BCHW[:, 240:, 1, 1], x_BCHW[:, :, 1:, 1:].mean(dim=(2, 3)))


@pytest.mark.parametrize(("channels_in", "expected"), [(24, list(range(54))), (240, [0, 20, 40, 1, 21, 41])])
def test_v1_shuffles_the_groups_of_its_first_convolution(channels_in: int, expected: list[int]) -> None:
    """The depthwise convolution reads one channel of each group in turn; after the stem there is one group."""
    block = shufflenetv1.Bottleneck(channels_in, 240, stride=2 if channels_in == 24 else 1).eval()
    seen: dict[str, Tensor] = {}
    block.bn1.register_forward_hook(lambda module, args, out_BCHW: seen.update(made=out_BCHW.relu()))
    block.conv2.register_forward_pre_hook(lambda module, args: seen.update(read=args[0]))
    block(torch.randn(1, channels_in, 4, 4))
    assert torch.equal(seen["read"][:, : len(expected)], seen["made"][:, expected])


def test_v2_basic_block_passes_one_half_and_interleaves() -> None:
    block = shufflenetv2.BasicBlock(116).eval()
    x_BCHW = torch.randn(2, 116, 4, 4)
    kept_BCHW, branch_BCHW = block(x_BCHW)[:, 0::2], block(x_BCHW)[:, 1::2]
    assert torch.equal(kept_BCHW, x_BCHW[:, :58])
    assert branch_BCHW.min() >= 0
    assert branch_BCHW.max() > 0
    nn.init.zeros_(block.conv3.weight)
    assert not block(x_BCHW)[:, 1::2].any()


def test_v2_down_block_interleaves_two_branches_at_half_the_resolution() -> None:
    block = shufflenetv2.DownBlock(24, 116).eval()
    nn.init.zeros_(block.conv2.weight)
    out_BCHW = block(torch.randn(2, 24, 6, 6))
    assert out_BCHW.shape == (2, 116, 3, 3)
    assert not out_BCHW[:, 0::2].any()
    assert out_BCHW[:, 1::2].any()


@FAMILIES
def test_resolution_is_halved_three_times(family: type[ShuffleNetV1 | ShuffleNetV2]) -> None:
    net = family(num_classes=10).eval()
    sides: list[int] = []
    for module in (net.conv1, net.layer1, net.layer2, net.layer3):
        module.register_forward_hook(lambda module, args, maps_BCHW: sides.append(maps_BCHW.shape[-1]))
    net(torch.zeros(1, 3, 32, 32))
    assert sides == [32, 16, 8, 4]


@FAMILIES
@pytest.mark.parametrize("size", [1, 20, 32])
def test_any_size(family: type[ShuffleNetV1 | ShuffleNetV2], size: int) -> None:
    assert family(num_classes=7)(torch.randn(2, 3, size, size)).shape == (2, 7)
