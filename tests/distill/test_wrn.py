"""Wide residual networks: the public names, the published sizes, and any input of 8 pixels or more."""

import pytest
import torch
from torch import Tensor, nn

from distill.errors import UnknownModel
from distill.models import MODELS, ModelSpec, build
from distill.models.wrn import WideResNet

# methods.md section 5 and the KD literature: millions of parameters, millions of multiply-adds
PUBLISHED = {
    "wrn16_1": (0.181, 26.7),
    "wrn16_2": (0.703, 101.1),
    "wrn40_1": (0.570, 83.3),
    "wrn40_2": (2.255, 327.6),
}


def count_macs(net: nn.Module, size: int) -> int:
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += output[0].numel() * weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    net.eval()(torch.zeros(1, 3, size, size))
    return total


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.name)
def test_counts_are_exact_and_as_published(spec: ModelSpec) -> None:
    net = spec.build(100)
    params = sum(parameter.numel() for parameter in net.parameters())
    assert params == spec.params_100
    assert count_macs(net, spec.input_size) == spec.macs
    assert (round(params / 1e6, 3), round(spec.macs / 1e6, 1)) == PUBLISHED[spec.name]


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
    """With silent second convolutions and no shortcut convolution a block is the identity, not ReLU of it."""
    block = build("wrn16_1", 10).block1.eval()
    for name, parameter in block.named_parameters():
        if "conv2" in name:
            nn.init.zeros_(parameter)
    x_BCHW = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x_BCHW), x_BCHW)


@pytest.mark.parametrize("size", [8, 20, 64])
def test_any_size_from_8(size: int) -> None:
    net = build("wrn16_2", 7)
    assert net.features(torch.randn(2, 3, size, size)).shape == (2, 128)
    assert net(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_forward_is_the_head_on_the_features() -> None:
    net = build("wrn16_1", 5).eval()
    images_BCHW = torch.randn(3, 3, 16, 16)
    assert torch.equal(net(images_BCHW), net.fc(net.features(images_BCHW)))


def test_same_seed_same_weights() -> None:
    torch.manual_seed(3)
    first = build("wrn16_1", 10).state_dict()
    torch.manual_seed(3)
    assert all(torch.equal(first[name], tensor) for name, tensor in build("wrn16_1", 10).state_dict().items())


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(UnknownModel, match=r"unknown model 'wrn41_2'; known: wrn16_1, wrn16_2, wrn40_1, wrn40_2"):
        build("wrn41_2", 10)


@pytest.mark.parametrize("depth", [4, 18])
def test_impossible_depth(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6 n \\+ 4 with n >= 1; got {depth}"):
        WideResNet(depth, 1, num_classes=10)
