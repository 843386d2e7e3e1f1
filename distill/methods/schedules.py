"""Learning rates as pure functions of the step, so that no scheduler has state that a checkpoint could forget."""

import math

WARM_UP = 0.2  # of a one-cycle run (Smith and Topin 2018 take 0.3 to 0.5; short runs want more of the decline)


def cosine(step: int, steps: int) -> float:
    """Factor from 1 at step 0 to 0 at ``steps``: cosine annealing without restarts, per iteration (SGDR, Eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def one_cycle(step: int, steps: int) -> float:
    """Factor from 0.04 up to 1 within the first fifth, then by a cosine to 0 (super-convergence)."""
    warm = max(1.0, WARM_UP * steps)
    if step < warm:
        return 0.04 + 0.96 * step / warm
    return cosine(step - int(warm), max(1, steps - int(warm)))
