"""What the loop costs: student updates a second through `distill.run.distill` over a bare step with its data in memory.

    python benchmarks/loop.py [--methods kd mosaickd] [--batch 128] [--steps 30 10] [--threads 1]
                              [--out benchmarks/results/loop.json]

After every step of a run, the same step is made bare, on batches that lie ready in memory, with no stream, no metrics
and no checkpoint: written by hand for `kd` and `mosaickd`, on images that are augmented already; with --own, and for
another method, it is the method's own `step`. So the two alternate in one process. Of the run everything between two
steps is counted: reading and checking blocks, augmentation, the lines of metrics.jsonl; of processor time, all that
threads which read ahead spend as well. `wrn40_2` to `wrn16_1`, a transfer set of generated textures. Claim: at least
0.97 for `kd` and 0.95 for `mosaickd`.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.mosaickd import PlainStep
from benchmarks.turns import CLASSES, Took, clocks, fresh_teacher, parser_of, rates, ratio, state, textures
from distill.device import choose_device, choose_dtype
from distill.methods import METHODS
from distill.models import build
from distill.models.teachers import Classifier
from distill.models.view import Precision
from distill.run import Place, RunConfig, distill, fresh_method
from distill.train import Pace
from shards.device import RealBatch
from shards.layout import KEY_DTYPE

TEACHER, STUDENT = "wrn40_2", "wrn16_1"
IMAGES = 2_048
WARM_UP = 3
"""steps that are not counted: batches that were read ahead, first allocations"""

Bare = Callable[[], object]


def batches_in_memory(count: int, batch: int, *, device: torch.device) -> list[RealBatch]:
    """Batches as a stream would hand them out."""
    keys = np.array([f"{number:064x}".encode() for number in range(batch)]).astype(KEY_DTYPE)
    pixels = torch.randint(0, 256, (count, batch, 3, 32, 32), dtype=torch.uint8, device=device)
    return [RealBatch(images_BCHW=images_BCHW, keys=keys, labels_B=None, epoch=0) for images_BCHW in pixels]


def bare_kd(teacher: Classifier, batch: int, dtype: Precision, device: torch.device) -> Bare:
    """The step of `kd` written out, on images that are augmented already."""
    low = dtype == "bfloat16"
    layout = torch.channels_last if low else torch.contiguous_format
    networks = [build(arch, CLASSES).to(device).to(memory_format=layout) for arch in (TEACHER, STUDENT)]
    guide, student = networks[0].eval().requires_grad_(False), networks[1].train()
    guide.load_state_dict(teacher.net.state_dict())
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    images_BCHW = batches_in_memory(1, batch, device=device)[0].images_BCHW

    def step() -> None:
        x_BCHW = ((images_BCHW.float() / 255 - 0.5) / 0.25).contiguous(memory_format=layout)
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            with torch.no_grad():
                taught_BK = guide(x_BCHW)
            learnt_BK = student(x_BCHW)
        log_t_BK, log_s_BK = (F.log_softmax(each_BK.float() / 5, 1) for each_BK in (taught_BK, learnt_BK))
        loss = F.kl_div(log_s_BK, log_t_BK, log_target=True, reduction="batchmean") * 25
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def bare(run: RunConfig, teacher: Classifier, steps: int, device: torch.device, *, own: bool) -> Bare:
    """Written by hand; or the method's ``own`` step as it is, without the loop around it."""
    if run.method == "kd" and not own:
        return bare_kd(teacher, run.config.batch_size, run.dtype, device)
    if run.method == "mosaickd" and not own:
        return PlainStep(run.config.batch_size, device, dtype=run.dtype)
    method = fresh_method(run, teacher, steps=steps, place=Place(device=device))
    real = batches_in_memory(run.config.batches_per_step, run.config.batch_size, device=device)
    numbers = iter(range(steps))
    return lambda: method.step(real, next(numbers))


class Alternating:
    """The progress of a run, which makes a bare step whenever it is told of one, and looks at the clocks."""

    def __init__(self, step: Bare, device: torch.device) -> None:
        self.whole: list[Took] = []
        self.bare: list[Took] = []
        self._step, self._device = step, device
        self._before: Took | None = None
        self._ahead = 0.0

    @contextmanager
    def __call__(self, label: str, total: int, *, unit: str = "images") -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        yield self.advance

    def advance(self, steps: int) -> None:
        """A step of the run is over."""
        here = clocks(self._device)
        if steps and self._before is not None:
            self.whole.append(Took(here.wall - self._before.wall, here.cpu - self._before.cpu + self._ahead))
        start = time.thread_time()
        self._step()
        own = time.thread_time() - start
        self._before = clocks(self._device)
        self._ahead = self._before.cpu - here.cpu - own  # of threads that read ahead: they work for the run
        if self.whole:
            self.bare.append(Took(self._before.wall - here.wall, own))


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__)
    parser.add_argument("--methods", nargs="+", default=["kd", "mosaickd"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, nargs="+", default=[30, 10], help="of each method")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--own", action="store_true", help="the bare step is the method's own")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    options.dtype = choose_dtype(options.dtype, device)
    report = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teacher = fresh_teacher(folder, TEACHER, dtype=options.dtype, device=device)
        material = textures(folder, teacher, images=IMAGES, device=device)
        for method, steps in zip(options.methods, options.steps, strict=True):
            config = METHODS[method].config_class(batch_size=options.batch)
            updates = (WARM_UP + steps) * config.updates_per_step
            run = RunConfig(method=method, student=STUDENT, config=config, dtype=options.dtype, updates=updates)
            step = bare(run, teacher, WARM_UP + steps + 1, device, own=options.own)
            clock = Alternating(step, device)
            pace = Pace(judge_every=WARM_UP + steps)
            distill(material, teacher, run, out=folder / method, place=Place(device=device), pace=pace, progress=clock)
            # the loop's own work after a step, metrics and all, is before the clock's next look: the last is left out
            whole, own = clock.whole[WARM_UP:], clock.bare[WARM_UP:]
            counts = {"count": config.updates_per_step}
            report[method] = {
                "student_updates": {"distill": rates(whole, **counts), "bare": rates(own, **counts)},
                "of_bare": ratio(own, whole),
                "of_bare_in_all": {
                    name: round(sum(getattr(b, name) for b in own) / sum(getattr(w, name) for w in whole), 4)
                    for name in Took._fields
                },
            }
    state(options, device, report)


if __name__ == "__main__":
    main()
