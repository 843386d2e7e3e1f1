"""What MAD's second generator costs: the time of a stage over ABM's, at equal images an update and as published.

    python benchmarks/mad.py [--batch 64] [--stages 3] [--shorten 3] [--threads 1] [--out benchmarks/results/mad.json]

A stage of the published settings is 3 updates of the generator, then 60 of the student (`wrn40_2` to `wrn16_1`); with
``--shorten N`` it is an Nth of both, which is hard on MAD, whose average moves once a stage. ``equal`` is
``--set budget=equal``: half of an update's images from each generator, as many in all as ABM has; ``published`` has a
batch from each, so twice as many. Claim: at most +10 % at equal images. The paper says +40 % as published (section 6).
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import fresh_teacher, parser_of, rates, ratio, state, take_turns
from distill.device import choose_device, choose_dtype
from distill.methods import METHODS
from distill.run import Place, RunConfig, fresh_method

TEACHER, STUDENT = "wrn40_2", "wrn16_1"
STAGES = 15_000  # of the schedule, of which a benchmark sees the first
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "abm": ("abm", {}),
    "equal": ("mad", {"budget": "equal"}),
    "published": ("mad", {"budget": "published"}),
}


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--stages", type=int, default=3, help="of each side")
    parser.add_argument("--shorten", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    options.dtype = choose_dtype(options.dtype, device)
    steps = {"generator_steps": 3 // options.shorten, "student_steps": 60 // options.shorten}
    with tempfile.TemporaryDirectory() as name:
        teacher = fresh_teacher(Path(name), TEACHER, dtype=options.dtype, device=device)
        sides = {}
        for side, (method, settings) in SIDES.items():
            config = METHODS[method].config_class(batch_size=options.batch, **steps, **settings)
            run = RunConfig(method=method, student=STUDENT, config=config, dtype=options.dtype)
            built = fresh_method(run, teacher, steps=STAGES, place=Place(device=device))
            numbers = iter(range(STAGES))
            sides[side] = lambda built=built, numbers=numbers: built.step([], next(numbers))
        times = take_turns(sides, repeats=options.stages, device=device)
    report = {
        "student_updates": {side: rates(each, count=steps["student_steps"]) for side, each in times.items()},
        "time_over_abm": {side: ratio(times[side], times["abm"]) for side in ("equal", "published")},
    }
    state(options, device, report)


if __name__ == "__main__":
    main()
