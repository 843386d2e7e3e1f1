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


def step_down(step: int, steps: int) -> float:
    """Factor 1, then 0.1 from half and 0.01 from three quarters of the run (80 and 120 of 160 epochs: MAD, Table 4)."""
    return 0.1 ** sum(step >= at * steps for at in (1 / 2, 3 / 4))


def step_thirds(step: int, steps: int) -> float:
    """Factor 1, then 0.1 from a third and 0.01 from two thirds of the run (30, 60 of 90; 100, 200 of 300: MAD)."""
    return 0.1 ** sum(step >= at * steps for at in (1 / 3, 2 / 3))


def step_fifths(step: int, steps: int) -> float:
    """Factor 1, then 0.1 from two and 0.01 from four fifths of the run (320 and 640 of 800 epochs: DFND)."""
    return 0.1 ** sum(step >= at * steps for at in (2 / 5, 4 / 5))


def step_eighths(step: int, steps: int) -> float:
    """Factor 1, then 0.1, 0.01 and 0.001 from five, six and seven eighths (150, 180 and 210 of 240 epochs: KD3)."""
    return 0.1 ** sum(step >= at * steps for at in (5 / 8, 6 / 8, 7 / 8))


def constant(step: int, steps: int) -> float:  # noqa: ARG001  # as all schedules are called
    """Factor 1 throughout (MAD on its large sets, Table 6)."""
    return 1.0


SCHEDULES = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "step_down": step_down,
    "step_thirds": step_thirds,
    "step_fifths": step_fifths,
    "step_eighths": step_eighths,
    "constant": constant,
}


def warmed(schedule: str, step: int, steps: int, *, warm: int) -> float:
    """A schedule's factor, multiplied by a linear rise over the first ``warm`` steps."""
    return SCHEDULES[schedule](step, steps) * min(1.0, (step + 1) / warm if warm else 1.0)
