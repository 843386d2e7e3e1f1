"""KD from logits that came with the set (`curate select --views`) over KD that asks a live teacher: updates a second.

    python benchmarks/cached_logits.py [--batch 128] [--repeats 20] [--dtypes float32 bfloat16] [--compile]
                                       [--threads 1] [--out benchmarks/results/cached-logits.json]

Both sides are `kd`, `wrn40_2` to `wrn16_1`, on the same set of generated textures through the same stream; one is told
`--logits live`. ``--compile`` adds both sides through torch.compile; compiling is not timed. Claim: at least 2.3 times
on a CPU, eager against eager, in the same type of numbers.

`benchmarks/cached_logits_accuracy.py` asks whether the students are as good.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import fresh_teacher, parser_of, rates, ratio, state, take_turns, textures
from distill.device import choose_device
from distill.material import Material
from distill.methods.kd import KDConfig
from distill.models.teachers import Classifier
from distill.run import Place, RunConfig, build_method
from shards.device import Feed

TEACHER, STUDENT = "wrn40_2", "wrn16_1"
LOGITS = {"cached": "auto", "live": "live"}


def updates(
    opened: ExitStack, run: RunConfig, material: Material, teacher: Classifier, device: torch.device
) -> Callable[[], object]:
    """Steps of a run, one after another, each with the next batch of its stream."""
    method, stream, residence = build_method(run, material, teacher, place=Place(device=device))
    if stream is None:
        raise AssertionError("kd has a stream")
    feed = opened.enter_context(Feed(stream, device=device, resident=residence == "device"))
    numbers = iter(range(method.setup.steps))
    return lambda: method.step([feed.take()], next(numbers))


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--images", type=int, default=1_024)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        teachers = {dtype: fresh_teacher(folder, TEACHER, dtype=dtype, device=device) for dtype in options.dtypes}
        first = teachers[options.dtypes[0]]
        material = textures(folder, first, images=options.images, device=device, views=1)
        for dtype, teacher in teachers.items():
            for how in ("eager", "compiled")[: 1 + options.compile]:
                settings: dict[str, Any] = {
                    "method": "kd",
                    "student": STUDENT,
                    "config": KDConfig(batch_size=options.batch),
                }
                runs = {
                    side: RunConfig(**settings, dtype=dtype, logits=logits, compile=how == "compiled")
                    for side, logits in LOGITS.items()
                }
                sides = {side: updates(opened, run, material, teacher, device) for side, run in runs.items()}
                times = take_turns(sides, repeats=options.repeats, device=device)
                report[f"{dtype} {how}"] = {
                    "student_updates": {side: rates(each, count=1) for side, each in times.items()},
                    "cached_over_live": ratio(times["live"], times["cached"]),
                }
    state(options, device, report)


if __name__ == "__main__":
    main()
