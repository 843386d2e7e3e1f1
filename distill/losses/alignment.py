"""Maps drawn to the teacher's, the more the less the two agree on an image."""

from torch import Tensor

from distill.losses.hint import pooled_to_match


def weighted_alignment(
    student_BChw: Tensor, teacher_BCHW: Tensor, *, student_logits_BK: Tensor, teacher_logits_BK: Tensor
) -> Tensor:
    r"""Squared distance of maps, weighed by the disagreement of logits; mean over batch, channels and positions.

    .. math:: \frac{1}{B} \sum_b \sigma(\|s_b - t_b\|_2) \frac{1}{CHW} \sum_j (f^S_{bj} - f^T_{bj})^2

    with logits s and t. The weight, from 1/2 where they agree to 1, is a constant: no gradient passes through it. This
    is KD3's feature alignment (Tang et al. 2023, Distribution Shift Matters for Knowledge Distillation with Webly
    Collected Images; from its code). Where the maps differ in size the larger is pooled. Computed in float32.

    Args:
        student_BChw: of as many channels as the teacher's.
        teacher_BCHW: constant.
        student_logits_BK: s, before softmax.
        teacher_logits_BK: t, likewise.

    Returns:
        A scalar >= 0.

    Example: logits at distance ln 3 weigh sigma(ln 3) = 3/4; the maps differ by 2 at one of two positions.

    >>> import torch
    >>> maps = torch.zeros(1, 1, 1, 2), torch.tensor([[[[2.0, 0.0]]]])
    >>> logits = {"student_logits_BK": torch.zeros(1, 2), "teacher_logits_BK": torch.tensor([[3.0, 1.0]]).log()}
    >>> f"{weighted_alignment(*maps, **logits).item():.4f}"
    '1.5000'
    """
    student_BCHW, teacher_BCHW = pooled_to_match(student_BChw.float(), teacher_BCHW.float())
    apart_B = (student_logits_BK - teacher_logits_BK).detach().float().square().sum(dim=1).sqrt()
    return (apart_B.sigmoid() * (student_BCHW - teacher_BCHW).square().mean(dim=(1, 2, 3))).mean()
