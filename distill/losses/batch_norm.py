"""What a teacher's batch norms remember of its training data, as a target for images that have to look like it."""

from collections.abc import Iterable

import torch
from torch import Tensor

from distill.models.view import Moments


def moment_matching(layers: Iterable[Moments]) -> Tensor:
    r"""Squared distance of a batch's feature moments from the remembered ones, summed over channels and layers.

    .. math:: \sum_\ell \lVert \mu_\ell - \bar\mu_\ell \rVert_2^2 + \lVert \omega_\ell - \bar\omega_\ell \rVert_2^2

    with mean mu and variance omega of what enters batch norm l, over images and positions, and their running values
    (barred). Yin et al. 2020 (DeepInversion) in the form of Do et al. 2022, Momentum Adversarial Distillation, Eq. 9:
    squared, and neither divided by channels nor by layers. The variance is the biased one, by which batch norm itself
    divides (ours: the paper says "empirical"). Computed in float32; gradients reach the images through the moments.

    Args:
        layers: at least one; `TeacherView.batch_norm` has them by name while `watch(batch_norm=True)` lasts.

    Returns:
        A scalar >= 0, 0 where all moments agree.

    Example: one layer of two channels: means off by 1 and 2, variances by 0 and 1/2: 1 + 4 + 1/4.

    >>> import torch
    >>> mean_C, var_C = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.5])
    >>> layer = Moments(mean_C=mean_C, var_C=var_C, running_mean_C=torch.zeros(2), running_var_C=torch.ones(2))
    >>> moment_matching([layer]).item()
    5.25
    """
    return torch.stack(
        [
            (layer.mean_C - layer.running_mean_C).square().sum() + (layer.var_C - layer.running_var_C).square().sum()
            for layer in layers
        ]
    ).sum()
