"""Knowledge distillation's loss: how far the student's softened answer is from the teacher's."""

from torch import Tensor
from torch.nn import functional as F


def kl_divergence(teacher_logits_BK: Tensor, student_logits_BK: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Softened KL(T||S), summed over classes and averaged over the batch, in nats, times the squared temperature.

    .. math:: \frac{\tau^2}{B} \sum_{b,k} p^T_{bk} (\ln p^T_{bk} - \ln p^S_{bk}), \quad p = \mathrm{softmax}(u / \tau)

    The factor tau^2 keeps the gradient's size as tau grows (Hinton, Vinyals and Dean 2015, Distilling the Knowledge in
    a Neural Network, section 2). "batchmean": K times what a mean over all elements gives. Gradients reach both
    arguments (logits u), because a generator ascends this loss through teacher and student alike. Computed in float32.

    Args:
        teacher_logits_BK: before softmax.
        student_logits_BK: before softmax, of the same shape.
        temperature: tau > 0; 1 in MosaicKD's student and adversarial steps, 5 in its KD baseline.

    Returns:
        A scalar >= 0, 0 where the two agree.

    Example: p^T = (3/4, 1/4), p^S = (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308 nats.

    >>> import torch
    >>> teacher, student = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    >>> f"{kl_divergence(teacher, student).item():.4f}"
    '0.1308'
    >>> f"{kl_divergence(2 * teacher, 2 * student, temperature=2).item():.4f}"
    '0.5232'
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    log_t_BK = F.log_softmax(teacher_logits_BK.float() / temperature, dim=1)
    log_s_BK = F.log_softmax(student_logits_BK.float() / temperature, dim=1)
    return (log_t_BK.exp() * (log_t_BK - log_s_BK)).sum(dim=1).mean() * temperature**2
