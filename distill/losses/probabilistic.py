"""How probable each image of a batch is as a neighbour of each other, to two networks."""

from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-7  # added within logarithms, as in the authors' code


def neighbour_divergence(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    r"""Divergence of the neighbour probabilities, mean over all pairs of images, in nats.

    .. math:: \frac{1}{B^2} \sum_{i,j} p^T_{ij} \ln \frac{p^T_{ij}}{p^S_{ij}}, \quad
        p_{ij} = \frac{k_{ij}}{\sum_m k_{im}}, \quad k_{ij} = \frac{1}{2} \left(
        \frac{f_i \cdot f_j}{\|f_i\| \|f_j\|} + 1 \right)

    with features f (PKT: Passalis and Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer,
    section 3; an image is a neighbour of itself too, and the mean is over B^2, as in the authors' code). Features may
    differ in length. Computed in float32.

    Args:
        student_BD: the input of its last linear layer.
        teacher_BD: likewise.

    Returns:
        A scalar; 0 where the two agree. Tian et al. 2020 weigh it by 30,000.

    Example: to the teacher two images are opposites, k = 1 and 0; to the student at right angles, 1 and 1/2: of four
    pairs two have ln(1 / (2/3)) and two 0.

    >>> import torch
    >>> opposite_BD = torch.tensor([[1.0], [-1.0]])
    >>> f"{neighbour_divergence(torch.eye(2), opposite_BD).item():.4f}"
    '0.2027'
    """
    student_BB, teacher_BB = _probabilities(student_BD), _probabilities(teacher_BD)
    return (teacher_BB * ((teacher_BB + _EPS) / (student_BB + _EPS)).log()).mean()


def _probabilities(features_BD: Tensor) -> Tensor:
    unit_BD = F.normalize(features_BD.float(), dim=1)
    kernel_BB = (unit_BD @ unit_BD.T + 1) / 2
    return kernel_BB / kernel_BB.sum(dim=1, keepdim=True)
