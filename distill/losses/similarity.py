"""Which images of a batch two networks find alike."""

from torch import Tensor
from torch.nn import functional as F


def similarity_distance(student_BChw: Tensor, teacher_BCHW: Tensor) -> Tensor:
    r"""Mean squared difference of the row-normalised similarities of a batch.

    .. math:: \frac{1}{B^2} \| \bar G^S - \bar G^T \|_F^2, \quad G = A A^\top, \quad
        \bar G_{i} = \frac{G_i}{\|G_i\|_2}

    with A the flattened maps, one image a row (SP: Tung and Mori 2019, Similarity-Preserving Knowledge Distillation,
    Eq. 1-4). The maps may differ in channels and size; features (B, D) do as well. Computed in float32.

    Args:
        student_BChw: or features_BD.
        teacher_BCHW: or features_BD.

    Returns:
        A scalar in [0, 4 / B]; the paper weighs it by 3,000.

    Example: to the student two images are at right angles, to the teacher the same: rows (1, 0) and (1, 1) / sqrt 2.

    >>> import torch
    >>> f"{similarity_distance(torch.eye(2), torch.ones(2, 3)).item():.4f}"
    '0.2929'
    """
    student_BB, teacher_BB = (_similarities(maps) for maps in (student_BChw, teacher_BCHW))
    return (student_BB - teacher_BB).square().mean()


def _similarities(maps: Tensor) -> Tensor:
    rows_BN = maps.float().flatten(1)
    return F.normalize(rows_BN @ rows_BN.T, dim=1)
