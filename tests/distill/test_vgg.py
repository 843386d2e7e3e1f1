"""VGG-8, 11 and 13 with BN: the zoo's parameter names, where it pools, depths, any side of 8 pixels or more."""

import pytest
import torch

from distill.models.vgg import VGG

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def zoo_names(convolutions: tuple[int, ...]) -> set[str]:
    """RepDistiller's names: in each block (convolution, BN, ReLU) by running number, so every third number is new."""
    names = {"classifier.weight", "classifier.bias"}
    for block, count in enumerate(convolutions):
        for i in range(count):
            names |= {f"block{block}.{3 * i}.{part}" for part in ("weight", "bias")}
            names |= {f"block{block}.{3 * i + 1}.{part}" for part in NORM}
    return names


@pytest.mark.parametrize(
    ("depth", "convolutions"), [(8, (1, 1, 1, 1, 1)), (11, (1, 1, 2, 2, 2)), (13, (2, 2, 2, 2, 2))]
)
def test_names_and_shapes_are_those_of_the_zoo(depth: int, convolutions: tuple[int, ...]) -> None:
    with torch.device("meta"):
        state = VGG(depth, num_classes=10).state_dict()
    assert set(state) == zoo_names(convolutions)
    widths = [state[f"block{block}.{3 * (count - 1)}.weight"].shape[0] for block, count in enumerate(convolutions)]
    assert widths == [64, 128, 256, 512, 512]
    assert state["classifier.weight"].shape == (10, 512)


@pytest.mark.parametrize(("size", "side"), [(8, 1), (32, 4), (63, 7), (64, 4), (96, 6)])
def test_the_fourth_pool_is_for_64_pixels_and_more(size: int, side: int) -> None:
    net = VGG(8, num_classes=10).eval()
    maps: list[torch.Tensor] = []
    net.block4.register_forward_hook(lambda module, args, out_BCHW: maps.append(out_BCHW))
    net(torch.zeros(1, 3, size, size))
    assert maps[0].shape == (1, 512, side, side)


def test_relu_follows_every_batch_norm() -> None:
    """The zoo's blocks end before the last ReLU; the network applies it, so the pooled features are not negative."""
    net = VGG(11, num_classes=10).eval()
    features: list[torch.Tensor] = []
    net.classifier.register_forward_pre_hook(lambda module, args: features.append(args[0]))
    inputs: list[torch.Tensor] = []
    for block in (net.block1, net.block2, net.block3, net.block4):
        block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    net(torch.randn(2, 3, 32, 32))
    assert [tuple(maps_BCHW.shape[1:]) for maps_BCHW in inputs] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 4, 4)]
    assert all(tensor.min() >= 0 and tensor.max() > 0 for tensor in [*inputs, *features])


@pytest.mark.parametrize("size", [8, 20, 64])
def test_any_size_from_8(size: int) -> None:
    assert VGG(8, num_classes=7)(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_fresh_weights_are_the_zoos() -> None:
    torch.manual_seed(0)
    net = VGG(8, num_classes=100)
    assert net.get_parameter("block4.0.weight").std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert net.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not net.get_parameter("block4.0.bias").any()
    assert not net.classifier.bias.any()


def test_impossible_depth_lists_the_possible() -> None:
    with pytest.raises(ValueError, match=r"depth must be one of 8, 11, 13; got 16$"):
        VGG(16, num_classes=10)
