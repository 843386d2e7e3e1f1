"""How a wanted class enters a generator: an embedding beside or on top of its noise.

Do et al. 2022, Momentum Adversarial Distillation, section 3.2 and appendix B.3, where `sum` (the input is z + e_y)
beats `cat` ([z, e_y]) and both beat `none` on ImageNet. Ours where it is silent: embeddings begin standard normal, so
that their norm is some sqrt(d_e), just inside the bound of Eq. 8; with `cat` too d_e is the noise's dimension.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Conditioning = Literal["none", "sum", "cat"]
CONDITIONINGS: tuple[Conditioning, ...] = ("none", "sum", "cat")


class ClassEmbedding(nn.Module):
    """E of the paper: a trainable vector a class, classes_B (int64) -> (B, dim)."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim))

    def forward(self, classes_B: Tensor) -> Tensor:
        """embeddings_BE."""
        return self.weight.index_select(0, classes_B)


def input_width(z_dim: int, conditioning: Conditioning) -> int:
    """How many numbers a generator takes for noise of ``z_dim``."""
    return 2 * z_dim if conditioning == "cat" else z_dim


def conditioned(z_BZ: Tensor, embeddings_BE: Tensor, conditioning: Conditioning) -> Tensor:
    """A generator's input: z + e (B, Z), or both side by side (B, Z + E).

    >>> z, e = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])
    >>> conditioned(z, e, "sum").tolist(), conditioned(z, e, "cat").tolist()
    ([[11.0, 22.0]], [[1.0, 2.0, 10.0, 20.0]])
    """
    return torch.cat([z_BZ, embeddings_BE], dim=1) if conditioning == "cat" else z_BZ + embeddings_BE
