"""How far a teacher is from seeing in an image the class that was asked for."""

from torch import Tensor
from torch.nn import functional as F


def class_nll(logits_BK: Tensor, classes_B: Tensor) -> Tensor:
    r"""Negative log-likelihood of the wanted class, averaged over the batch, in nats.

    .. math:: -\frac{1}{B} \sum_b \ln p_b[y_b], \quad p = \mathrm{softmax}(u)

    Do et al. 2022, Momentum Adversarial Distillation, Eq. 7: it holds a class-conditional generator to its class
    through a whole stage, and with classes drawn evenly it spreads what is made over them. Computed in float32.

    Args:
        logits_BK: u, the teacher's, before softmax.
        classes_B: y, int64.

    Returns:
        A scalar >= 0; ln K for a teacher that cannot tell.

    Example: -ln(3/4) = 0.2877 and -ln(1/4) = 1.3863, on average 0.8370.

    >>> import torch
    >>> f"{class_nll(torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log(), torch.tensor([0, 1])).item():.4f}"
    '0.8370'
    """
    return F.cross_entropy(logits_BK.float(), classes_B)
