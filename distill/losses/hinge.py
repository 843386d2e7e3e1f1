"""A bound on numbers that would otherwise run away: nothing inside it, the excess outside."""

from torch import Tensor


def magnitude_hinge(values: Tensor, *, bound: float) -> Tensor:
    r"""Mean excess of the magnitude over a bound, over all elements, in the unit of the values.

    .. math:: \frac{1}{N} \sum_i \max(|v_i| - b, 0)

    The additional regularisation of Do et al. 2022, Momentum Adversarial Distillation, Eq. 10 and 11: on the student's
    and the teacher's logits (bound delta) and on a generator's output before its sigmoid (bound nu), so that no loss
    becomes NaN when logits grow too big. The mean over elements is ours: the paper has a vector where a number belongs
    and says no reduction. Computed in float32; the gradient of an element is its sign / N outside, 0 inside.

    Args:
        values: of any shape, N elements.
        bound: b >= 0; 20 in all of the paper's settings (Table 6).

    Returns:
        A scalar >= 0.

    Example: of 21, -23, 20 and 0 two exceed 20, by 1 and by 3.

    >>> import torch
    >>> magnitude_hinge(torch.tensor([[21.0, -23.0], [20.0, 0.0]]), bound=20).item()
    1.0
    """
    return (values.float().abs() - bound).clamp_min(0).mean()
