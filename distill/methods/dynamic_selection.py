"""KD3's choice of images for an epoch: those that teacher and student together are sure of, class by class.

From the code of Tang et al. 2023, Distribution Shift Matters for Knowledge Distillation with Webly Collected Images.
"""

import math

from torch import Tensor


def teacher_share(epoch: int, *, fall: float = 5.0, span: float = 160, until: float = 120) -> float:
    """Weight a of the teacher's logits in the combined ones, a T + (1 - a) S: 1 - exp(-fall ((e + 1) / span - 1)^2).

    From epoch ``until`` on it is 0, and the student chooses alone.

    >>> [round(teacher_share(epoch), 3) for epoch in (0, 79, 119, 120)]
    [0.993, 0.713, 0.268, 0.0]
    """
    return 1 - math.exp(-fall * ((epoch + 1) / span - 1) ** 2) if epoch < until else 0.0


def chosen(confidence_N: Tensor, class_N: Tensor, *, threshold: float) -> Tensor:
    """Which images to keep, (N,): those surer than threshold beta / (2 - beta), beta from 0 to 1 by class.

    beta_c = n_c / max n, with n_c images that fall in class c: of a rare class less is asked, so that it is not lost.

    Args:
        confidence_N: the largest probability of each image.
        class_N: whose it is, int64.
        threshold: asked of the class that most images fall in; 0.95 in KD3.

    >>> import torch
    >>> confidence_N, class_N = torch.tensor([0.99, 0.9, 0.4, 0.3]), torch.tensor([0, 0, 1, 1])
    >>> chosen(confidence_N, class_N, threshold=0.95).tolist()  # both classes have two: 0.95 is asked
    [True, False, False, False]
    >>> chosen(confidence_N, torch.tensor([0, 0, 0, 1]), threshold=0.9).tolist()  # of the rare class 0.9 / 5
    [True, False, False, True]
    """
    count_K = class_N.bincount()
    beta_K = count_K / count_K.max()
    # not > : a confidence that is not a number is kept, for the loop to find and name what broke
    return ~(confidence_N <= (threshold * beta_K / (2 - beta_K))[class_N])
