"""The losses of generators without data, against numbers worked by hand and a second writing."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from distill.losses.batch_norm import moment_matching
from distill.losses.embedding_norm import norm_hinge
from distill.losses.hinge import magnitude_hinge
from distill.losses.nll import class_nll
from distill.models.view import Moments, Probe


def test_magnitude_hinge_by_hand() -> None:
    """Excesses 0, 0.5, 2 and 0 of a bound of 1 over four elements, whatever their shape."""
    values = torch.tensor([[1.0, -1.5], [3.0, 0.0]])
    assert magnitude_hinge(values, bound=1).item() == 2.5 / 4
    assert magnitude_hinge(values.view(1, 1, 4, 1), bound=1).item() == 2.5 / 4
    assert magnitude_hinge(values, bound=0).item() == 5.5 / 4
    assert magnitude_hinge(values, bound=3).item() == 0


def test_magnitude_hinge_pushes_only_what_is_outside() -> None:
    values = torch.tensor([21.0, -21.0, 19.0, 0.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(magnitude_hinge(values, bound=20), values)
    assert gradient.tolist() == [0.25, -0.25, 0, 0]


def test_norm_hinge_by_hand() -> None:
    """Norms 5 and 13 of two dimensions against 2 sqrt(2) = 2.8284: excesses 2.1716 and 10.1716."""
    embeddings_BE = torch.tensor([[3.0, 4.0], [-5.0, 12.0]])
    assert norm_hinge(embeddings_BE, gamma=2).item() == pytest.approx(9 - 2 * math.sqrt(2), rel=1e-6)
    assert norm_hinge(embeddings_BE, gamma=10).item() == 0


def test_norm_hinge_pulls_along_the_embedding_and_is_harmless_at_nothing() -> None:
    embeddings_BE = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    (gradient_BE,) = torch.autograd.grad(norm_hinge(embeddings_BE, gamma=1), embeddings_BE)
    assert gradient_BE.flatten().tolist() == pytest.approx([0.3, 0.4, 0, 0])


def moments(*numbers: list[float]) -> Moments:
    mean_C, var_C, running_mean_C, running_var_C = map(torch.tensor, numbers)
    return Moments(mean_C=mean_C, var_C=var_C, running_mean_C=running_mean_C, running_var_C=running_var_C)


def test_moment_matching_by_hand() -> None:
    """Layer 1: (1 - 0)^2 + (2 - 4)^2 + (3 - 1)^2 + 0 = 9; layer 2 of one channel: 0 + (1/2)^2; nothing is averaged."""
    first = moments([1.0, 2.0], [3.0, 1.0], [0.0, 4.0], [1.0, 1.0])
    second = moments([7.0], [0.5], [7.0], [1.0])
    assert moment_matching([first, second]).item() == 9.25
    assert moment_matching([second, second, second]).item() == 0.75
    assert moment_matching([moments([1.0], [2.0], [1.0], [2.0])]).item() == 0


def test_moment_matching_of_a_network_in_plain_pytorch() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    for _ in range(3):
        net(torch.randn(8, 3, 8, 8))
    net.eval()
    images_BCHW = torch.rand(5, 3, 8, 8, requires_grad=True)
    probe = Probe(net, head="4")
    with probe.watch(batch_norm=True):
        view = probe(images_BCHW, mean_C=torch.zeros(3), std_C=torch.ones(3), dtype="float32")
    loss = moment_matching(view.batch_norm.values())
    x_BCHW, norm = net[0](images_BCHW), net[1]
    expected = ((x_BCHW.mean((0, 2, 3)) - norm.running_mean) ** 2).sum()
    expected = expected + ((x_BCHW.var((0, 2, 3), correction=0) - norm.running_var) ** 2).sum()
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(of, images_BCHW, retain_graph=True)[0] for of in (loss, expected))
    torch.testing.assert_close(ours, theirs)
    assert ours.abs().sum() > 0


def test_class_nll_by_hand() -> None:
    """-ln(1/2), -ln(1/8)."""
    logits_BK = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.375, 0.5]]).log()
    assert class_nll(logits_BK, torch.tensor([0, 0])).item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert class_nll(torch.zeros(2, 8), torch.tensor([3, 7])).item() == pytest.approx(math.log(8), rel=1e-6)
    assert class_nll(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).item() == 1e4


LOSSES: list[Callable[[Tensor], Tensor]] = [
    lambda values: magnitude_hinge(values, bound=0.1),
    lambda values: norm_hinge(values, gamma=0.1),
    lambda values: class_nll(values, torch.zeros(len(values), dtype=torch.int64)),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_float32_whatever_comes(loss: Callable[[Tensor], Tensor]) -> None:
    half_BK = torch.randn(4, 10).bfloat16()
    assert loss(half_BK).dtype == torch.float32
    torch.testing.assert_close(loss(half_BK), loss(half_BK.float()))
