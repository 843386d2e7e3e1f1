"""Wide residual networks: the public names, pre-activated blocks, any depth and width by name, impossible depths."""

import pytest
import torch
from torch import nn

from distill.errors import UnknownModel
from distill.models import MODELS, build, spec
from distill.models.wrn import Block, WideResNet


def test_names_are_those_of_the_public_zoos() -> None:
    names = {name for name in build("wrn40_2", 10).state_dict() if not name.endswith("num_batches_tracked")}
    norm = ("weight", "bias", "running_mean", "running_var")
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{part}" for part in norm}
    for block in (1, 2, 3):
        for layer in range(6):
            stem = f"block{block}.layer.{layer}"
            expected |= {f"{stem}.conv{i}.weight" for i in (1, 2)}
            expected |= {f"{stem}.bn{i}.{part}" for i in (1, 2) for part in norm}
        expected.add(f"block{block}.layer.0.convShortcut.weight")
    assert names == expected


def test_shortcut_convolutions_only_where_shapes_differ() -> None:
    names = [name for name in build("wrn16_1", 10).state_dict() if "convShortcut" in name]
    assert names == [f"block{block}.layer.0.convShortcut.weight" for block in (2, 3)]  # block1 keeps 16 channels


def test_block_is_preactivated() -> None:
    """With a silent second convolution and no shortcut convolution a block is the identity, not ReLU of it."""
    block = Block(16, 16, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)
    x_BCHW = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x_BCHW), x_BCHW)


def test_shortcut_reads_the_activated_input() -> None:
    block = Block(4, 8, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)
    assert block.convShortcut is not None
    x_BCHW = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x_BCHW), block.convShortcut(block.bn1(x_BCHW).relu()))


def test_head_reads_the_mean_of_the_activated_map() -> None:
    net = WideResNet(10, 2, num_classes=5).eval()
    maps: list[torch.Tensor] = []
    net.bn1.register_forward_hook(lambda module, args, out_BCHW: maps.append(out_BCHW))
    logits_BK = net(torch.randn(3, 3, 20, 20))
    assert maps[0].shape == (3, 128, 5, 5)
    torch.testing.assert_close(logits_BK, net.fc(maps[0].relu().flatten(2).mean(2)))


@pytest.mark.parametrize("size", [8, 20, 64])
def test_any_size_from_8(size: int) -> None:
    assert WideResNet(10, 1, num_classes=7)(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_same_seed_same_weights() -> None:
    torch.manual_seed(3)
    first = build("wrn16_1", 10).state_dict()
    torch.manual_seed(3)
    assert all(torch.equal(first[name], tensor) for name, tensor in build("wrn16_1", 10).state_dict().items())


def test_fresh_weights() -> None:
    torch.manual_seed(0)
    net = WideResNet(10, 8, num_classes=10)
    assert net.get_parameter("block3.layer.0.conv1.weight").std().item() == pytest.approx(
        (2 / (9 * 512)) ** 0.5, rel=0.01
    )
    assert not net.fc.bias.any()


@pytest.mark.parametrize(("name", "printed"), [("wrn40_4", "8.9"), ("wrn16_8", "11.0"), ("wrn28_10", "36.5")])
def test_any_depth_and_width_by_name(name: str, printed: str) -> None:
    """The paper prints the parameters, in millions, of networks for CIFAR-10 that are not in the table of models."""
    row = spec(name)
    assert name not in MODELS
    assert (row.name, row.family, row.head, row.feature_dim) == (name, "wrn", "fc", 64 * int(name.split("_")[1]))
    assert f"{(row.params - 90 * (row.feature_dim + 1)) / 1e6:.1f}" == printed  # ours are with a head of 100 classes


@pytest.mark.parametrize("depth", [4, 18])
def test_impossible_depth(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 4 with n >= 1; got {depth}$"):
        WideResNet(depth, 1, num_classes=10)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrn41_2", r"no model wrn41_2: depth must be 6 n \+ 4 with n >= 1; got 41"),
        ("wrn16_0", r"no model wrn16_0: the widening factor must be >= 1; got 0"),
    ],
)
def test_impossible_by_name(name: str, words: str) -> None:
    with pytest.raises(UnknownModel, match=words):
        build(name, 10)
