"""How sure a teacher is of each image, and how evenly it spreads a batch over the classes.

The two are in different units because the source publishes them so: `sample_entropy` in nats, `class_balance` in bits.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LOG_ZERO = -200.0  # exp of it is exactly 0 in float32 (whose least log is -104), and 0 * it is 0 where 0 * -inf is NaN


def sample_entropy(logits_BK: Tensor) -> Tensor:
    r"""Mean over the batch of the softmax entropy, in nats: MosaicKD's `align` term.

    .. math:: \frac{1}{B} \sum_b H(p_b), \quad H(p) = -\sum_k p_k \ln p_k

    Minimised by a generator, it asks for images of which the teacher is sure (Fang et al. 2021, Mosaicking to Distill).
    Value and gradient are finite for any finite logits. Computed in float32.

    Args:
        logits_BK: the teacher's, before softmax.

    Returns:
        A scalar in [0, ln K].

    Example: one image split evenly over two of three classes (ln 2) and one wholly in one class (0).

    >>> import torch
    >>> f"{sample_entropy(torch.tensor([[0.0, 0.0, -1e9], [1e9, 0.0, 0.0]])).item():.4f}"
    '0.3466'
    """
    log_p_BK = _log_probabilities(logits_BK)
    return -(log_p_BK.exp() * log_p_BK).sum(dim=1).mean()


def class_balance(logits_BK: Tensor) -> Tensor:
    r"""Negative entropy of the batch's mean prediction, in bits: MosaicKD's `balance` term.

    .. math:: \sum_k \bar p_k \log_2 \bar p_k, \quad \bar p = \frac{1}{B} \sum_b p_b

    Minimised by a generator, it spreads a batch over the classes (Fang et al. 2021, supplement, Eq. 1; base 2 as in
    the published objective). Value and gradient are finite for any finite logits. Computed in float32.

    Args:
        logits_BK: the teacher's, before softmax.

    Returns:
        A scalar in [-log2 K, 0]; lowest where the classes are even.

    Example: two sure images in two of four classes are worth -1 bit.

    >>> import torch
    >>> f"{class_balance(torch.tensor([[1e9, 0, 0, 0], [0, 1e9, 0, 0]])).item():.4f}"
    '-1.0000'
    """
    log_p_BK = _log_probabilities(logits_BK)
    log_mean_K = torch.logsumexp(log_p_BK, dim=0) - math.log(len(log_p_BK))
    return (log_mean_K.exp() * log_mean_K).sum() / math.log(2)


def _log_probabilities(logits_BK: Tensor) -> Tensor:
    """Log softmax in float32, bounded below where the probability has underflowed to 0 anyway."""
    return F.log_softmax(logits_BK.float(), dim=1).clamp_min(_LOG_ZERO)
