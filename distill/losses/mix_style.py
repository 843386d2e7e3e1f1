"""Images in the style of others: the same content under other means and contrasts of the colours.

Not a loss but what one is computed on: KD3's MixDistribution contrasts a batch with itself so restyled.
"""

from torch import Tensor


def mix_style(images_BCHW: Tensor, partners_B: Tensor, *, mixing_B: Tensor, eps: float = 1e-6) -> Tensor:
    r"""Images whose mean and standard deviation per channel are mixed with those of another image of the batch.

    .. math:: \tilde x_b = \tilde\sigma_b \frac{x_b - \mu_b}{\sigma_b} + \tilde\mu_b,
        \quad \tilde\mu_b = \lambda_b \mu_b + (1 - \lambda_b) \mu_{\pi(b)},
        \quad \tilde\sigma_b = \lambda_b \sigma_b + (1 - \lambda_b) \sigma_{\pi(b)}

    with mu and sigma over the positions of each image and channel (Zhou et al. 2021, Domain Generalization with
    MixStyle, Eq. 3 to 6, there on maps; on pixels in KD3, Tang et al. 2023, from its code). It commutes with the
    teacher's normaliser but for eps, so the unit of the images is of no matter. What comes out may leave [0, 1] and is
    not clipped. Computed in float32.

    Args:
        images_BCHW: float.
        partners_B: pi, int64 row numbers: whose statistics are mixed in.
        mixing_B: lambda in [0, 1]; 1 leaves an image as it is. Beta(0.1, 0.1) in both papers.
        eps: added to variances.

    Returns:
        restyled_BCHW, float32.

    Example: an image of mean 1 and deviation 1 in the style of one of mean 5 and deviation 3, halfway: 3 and 2.

    >>> import torch
    >>> images = torch.tensor([[[[0.0, 2.0]]], [[[2.0, 8.0]]]])
    >>> restyled = mix_style(images, torch.tensor([1, 0]), mixing_B=torch.tensor([0.5, 1.0]), eps=0)
    >>> restyled.flatten().tolist()
    [1.0, 5.0, 2.0, 8.0]
    """
    x_BCHW, keep_B111 = images_BCHW.float(), mixing_B.float().view(-1, 1, 1, 1)
    mean_BC11 = x_BCHW.mean(dim=(2, 3), keepdim=True)
    std_BC11 = (x_BCHW.var(dim=(2, 3), correction=0, keepdim=True) + eps).sqrt()
    new_mean_BC11 = keep_B111 * mean_BC11 + (1 - keep_B111) * mean_BC11[partners_B]
    new_std_BC11 = keep_B111 * std_BC11 + (1 - keep_B111) * std_BC11[partners_B]
    return (x_BCHW - mean_BC11) / std_BC11 * new_std_BC11 + new_mean_BC11
