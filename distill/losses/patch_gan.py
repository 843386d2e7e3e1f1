"""The two sides of a patch GAN: every position of the map is one real-or-fake question.

Both sum over the map and divide by the batch only, as MosaicKD publishes them: at 32 pixels that is 64 times what a
mean over all elements gives, and the published weight of 1 supposes it.
"""

from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(fake_map_B1hw: Tensor, real_map_B1hw: Tensor) -> Tensor:
    r"""Half the sum of its cross-entropies on fake and real, in nats, summed over the map, averaged over the batch.

    .. math:: -\frac{1}{2B} \sum_{b,i} \ln(1 - \sigma(f_{bi})) - \frac{1}{2B} \sum_{b,i} \ln \sigma(r_{bi})

    with logits f of fake and r of real images at position i. The inner maximisation of Fang et al. 2021, supplement,
    Eq. 5, as a loss, over patches, halved.

    Args:
        fake_map_B1hw: logits of generated images (detach these from the generator).
        real_map_B1hw: logits of real images; its batch size may differ.

    Returns:
        A scalar >= 0; h w ln 2 where the discriminator cannot tell.

    Example: a 1 x 2 map of zeros on both sides is (2 ln 2 + 2 ln 2) / 2.

    >>> import torch
    >>> f"{discriminator_loss(torch.zeros(5, 1, 1, 2), torch.zeros(3, 1, 1, 2)).item():.4f}"
    '1.3863'
    """
    # -ln(1 - sigma(d)) = softplus(d) and -ln sigma(d) = softplus(-d): cross-entropy with logits
    return (_per_image(F.softplus(fake_map_B1hw.float())) + _per_image(F.softplus(-real_map_B1hw.float()))) / 2


def generator_loss(fake_map_B1hw: Tensor) -> Tensor:
    r"""Cross-entropy of fake patches with the answer "real", in nats, summed over the map, averaged over the batch.

    .. math:: \frac{1}{B} \sum_{b,i} -\ln \sigma(d_{bi})

    The non-saturating form of Fang et al. 2021, supplement, Eq. 5 (MosaicKD's `local` term).

    Args:
        fake_map_B1hw: the discriminator's logits of generated images.

    Returns:
        A scalar >= 0; h w ln 2 where the discriminator cannot tell.

    Example: -ln sigma(ln 3) = ln(4/3) at each of four positions.

    >>> import torch
    >>> f"{generator_loss(torch.full((7, 1, 2, 2), 3.0).log()).item():.4f}"
    '1.1507'
    """
    return _per_image(F.softplus(-fake_map_B1hw.float()))


def _per_image(losses_B1hw: Tensor) -> Tensor:
    return losses_B1hw.sum() / len(losses_B1hw)
