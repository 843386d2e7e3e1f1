"""Losses against numbers worked by hand, at their extremes, and as their own docstrings say."""

import ast
import doctest
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.losses import entropy, kl, patch_gan
from distill.losses.entropy import class_balance, sample_entropy
from distill.losses.kl import kl_divergence
from distill.losses.patch_gan import discriminator_loss, generator_loss


@pytest.mark.parametrize("module", [kl, entropy, patch_gan])
def test_docstring_examples_run(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted >= 2
    assert results.failed == 0


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Those of a file."""
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


def test_every_loss_has_an_example_and_a_case_worked_by_hand() -> None:
    here = Path(__file__).parent
    by_hand = [f for path in here.glob("test_*losses.py") for f in functions(path) if f.name.endswith("by_hand")]
    worked = {node.id for test in by_hand for node in ast.walk(test) if isinstance(node, ast.Name)}
    for path in Path(str(kl.__file__)).parent.glob("*.py"):
        for loss in functions(path):
            if not loss.name.startswith("_") and loss.returns is not None and ast.unparse(loss.returns) == "Tensor":
                assert ">>>" in (ast.get_docstring(loss) or ""), loss.name
                assert loss.name in worked, f"{loss.name}: no test ..._by_hand calls it"


def logits(*rows: list[float]) -> Tensor:
    """Logits whose softmax is these probabilities."""
    return torch.tensor(rows).log()


def test_kl_by_hand() -> None:
    """Row 1: 1/2 ln(2) + 1/4 ln(1) + 1/4 ln(1/2) = 1/4 ln 2; row 2 agrees: mean 1/8 ln 2 (sum over classes)."""
    teacher_BK = logits([0.5, 0.25, 0.25], [0.2, 0.3, 0.5])
    student_BK = logits([0.25, 0.25, 0.5], [0.2, 0.3, 0.5])
    assert kl_divergence(teacher_BK, student_BK).item() == pytest.approx(math.log(2) / 8, rel=1e-6)


def test_kl_is_from_the_teacher_in_batchmean_times_squared_temperature() -> None:
    torch.manual_seed(0)
    teacher_BK, student_BK = torch.randn(6, 10), torch.randn(6, 10)
    soft = F.log_softmax(student_BK / 4, dim=1), F.softmax(teacher_BK / 4, dim=1)
    expected = 16 * F.kl_div(*soft, reduction="batchmean")
    torch.testing.assert_close(kl_divergence(teacher_BK, student_BK, temperature=4.0), expected)


def test_kl_gradient_keeps_its_size_as_the_temperature_grows() -> None:
    """Hinton et al. 2015, Eq. 4: for centred logits and large tau the gradient tends to (u_S - u_T) / K / B."""
    teacher_BK = torch.tensor([[1.0, -1.0]])
    student_BK = torch.tensor([[0.5, -0.5]], requires_grad=True)
    (gradient_BK,) = torch.autograd.grad(kl_divergence(teacher_BK, student_BK, temperature=100.0), student_BK)
    assert gradient_BK.flatten().tolist() == pytest.approx([-0.25, 0.25], rel=1e-2)


def test_kl_reaches_both_arguments() -> None:
    teacher_BK = torch.randn(3, 4, requires_grad=True)
    student_BK = torch.randn(3, 4, requires_grad=True)
    gradients = torch.autograd.grad(kl_divergence(teacher_BK, student_BK), (teacher_BK, student_BK))
    assert all(gradient_BK.abs().sum() > 0 for gradient_BK in gradients)


def test_kl_of_underflowing_probabilities_is_exact() -> None:
    assert kl_divergence(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])).item() == 1e4


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_kl_refuses_a_temperature_of_nothing(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be above 0; got {temperature}"):
        kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)


def test_sample_entropy_by_hand() -> None:
    """(1/2, 1/4, 1/4) has 3/2 ln 2 nats, the even row ln 3."""
    expected = (1.5 * math.log(2) + math.log(3)) / 2
    assert sample_entropy(logits([0.5, 0.25, 0.25], [1 / 3] * 3)).item() == pytest.approx(expected, rel=1e-6)


def test_class_balance_by_hand() -> None:
    """The mean of (1, 0) and (1/2, 1/2) is (3/4, 1/4): 3/4 log2(3/4) + 1/4 log2(1/4) = -0.81128 bits."""
    assert class_balance(logits([1.0, 0.0], [0.5, 0.5])).item() == pytest.approx(-0.8112781, rel=1e-6)
    assert class_balance(torch.zeros(5, 8)).item() == pytest.approx(-3.0)


def test_class_balance_is_of_the_mean_not_the_mean_of_entropies() -> None:
    sure_BK = 1e3 * torch.eye(4)
    assert class_balance(sure_BK).item() == pytest.approx(-2.0)
    assert sample_entropy(sure_BK).item() == 0


EXTREMES = [
    [[1e4, 0.0, -1e4]],
    [[-1e30, 0.0, 1e30], [0.0, 0.0, 0.0]],
    [[3e38, -3e38, 0.0], [3e38, -3e38, 0.0]],
    [[-3e38, -3e38, -3e38]],
]


@pytest.mark.parametrize("loss", [sample_entropy, class_balance])
@pytest.mark.parametrize("rows", EXTREMES)
def test_entropies_are_finite_for_any_finite_logits(loss: Callable[[Tensor], Tensor], rows: list[list[float]]) -> None:
    logits_BK = torch.tensor(rows, requires_grad=True)
    value = loss(logits_BK)
    (gradient_BK,) = torch.autograd.grad(value, logits_BK)
    assert value.isfinite()
    assert gradient_BK.isfinite().all()


def test_patch_losses_by_hand() -> None:
    """Logits ln 3 give sigma = 3/4. Fake: 2 positions of -ln(1/4); real: 2 positions of -ln(3/4)."""
    map_B1hw = torch.full((3, 1, 1, 2), math.log(3))
    fake, real = 2 * math.log(4), 2 * math.log(4 / 3)
    assert discriminator_loss(map_B1hw, map_B1hw).item() == pytest.approx((fake + real) / 2, rel=1e-6)
    assert generator_loss(map_B1hw).item() == pytest.approx(real, rel=1e-6)


def test_patch_losses_sum_over_the_map_and_average_over_the_batch() -> None:
    torch.manual_seed(0)
    fake_B1hw, real_B1hw = torch.randn(4, 1, 8, 8), torch.randn(6, 1, 8, 8)
    bce = F.binary_cross_entropy_with_logits
    on_fake = bce(fake_B1hw, torch.zeros_like(fake_B1hw), reduction="sum") / 4
    on_real = bce(real_B1hw, torch.ones_like(real_B1hw), reduction="sum") / 6
    torch.testing.assert_close(discriminator_loss(fake_B1hw, real_B1hw), (on_fake + on_real) / 2)
    on_fool = bce(fake_B1hw, torch.ones_like(fake_B1hw), reduction="mean") * 64
    torch.testing.assert_close(generator_loss(fake_B1hw), on_fool)


def test_patch_losses_stay_finite_for_a_sure_discriminator() -> None:
    map_B1hw = torch.full((2, 1, 4, 4), -1e4, requires_grad=True)
    loss = generator_loss(map_B1hw)
    (gradient_B1hw,) = torch.autograd.grad(loss, map_B1hw)
    assert loss.item() == 16e4
    assert gradient_B1hw.min() == gradient_B1hw.max() == -0.5


def test_losses_are_float32_whatever_comes() -> None:
    half_BK = torch.randn(4, 10).bfloat16()
    map_B1hw = torch.randn(4, 1, 2, 2).bfloat16()
    values = [
        kl_divergence(half_BK, half_BK.flip(0)),
        sample_entropy(half_BK),
        class_balance(half_BK),
        discriminator_loss(map_B1hw, map_B1hw),
        generator_loss(map_B1hw),
    ]
    assert {value.dtype for value in values} == {torch.float32}
    assert values[1].item() == pytest.approx(sample_entropy(half_BK.float()).item())
