"""How far a student's map is from the teacher's."""

from torch import Tensor
from torch.nn import functional as F


def hint_distance(student_BChw: Tensor, teacher_BCHW: Tensor) -> Tensor:
    r"""Mean squared difference over batch, channels and positions.

    .. math:: \frac{1}{BCHW} \sum_{b,j} (f^S_{bj} - f^T_{bj})^2

    Romero et al. 2015, FitNets: Hints for Thin Deep Nets, Eq. 3, which has half the sum over channels and positions;
    the mean over them is that of Tian et al. 2020, Contrastive Representation Distillation, whose weight of 100
    supposes it. Where the maps differ in size the larger is pooled. Computed in float32.

    Args:
        student_BChw: of the guided layer, through the regressor: of as many channels as the teacher's.
        teacher_BCHW: of the hint layer.

    Returns:
        A scalar >= 0.

    Example: the student's 1x2 map averages to 2 where the teacher's 1x1 has 5.

    >>> import torch
    >>> hint_distance(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[5.0]]]])).item()
    9.0
    """
    return F.mse_loss(*pooled_to_match(student_BChw.float(), teacher_BCHW.float()))


def pooled_to_match(one_BChw: Tensor, other_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and the smaller width, by averaging; untouched where they agree."""
    size = (min(one_BChw.shape[2], other_BCHW.shape[2]), min(one_BChw.shape[3], other_BCHW.shape[3]))
    one, other = (m if m.shape[2:] == size else F.adaptive_avg_pool2d(m, size) for m in (one_BChw, other_BCHW))
    return one, other
