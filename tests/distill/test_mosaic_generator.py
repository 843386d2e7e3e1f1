"""MosaicKD's networks: published sizes, receptive fields measured by gradient, and a stride that works."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill.errors import UnsupportedSize
from distill.generators.mosaic import Discriminator, Generator, UpsampledConv, Variant

VARIANTS: list[Variant] = ["paper", "code"]


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [8, 32, 44])
def test_generator_makes_images(variant: Variant, size: int) -> None:
    images_BCHW = Generator(size=size, variant=variant)(torch.randn(2, 100))
    assert images_BCHW.shape == (2, 3, size, size)
    assert 0 <= images_BCHW.min() < images_BCHW.max() <= 1


def test_generator_options_are_heard() -> None:
    assert Generator(z_dim=7, channels=1, size=16)(torch.randn(2, 7)).shape == (2, 1, 16, 16)


@pytest.mark.parametrize(("variant", "start"), [("paper", 128), ("code", 256)])
def test_generator_starts_as_published(variant: Variant, start: int) -> None:
    assert Generator(variant=variant).start(torch.randn(2, 100)).shape == (2, start, 8, 8)


def test_generator_sizes() -> None:
    # linear + start BN + 2 x (conv, BN) + last conv with bias
    paper = 101 * 128 * 64 + 256 + (128 * 128 * 9 + 256) + (128 * 64 * 9 + 128) + (64 * 3 * 9 + 3)
    code = 101 * 256 * 64 + 512 + (256 * 128 * 9 + 256) + (128 * 64 * 9 + 128) + (64 * 3 * 9 + 3)
    assert count(Generator(variant="paper")) == paper == 1_050_947
    assert count(Generator(variant="code")) == code == 2_026_051  # published: 2.03 M


def test_only_the_papers_start_is_activated() -> None:
    torch.manual_seed(0)
    z_BZ = torch.randn(64, 100)
    lowest = {variant: Generator(variant=variant).start(z_BZ).min().item() for variant in VARIANTS}
    assert lowest["code"] < -2 < -1 < lowest["paper"] < 0  # a slope of 0.2 on what is some -4 standard deviations


@pytest.mark.parametrize("size", [0, 2, 30])
def test_generator_refuses_other_sizes(size: int) -> None:
    with pytest.raises(UnsupportedSize, match=f"side is a multiple of 4; got {size}"):
        Generator(size=size)


def test_discriminator_sizes() -> None:
    assert count(Discriminator(variant="paper")) == 3 * 64 * 9 + 128 + 64 * 128 * 9 + 256 + 128 * 9 + 1
    assert count(Discriminator(variant="code")) == 3 * 128 * 16 + 128 + 128 * 256 * 16 + 512 + 256 + 1


@pytest.mark.parametrize(("variant", "field"), [("paper", 15), ("code", 10)])
def test_receptive_field(variant: Variant, field: int) -> None:
    discriminator = Discriminator(variant=variant).eval()  # in training BN would look at everything
    images_BCHW = torch.rand(1, 3, 64, 64, requires_grad=True)
    (gradient_BCHW,) = torch.autograd.grad(discriminator(images_BCHW)[0, 0, 8, 8], images_BCHW)
    seen_HW = gradient_BCHW[0].abs().sum(0) > 0
    for axis in (0, 1):
        reached = seen_HW.any(dim=axis).nonzero().flatten()
        assert int(reached[-1] - reached[0]) + 1 == field


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("stride", "side"), [(1, 8), (2, 4), (3, 3), (4, 2)])
def test_stride_thins_the_map(variant: Variant, stride: int, side: int) -> None:
    torch.manual_seed(0)
    dense = Discriminator(variant=variant).eval()
    strided = Discriminator(variant=variant, stride=stride).eval()
    strided.load_state_dict(dense.state_dict())
    images_BCHW = torch.rand(2, 3, 32, 32)
    map_B1hw = strided(images_BCHW)
    assert map_B1hw.shape == (2, 1, side, side)
    torch.testing.assert_close(map_B1hw, dense(images_BCHW)[:, :, ::stride, ::stride])


@pytest.mark.parametrize("variant", VARIANTS)
def test_discriminator_gives_logits(variant: Variant) -> None:
    torch.manual_seed(0)
    map_B1hw = Discriminator(variant=variant)(torch.rand(4, 3, 32, 32))
    assert map_B1hw.min() < 0  # a sigmoid would forbid it
    assert Discriminator(channels=1, variant=variant)(torch.rand(2, 1, 32, 32)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("side", [1, 3, 8])
def test_upsampled_convolution_is_the_same_either_way(side: int) -> None:
    """To the bit as two layers of PyTorch in float32; under autocast one transposed convolution of the same values."""
    torch.manual_seed(0)
    layer, x_BCHW = UpsampledConv(3, 5), torch.randn(2, 3, side, side, requires_grad=True)
    expected = F.conv2d(nn.Upsample(scale_factor=2)(x_BCHW), layer.weight, padding=1)
    assert torch.equal(layer(x_BCHW), expected)
    gradients = torch.autograd.grad(expected.square().sum(), (x_BCHW, layer.weight))
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x_BCHW)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    low = torch.autograd.grad(found.float().square().sum(), (x_BCHW, layer.weight))
    for mine, theirs in zip(low, gradients, strict=True):
        assert F.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.999
