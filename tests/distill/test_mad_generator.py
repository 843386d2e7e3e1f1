"""MAD's generators against Table 8 line by line, at its sizes and at others, and how a class enters them."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from distill.errors import UnsupportedSize
from distill.generators.conditioning import ClassEmbedding, conditioned, input_width
from distill.generators.mad import Generator, Network, suited


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def sizes(generator: Generator) -> list[tuple[int, ...]]:
    """Output sizes (C, H, W) of a forward, module after module of the body, after the start's."""
    found: list[tuple[int, ...]] = []

    def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(tuple(output.shape[1:]))

    hooks = [module.register_forward_hook(note) for module in [generator.start, *generator.body]]
    generator(torch.randn(2, 256))
    for hook in hooks:
        hook.remove()
    return found


def test_table_8_a() -> None:
    expected = [(256, 4, 4), (256, 8, 8), (128, 8, 8), (128, 16, 16), (64, 16, 16), (64, 32, 32), (32, 32, 32)]
    assert sizes(Generator(size=32)) == [*expected, (3, 32, 32)]


def test_table_8_b() -> None:
    expected = [(256, 8, 8), (256, 16, 16), (128, 16, 16), (128, 32, 32), (64, 32, 32), (64, 64, 64), (32, 64, 64)]
    assert sizes(Generator(size=64)) == [*expected, (3, 64, 64)]


def test_table_8_c() -> None:
    expected = [(512, 4, 4), (512, 4, 4), (512, 8, 8), (256, 8, 8), (256, 16, 16), (128, 16, 16), (128, 32, 32)]
    expected += [(64, 32, 32), (64, 64, 64), (32, 64, 64), (32, 128, 128), (16, 128, 128), (16, 256, 256)]
    assert sizes(Generator(size=256)) == [*expected, (16, 256, 256), (3, 256, 256)]


def test_the_start_is_as_printed() -> None:
    """Linear(d_z, 4096), reshape, ReLU, BatchNorm2d(256) in (a); nothing after the reshape in (c)."""
    kinds = [type(module) for module in Generator(size=32).start]
    assert kinds == [nn.Linear, nn.Unflatten, nn.ReLU, nn.BatchNorm2d]
    start = Generator(size=256).start
    assert [type(module) for module in start] == [nn.Linear, nn.Unflatten]
    assert isinstance(start[0], nn.Linear)
    assert start[0].out_features == 8192


def test_parameters() -> None:
    widths = [256, 128, 64, 32]
    conv = sum(a * b * 9 + 2 * b for a, b in pairwise(widths)) + 2 * 256 + 32 * 3 + 3
    assert count(Generator(size=32)) == 257 * 4096 + conv == 1_440_803
    assert count(Generator(size=64)) == 257 * 16384 + conv
    widths = [512, 512, 256, 128, 64, 32, 16, 16]
    blocks = sum(2 * a + a * b * 9 + 2 * b + b * b * 9 + b + a * b + b for a, b in pairwise(widths))
    assert count(Generator(size=256)) == 257 * 8192 + blocks + 16 * 3 * 9 + 3 == 9_630_099


@pytest.mark.parametrize(
    ("size", "network", "start"),
    [
        *[(4, "conv", 4), (8, "conv", 4), (28, "conv", 7), (48, "conv", 6), (64, "conv", 8), (128, "conv", 16)],
        *[(32, "residual", 4), (128, "residual", 4), (224, "residual", 7), (256, "residual", 4), (12, "residual", 6)],
    ],
)
def test_other_sizes(size: int, network: Network, start: int) -> None:
    generator = Generator(size=size, network=network)
    shapes = sizes(generator)
    assert shapes[0][1:] == (start, start)
    assert shapes[-1] == (3, size, size)


def test_the_papers_network_is_taken_where_none_is_named() -> None:
    assert [suited(size) for size in (32, 64, 65, 256)] == ["conv", "conv", "residual", "residual"]


@pytest.mark.parametrize(
    ("size", "network"), [(2, "conv"), (0, "conv"), (45, "conv"), (256, "conv"), (255, "residual")]
)
def test_sizes_that_are_refused(size: int, network: Network) -> None:
    with pytest.raises(UnsupportedSize, match=f"cannot make images of {size} px: expected .* set image_size"):
        Generator(size=size, network=network)


@pytest.mark.parametrize("network", ["conv", "residual"])
def test_what_is_bounded_is_before_the_sigmoid(network: Network) -> None:
    torch.manual_seed(0)
    generator, z_BZ = Generator(size=16, network=network, z_dim=5, channels=1).eval(), torch.randn(3, 5)
    u_BCHW, images_BCHW = generator.logits(z_BZ), generator(z_BZ)
    assert u_BCHW.shape == (3, 1, 16, 16)
    assert u_BCHW.min() < 0
    torch.testing.assert_close(images_BCHW, 1 / (1 + (-u_BCHW).exp()))
    (gradient_BZ,) = torch.autograd.grad(u_BCHW.square().sum(), [z_BZ.requires_grad_()], allow_unused=True)
    assert gradient_BZ is None  # it was made without
    (gradient_BZ,) = torch.autograd.grad(generator.logits(z_BZ).square().sum(), z_BZ)
    assert gradient_BZ.abs().sum() > 0


def test_conditioning_by_hand() -> None:
    z_BZ, e_BE = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -2.0]])
    assert conditioned(z_BZ, e_BE, "sum").tolist() == [[1.5, 0.0]]
    assert conditioned(z_BZ, e_BE, "cat").tolist() == [[1.0, 2.0, 0.5, -2.0]]
    assert [input_width(2, how) for how in ("none", "sum", "cat")] == [2, 2, 4]


def test_class_embeddings_begin_inside_their_bound() -> None:
    torch.manual_seed(0)
    embedding = ClassEmbedding(1000, 256)
    norm_K = embedding.weight.norm(dim=1)
    assert (norm_K < 1.1 * 16).float().mean() > 0.95
    assert 15.5 < norm_K.mean() < 16.5
    assert torch.equal(embedding(torch.tensor([7, 7, 0])), embedding.weight[[7, 7, 0]])
