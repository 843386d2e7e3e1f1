"""Contrast between two views of a batch: each image's two views are to be nearer than any two images."""

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(one_BD: Tensor, other_BD: Tensor, *, temperature: float) -> Tensor:
    r"""Normalised temperature-scaled cross-entropy, averaged over the 2B views, in nats.

    .. math:: -\frac{1}{2B} \sum_{i=1}^{2B} \ln
        \frac{\exp(c_{i p(i)} / \tau)}{\sum_{j \neq i} \exp(c_{ij} / \tau)},
        \quad c_{ij} = \frac{z_i \cdot z_j}{\|z_i\| \|z_j\|}

    over the 2B rows z of both arguments, p(i) being the other view of the same image (Chen et al. 2020, A Simple
    Framework for Contrastive Learning of Visual Representations, Eq. 1 and Algorithm 1). The others are negatives, also
    those of the same view. Computed in float32.

    Args:
        one_BD: embeddings of one view of each image, of any length.
        other_BD: of the other view, row by row.
        temperature: tau > 0; 0.3 in KD3.

    Returns:
        A scalar >= 0; 0 for a batch of one image, which has no negatives.

    Example: two images whose views are equal, and at right angles to the other's: at tau = 1 each view has one
    positive at cosine 1 and two negatives at 0: -ln(e / (e + 2)) = 0.5514.

    >>> import torch
    >>> views_BD = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    >>> f"{nt_xent(views_BD, views_BD, temperature=1).item():.4f}"
    '0.5514'
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    count = len(one_BD)
    z_ND = F.normalize(torch.cat([one_BD, other_BD]).float(), dim=1)
    logits_NN = z_ND @ z_ND.T / temperature
    itself_NN = torch.eye(2 * count, dtype=torch.bool, device=logits_NN.device)
    other_view_N = torch.arange(2 * count, device=logits_NN.device).roll(count)
    return F.cross_entropy(logits_NN.masked_fill(itself_NN, -torch.inf), other_view_N)
