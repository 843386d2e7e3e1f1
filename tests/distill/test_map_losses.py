"""Losses on maps, embeddings and noisy labels, and the restyling of images, against numbers worked by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.losses.alignment import weighted_alignment
from distill.losses.attention import attention_distance
from distill.losses.hint import hint_distance, pooled_to_match
from distill.losses.mix_style import mix_style
from distill.losses.noisy_nll import noise_adapted_nll, noise_matrix
from distill.losses.nt_xent import nt_xent
from distill.losses.probabilistic import neighbour_divergence
from distill.losses.relations import angle_relation, distance_relation
from distill.losses.similarity import similarity_distance

# hints


def test_hint_by_hand() -> None:
    """Differences 1, -1, 3, 1 over one image, one channel, 2 x 2: (1 + 1 + 9 + 1) / 4."""
    student_BCHW = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    teacher_BCHW = torch.tensor([[[[0.0, 3.0], [0.0, 3.0]]]])
    assert hint_distance(student_BCHW, teacher_BCHW).item() == 3


def test_the_larger_map_is_pooled() -> None:
    large_BCHW, small_BCHW = torch.arange(16.0).view(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
    means = [[2.5, 4.5], [10.5, 12.5]]
    for pair in (pooled_to_match(large_BCHW, small_BCHW), pooled_to_match(small_BCHW, large_BCHW)[::-1]):
        assert pair[0][0, 0].tolist() == means
        assert pair[1] is small_BCHW
    one, other = pooled_to_match(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 2, 6))
    assert one.shape == other.shape == (1, 1, 2, 2)


# alignment


def test_alignment_by_hand() -> None:
    """Image 1 agrees: 1/2 of (1 + 0) / 2. Image 2 is 5 apart (3, 4): sigma(5) of (4 + 4) / 2; mean over the two."""
    student_BCHW = torch.tensor([[[[1.0]], [[0.0]]], [[[2.0]], [[-2.0]]]])
    teacher_BCHW = torch.zeros(2, 2, 1, 1)
    logits = {
        "student_logits_BK": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "teacher_logits_BK": torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
    }
    expected = (0.5 * 0.5 + 4 / (1 + math.exp(-5))) / 2
    assert weighted_alignment(student_BCHW, teacher_BCHW, **logits).item() == pytest.approx(expected, rel=1e-6)


def test_no_gradient_passes_through_the_weight() -> None:
    student_BCHW = torch.randn(3, 2, 2, 2, requires_grad=True)
    student_BK = student_BCHW.mean(dim=(2, 3))
    told = {"student_logits_BK": student_BK, "teacher_logits_BK": student_BK.detach()}  # a norm's gradient at 0 is NaN
    loss = weighted_alignment(student_BCHW, torch.zeros(3, 2, 2, 2), **told)
    (gradient_BCHW,) = torch.autograd.grad(loss, student_BCHW)
    torch.testing.assert_close(gradient_BCHW, 0.5 * 2 * student_BCHW.detach() / student_BCHW.numel())


# contrast


def test_nt_xent_by_hand() -> None:
    """Two images at right angles, the second's other view turned around: cosines of the four rows worked one by one."""
    one_BD, other_BD = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, -1.0]])
    e = math.e
    rows = [  # -ln(positive / all but itself), at tau = 1
        -math.log(e / (e + 1 + 1)),  # (1, 0): itself again 1, right angles twice
        -math.log((1 / e) / (1 / e + 1 + 1)),  # (0, 2): its other view at -1
        -math.log(e / (e + 1 + 1)),
        -math.log((1 / e) / (1 / e + 1 + 1)),
    ]
    assert nt_xent(one_BD, other_BD, temperature=1).item() == pytest.approx(sum(rows) / 4, rel=1e-6)


def test_nt_xent_against_a_loop() -> None:
    torch.manual_seed(0)
    one_BD, other_BD = torch.randn(5, 7), torch.randn(5, 7)
    z = [row / row.norm() for row in [*one_BD, *other_BD]]
    total = 0.0
    for i in range(10):
        scores = {j: math.exp(torch.dot(z[i], z[j]).item() / 0.3) for j in range(10) if j != i}
        total -= math.log(scores[(i + 5) % 10] / sum(scores.values()))
    assert nt_xent(one_BD, other_BD, temperature=0.3).item() == pytest.approx(total / 10, rel=1e-5)


def test_nt_xent_of_one_image_is_nothing() -> None:
    one_BD = torch.randn(1, 4, requires_grad=True)
    loss = nt_xent(one_BD, torch.randn(1, 4), temperature=0.3)
    (gradient_BD,) = torch.autograd.grad(loss, one_BD)
    assert loss.item() == 0
    assert not gradient_BD.any()


def test_nt_xent_refuses_a_temperature_of_nothing() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0; got 0"):
        nt_xent(torch.ones(1, 2), torch.ones(1, 2), temperature=0)


# noisy labels


def test_noisy_nll_by_hand() -> None:
    """Beliefs 1/2, 1/4, 1/4; a = 0.8, errors even. Label 1: 1/2 0.1 + 1/4 0.8 + 1/4 0.1 = 0.275; label 0: 0.45."""
    logits_BK = torch.tensor([[2.0, 1.0, 1.0]]).log().repeat(2, 1)
    log_noise_KK = noise_matrix(torch.zeros(3, 3), accuracy=0.8)
    loss = noise_adapted_nll(logits_BK, torch.tensor([1, 0]), log_noise_KK=log_noise_KK)
    assert loss.item() == pytest.approx(-(math.log(0.275) + math.log(0.45)) / 2, rel=1e-6)


def test_noise_rows_are_distributions_of_that_diagonal() -> None:
    torch.manual_seed(0)
    free_KK = (5 * torch.randn(4, 4)).requires_grad_()
    log_noise_KK = noise_matrix(free_KK, accuracy=0.7)
    noise_KK = log_noise_KK.exp()
    torch.testing.assert_close(noise_KK.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(noise_KK.diagonal(), torch.full((4,), 0.7))
    spread = 0.3 * F.softmax(free_KK.detach()[0, 1:], dim=0)
    torch.testing.assert_close(noise_KK[0, 1:].detach(), spread)
    (gradient_KK,) = torch.autograd.grad(log_noise_KK[:, 0].sum(), free_KK)
    assert gradient_KK.isfinite().all()
    assert not gradient_KK.diagonal().any()
    assert gradient_KK.abs().sum() > 0


def test_without_noise_it_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits_BK, labels_B = torch.randn(6, 5), torch.arange(6) % 5
    almost = noise_adapted_nll(logits_BK, labels_B, log_noise_KK=noise_matrix(torch.zeros(5, 5), accuracy=1 - 1e-7))
    torch.testing.assert_close(almost, F.cross_entropy(logits_BK, labels_B), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rows", [[[1e4, 0.0, -1e4]], [[-3e38, 3e38, 0.0]]])
def test_noisy_nll_is_finite_for_any_finite_logits(rows: list[list[float]]) -> None:
    logits_BK = torch.tensor(rows, requires_grad=True)
    loss = noise_adapted_nll(logits_BK, torch.tensor([2]), log_noise_KK=noise_matrix(torch.zeros(3, 3), accuracy=0.9))
    (gradient_BK,) = torch.autograd.grad(loss, logits_BK)
    assert loss.isfinite()
    assert gradient_BK.isfinite().all()


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_an_accuracy_that_leaves_no_noise_or_no_sense(accuracy: float) -> None:
    with pytest.raises(ValueError, match=f"accuracy must be above 0 and below 1; got {accuracy}"):
        noise_matrix(torch.zeros(2, 2), accuracy=accuracy)


# styles


def statistics(images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    return images_BCHW.mean(dim=(2, 3)), images_BCHW.std(dim=(2, 3), correction=0)


def test_mix_style_by_hand() -> None:
    """Means 2 and 6, deviations 1 and 2; lambda 1/4 of the own: mean 1/4 2 + 3/4 6 = 5, deviation 1/4 + 3/2 = 7/4."""
    images_BCHW = torch.tensor([[[[1.0, 3.0]]], [[[4.0, 8.0]]]])
    restyled = mix_style(images_BCHW, torch.tensor([1, 1]), mixing_B=torch.tensor([0.25, 0.0]), eps=0)
    assert restyled[0].flatten().tolist() == [5 - 1.75, 5 + 1.75]
    assert restyled[1].flatten().tolist() == [4, 8]


def test_mix_style_gives_the_mixed_statistics_and_keeps_the_content() -> None:
    torch.manual_seed(0)
    images_BCHW = torch.rand(3, 3, 6, 6)
    partners_B, mixing_B = torch.tensor([2, 0, 1]), torch.tensor([0.9, 0.5, 0.1])
    (mean_BC, std_BC), (new_mean_BC, new_std_BC) = (
        statistics(x) for x in (images_BCHW, mix_style(images_BCHW, partners_B, mixing_B=mixing_B, eps=0))
    )
    keep_B1 = mixing_B[:, None]
    torch.testing.assert_close(new_mean_BC, keep_B1 * mean_BC + (1 - keep_B1) * mean_BC[partners_B])
    torch.testing.assert_close(new_std_BC, keep_B1 * std_BC + (1 - keep_B1) * std_BC[partners_B])
    same = mix_style(images_BCHW, partners_B, mixing_B=torch.ones(3))
    torch.testing.assert_close(same, images_BCHW)


def test_mix_style_commutes_with_the_normaliser() -> None:
    torch.manual_seed(0)
    images_BCHW, partners_B, mixing_B = torch.rand(4, 3, 5, 5), torch.tensor([1, 2, 3, 0]), torch.rand(4)
    mean_C11, std_C11 = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    first = mix_style((images_BCHW - mean_C11) / std_C11, partners_B, mixing_B=mixing_B, eps=0)
    after = (mix_style(images_BCHW, partners_B, mixing_B=mixing_B, eps=0) - mean_C11) / std_C11
    torch.testing.assert_close(first, after, rtol=1e-4, atol=1e-5)


def test_mix_style_of_an_even_image_is_finite() -> None:
    images_BCHW = torch.full((2, 3, 4, 4), 0.5)
    assert mix_style(images_BCHW, torch.tensor([1, 0]), mixing_B=torch.tensor([0.0, 1.0])).isfinite().all()


def test_losses_are_float32_whatever_comes() -> None:
    maps, logits = torch.randn(2, 3, 4, 4).bfloat16(), torch.randn(2, 5).bfloat16()
    found = [
        hint_distance(maps, maps.flip(0)),
        weighted_alignment(maps, maps.flip(0), student_logits_BK=logits, teacher_logits_BK=logits.flip(0)),
        nt_xent(logits, logits.flip(0), temperature=0.3),
        noise_adapted_nll(logits, torch.tensor([0, 1]), log_noise_KK=noise_matrix(torch.zeros(5, 5), accuracy=0.9)),
        mix_style(maps, torch.tensor([1, 0]), mixing_B=torch.ones(2)),
    ]
    assert {value.dtype for value in found} == {torch.float32}


# relations within a batch


def test_attention_by_hand() -> None:
    """Energies (1 + 9) / 2 and (4 + 0) / 2 over their norm, against 4 and 3 over 5."""
    student_BCHW = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    teacher_BCHW = torch.tensor([[[[2.0, 3.0**0.5]]]])
    norm = math.sqrt(5**2 + 2**2)
    expected = ((5 / norm - 0.8) ** 2 + (2 / norm - 0.6) ** 2) / 2
    assert attention_distance(student_BCHW, teacher_BCHW).item() == pytest.approx(expected, rel=1e-5)


def test_similarity_by_hand() -> None:
    """Rows of A A^T: (1, 1), (1, 2) over their norms; against (1, 0), (0, 1). Sum of squares over 4."""
    a, b = 1 / math.sqrt(2), 1 / math.sqrt(5)
    expected = ((a - 1) ** 2 + a**2 + b**2 + (2 * b - 1) ** 2) / 4
    found = similarity_distance(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 3 * torch.eye(2))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_similarity_takes_maps_of_other_shapes() -> None:
    torch.manual_seed(0)
    maps = torch.randn(4, 3, 5, 5)
    assert similarity_distance(maps, maps.flatten(1)).item() == 0
    assert similarity_distance(maps, torch.randn(4, 7, 2, 2)).item() > 0


def test_neighbours_by_hand() -> None:
    """Teacher: k = 1 and (0.6 + 1) / 2 = 0.8, so p = 5/9 and 4/9. Student: k = 1 and 1/2, so 2/3 and 1/3."""
    teacher_BD = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    row = 5 / 9 * math.log(5 / 6) + 4 / 9 * math.log(4 / 3)
    assert neighbour_divergence(torch.eye(2), teacher_BD).item() == pytest.approx(2 * row / 4, rel=1e-4)


def test_distances_by_hand() -> None:
    """Over the means 4 and 1: distances 3, 4, 5 become 3/4, 1, 5/4, and 1, 1, 1 stay; twice (1/16 + 1/16) / 2 of 9."""
    student_BD = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    teacher_BD = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    assert distance_relation(student_BD, teacher_BD).item() == pytest.approx(1 / 72, rel=1e-5)
    assert distance_relation(7 * student_BD, student_BD).item() == pytest.approx(0, abs=1e-10)


def test_angles_by_hand() -> None:
    """Cosines 0, 3/5, 4/5 of the corners of a 3-4-5 triangle against 1/2 each: squares 1/4, 1/100, 9/100; 2 of 27."""
    student_BD = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    teacher_BD = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    assert angle_relation(student_BD, teacher_BD).item() == pytest.approx(2 * 0.35 / 2 / 27, rel=1e-5)
    assert angle_relation(7 * student_BD, student_BD).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(
    "loss", [attention_distance, similarity_distance, neighbour_divergence, distance_relation, angle_relation]
)
def test_gradients_are_finite_where_images_coincide(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    shape = (3, 2, 2, 2) if loss is attention_distance else (3, 4)
    student = torch.ones(shape, requires_grad=True)
    value = loss(student, torch.zeros(shape))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert loss(student.detach()[:1], student.detach()[:1]).item() == 0
    assert loss(student.bfloat16(), student.bfloat16()).dtype == torch.float32
