"""A bound on the length of class embeddings, beyond which a generator's classes could run away from its noise."""

import math

import torch
from torch import Tensor


def norm_hinge(embeddings_BE: Tensor, *, gamma: float) -> Tensor:
    r"""Mean excess of an embedding's Euclidean norm over gamma times the root of its dimension.

    .. math:: \frac{1}{B} \sum_b \max(\lVert e_b \rVert_2 - \gamma \sqrt{d_e}, 0)

    Do et al. 2022, Momentum Adversarial Distillation, Eq. 8 (the expectation over classes is that of Eq. 6): d_e
    standard normal numbers have a norm of some sqrt(d_e), and clusters of that radius around the embeddings should find
    room side by side in the ball that this bounds (its appendix C). Computed in float32.

    Args:
        embeddings_BE: those of the classes of a batch.
        gamma: at least 1; 1.1 in the paper's settings (Table 6).

    Returns:
        A scalar >= 0. The gradient at an embedding of zeros is 0.

    Example: of (3, 4, 0, 0) and (1, 0, 0, 0) the first is 5 long, 3 over the bound of 1 * sqrt(4).

    >>> import torch
    >>> norm_hinge(torch.tensor([[3.0, 4.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]), gamma=1).item()
    1.5
    """
    norm_B: Tensor = torch.linalg.vector_norm(embeddings_BE.float(), dim=1)
    return (norm_B - gamma * math.sqrt(embeddings_BE.shape[1])).clamp_min(0).mean()
