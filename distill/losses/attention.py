"""Where two networks look: the energy of their maps over the positions."""

from torch import Tensor
from torch.nn import functional as F

from distill.losses.hint import pooled_to_match


def attention_distance(student_BChw: Tensor, teacher_BCHW: Tensor) -> Tensor:
    r"""Mean squared difference of normalised attention maps, over batch and positions.

    .. math:: \frac{1}{BHW} \sum_{b,j} \left( \frac{q^S_{bj}}{\|q^S_b\|_2} - \frac{q^T_{bj}}{\|q^T_b\|_2} \right)^2,
        \quad q_{bj} = \frac{1}{C} \sum_c f_{bcj}^2

    for one pair of maps; their losses are added (AT: Zagoruyko and Komodakis 2017, Paying More Attention to Attention,
    Eq. 2, with the squares and the mean of the authors' code). The channels may differ in number, and where the sizes
    differ the larger map is pooled. Computed in float32.

    Args:
        student_BChw: the end of a stage.
        teacher_BCHW: the end of the same stage.

    Returns:
        A scalar in [0, 4 / HW]; Tian et al. 2020 weigh the sum over stages by 1,000.

    Example: one looks at the first of two positions, the other at both: (1 - 0.6)^2 and (0 - 0.8)^2, halved.

    >>> import torch
    >>> looks_there = torch.tensor([[[[2.0, 0.0]]]])
    >>> looks_at_both = torch.tensor([3.0, 4.0]).sqrt().view(1, 1, 1, 2)
    >>> f"{attention_distance(looks_there, looks_at_both).item():.4f}"
    '0.4000'
    """
    maps = pooled_to_match(student_BChw.float(), teacher_BCHW.float())
    student_BN, teacher_BN = (F.normalize(map_BCHW.square().mean(dim=1).flatten(1), dim=1) for map_BCHW in maps)
    return (student_BN - teacher_BN).square().mean()
