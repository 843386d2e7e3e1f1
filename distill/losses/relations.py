"""How the images of a batch lie to each other: distances of pairs and angles of triples, whatever the scale."""

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-12  # below which a squared distance is taken for 0, where its root has no gradient


def distance_relation(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    r"""Huber loss of the distances of all pairs, each over the mean of its batch; mean over the B^2 pairs.

    .. math:: \frac{1}{B^2} \sum_{i,j} \ell\left(\frac{d^T_{ij}}{\mu^T}, \frac{d^S_{ij}}{\mu^S}\right), \quad
        d_{ij} = \|f_i - f_j\|_2

    with mu the mean of all d > 0, and l(a, b) = (a - b)^2 / 2 up to 1 and |a - b| - 1/2 beyond (RKD-D: Park et al.
    2019, Relational Knowledge Distillation, section 3.2.1; an image with itself is a pair too, as in the authors'
    code). Features may differ in length. Computed in float32.

    Args:
        student_BD: the input of its last linear layer.
        teacher_BD: likewise, constant.

    Returns:
        A scalar >= 0; 0 for a batch of one. Tian et al. 2020 weigh it by 25.

    Example: three points at 0, 1, 2 and at 0, 2, 2. Over their means, 4/3 and 2, the three distances are 3/4, 3/2, 3/4
    and 1, 1, 0: each twice of nine pairs, 2/9 (1/16 + 1/4 + 9/16) / 2.

    >>> import torch
    >>> f"{distance_relation(torch.tensor([[0.0], [2], [2]]), torch.tensor([[0.0], [1], [2]])).item():.4f}"
    '0.0972'
    """
    return F.smooth_l1_loss(_distances(student_BD), _distances(teacher_BD))


def angle_relation(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    r"""Huber loss of the cosines of the angles of all triples of images; mean over the B^3 triples.

    .. math:: \frac{1}{B^3} \sum_{i,j,k} \ell(\cos^T_{ijk}, \cos^S_{ijk}), \quad
        \cos_{ijk} = \frac{(f_j - f_i) \cdot (f_k - f_i)}{\|f_j - f_i\| \|f_k - f_i\|}

    with l as in `distance_relation`, 0 where two of the three coincide (RKD-A: Park et al. 2019,
    section 3.2.2).

    Args:
        student_BD: the input of its last linear layer.
        teacher_BD: likewise, constant.

    Returns:
        A scalar >= 0; 0 for a batch of one. Tian et al. 2020 weigh it by 50.

    Example: of three points, on a line or at the corners of a triangle with equal sides, where cosines of -1, 1, 1
    become 1/2: two triples (j, k and k, j) differ by 3/2, worth 1, and four by 1/2, worth 1/8, of 27.

    >>> import torch
    >>> triangle_BD = torch.tensor([[0.0, 0], [1, 0], [0.5, 0.75**0.5]])
    >>> f"{angle_relation(triangle_BD, torch.tensor([[0.0], [1], [2]])).item():.4f}"
    '0.0926'
    """
    return F.smooth_l1_loss(_cosines(student_BD), _cosines(teacher_BD))


def _distances(features_BD: Tensor) -> Tensor:
    """Of all pairs, over their mean; float32."""
    rows_BD = features_BD.float()
    square_BB = (rows_BD[:, None] - rows_BD[None]).square().sum(dim=2)
    apart_BB = square_BB > _EPS
    distance_BB = square_BB.clamp_min(_EPS).sqrt() * apart_BB
    return distance_BB / (distance_BB.sum() / apart_BB.sum().clamp_min(1)).clamp_min(_EPS)


def _cosines(features_BD: Tensor) -> Tensor:
    """Of the angles at i between j and k; float32."""
    rows_BD = features_BD.float()
    unit_BBD = F.normalize(rows_BD[None] - rows_BD[:, None], dim=2)
    return torch.bmm(unit_BBD, unit_BBD.transpose(1, 2))
