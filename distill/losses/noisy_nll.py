"""The student's likelihood of labels that are known to be wrong at times."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def noise_adapted_nll(logits_BK: Tensor, labels_B: Tensor, *, log_noise_KK: Tensor) -> Tensor:
    r"""Negative log-likelihood of noisy labels given the student's belief of the true ones, mean over the batch, nats.

    .. math:: -\frac{1}{B} \sum_b \ln \sum_k p_{bk} Q_{k y_b}, \quad p = \mathrm{softmax}(u)

    with Q_kc the chance that class k is labelled c (Chen et al. 2021, Learning Student Networks in the Wild, DFND's
    noise adaptation; after Goldberger and Ben-Reuven 2017). Summed in logarithms, so finite for any finite logits.
    Computed in float32.

    Args:
        logits_BK: u, the student's, before softmax.
        labels_B: y, the teacher's answers, int64.
        log_noise_KK: ln Q, see `noise_matrix`.

    Returns:
        A scalar >= 0.

    Example: p = (3/4, 1/4) and Q = ((0.8, 0.2), (0.4, 0.6)): the label 0 has 3/4 0.8 + 1/4 0.4 = 0.7.

    >>> import torch
    >>> student_BK, q_KK = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    >>> f"{noise_adapted_nll(student_BK, torch.tensor([0]), log_noise_KK=q_KK.log()).exp().item():.4f}"
    '1.4286'
    """
    log_p_BK = F.log_softmax(logits_BK.float(), dim=1)
    return -torch.logsumexp(log_p_BK + log_noise_KK.T[labels_B], dim=1).mean()


def noise_matrix(free_KK: Tensor, *, accuracy: float) -> Tensor:
    r"""Logarithm of Q: a teacher of that accuracy is right on the diagonal; how its errors spread is learned.

    .. math:: Q_{kk} = a, \quad Q_{kc} = (1 - a) \mathrm{softmax}_{c \neq k}(v_{kc})

    The diagonal as in DFND (Chen et al. 2021); the softmax, which keeps every row a distribution, is ours.

    Args:
        free_KK: v, of which the diagonal is not used; zeros spread errors evenly.
        accuracy: a, in (0, 1).

    Returns:
        log_noise_KK, float32.

    Example:
    >>> import torch
    >>> [round(q, 4) for q in noise_matrix(torch.zeros(3, 3), accuracy=0.9).exp()[1].tolist()]
    [0.05, 0.9, 0.05]
    """
    if not 0 < accuracy < 1:
        raise ValueError(f"accuracy must be above 0 and below 1; got {accuracy}")
    right_KK = torch.eye(len(free_KK), dtype=torch.bool, device=free_KK.device)
    spread_KK = F.log_softmax(free_KK.float().masked_fill(right_KK, -torch.inf), dim=1)
    return (spread_KK + math.log(1 - accuracy)).masked_fill(right_KK, math.log(accuracy))
