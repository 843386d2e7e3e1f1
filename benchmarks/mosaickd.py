"""MosaicKD's iteration over a plain eager float32 one: student updates a second, `wrn40_2` to `wrn16_1`, B + B images.

    python benchmarks/mosaickd.py [--batch 256] [--repeats 3] [--sides bfloat16 compiled] [--threads 1]
                                  [--out benchmarks/results/mosaickd-speed.json]

The plain one is `PlainStep` below: the same networks and losses as one would write them first, on normalised float
images that lie ready, in torch's default layout. Ours is `MosaicKD.step` on uint8 batches that lie ready, with
augmentation and all: in float32, in bfloat16, and in bfloat16 through torch.compile. One iteration is a discriminator
update, a generator update and five student updates; compiling is not timed. Claim: at least 2.5 times on a CPU that
multiplies bfloat16.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.turns import CLASSES, fresh_teacher, parser_of, rates, ratio, state, take_turns
from distill.device import choose_device
from distill.generators.mosaic import Discriminator, Generator
from distill.methods.mosaickd import MosaicKDConfig
from distill.models import build
from distill.models.view import Precision
from distill.run import Place, RunConfig, fresh_method
from shards.device import RealBatch
from shards.layout import KEY_DTYPE

TEACHER, STUDENT = "wrn40_2", "wrn16_1"
STEPS = 1_000  # of the schedule, of which a benchmark sees the first
UPDATES = MosaicKDConfig().student_steps


class PlainStep:
    """One outer iteration, eager; nothing is asked twice, or with gradients that nobody wants.

    In bfloat16 (for benchmarks/loop.py) networks run under autocast in channels-last; the losses are in float32.
    """

    def __init__(self, batch: int, device: torch.device, *, dtype: Precision = "float32") -> None:
        torch.manual_seed(0)
        self.batch, self.device, self.low = batch, device, dtype == "bfloat16"
        layout = torch.channels_last if self.low else torch.contiguous_format
        networks: list[nn.Module] = [build(TEACHER, CLASSES), build(STUDENT, CLASSES), Generator(), Discriminator()]
        teacher, *learning = [net.to(device).to(memory_format=layout) for net in networks]
        self.teacher = teacher.eval().requires_grad_(False)
        self.student, self.generator, self.discriminator = learning
        self.for_student = torch.optim.SGD(self.student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.for_generator = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
        self.for_discriminator = torch.optim.Adam(self.discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))
        self.real_BCHW = torch.rand(batch, 3, 32, 32, device=device)

    def ask(self, net: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low):
            outputs: torch.Tensor = net(inputs)
        return outputs.float()

    def make(self) -> torch.Tensor:
        return self.ask(self.generator, torch.randn(self.batch, 100, device=self.device))

    @staticmethod
    def divergence(teacher_BK: torch.Tensor, student_BK: torch.Tensor) -> torch.Tensor:
        return F.kl_div(student_BK.log_softmax(1), teacher_BK.log_softmax(1), log_target=True, reduction="batchmean")

    @staticmethod
    def update(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def __call__(self) -> None:
        fake_BCHW = self.make()
        bce = F.binary_cross_entropy_with_logits
        on_fake, on_real = (self.ask(self.discriminator, each) for each in (fake_BCHW.detach(), self.real_BCHW))
        wrong = bce(on_fake, torch.zeros_like(on_fake), reduction="sum")
        right = bce(on_real, torch.ones_like(on_real), reduction="sum")
        self.update((wrong + right) / (2 * self.batch), self.for_discriminator)

        others: list[nn.Module] = [self.student, self.discriminator]
        for net in others:
            net.requires_grad_(False)
        self.student.eval()
        teacher_BK = self.ask(self.teacher, (fake_BCHW - 0.5) / 0.25)
        adversarial = -self.divergence(teacher_BK, self.ask(self.student, (fake_BCHW - 0.5) / 0.25))
        p_BK = teacher_BK.softmax(1)
        align = -(p_BK * teacher_BK.log_softmax(1)).sum(1).mean()
        balance = (p_BK.mean(0) * p_BK.mean(0).log2()).sum()
        map_B1hw = self.ask(self.discriminator, fake_BCHW)
        local = bce(map_B1hw, torch.ones_like(map_B1hw), reduction="sum") / self.batch
        self.update(adversarial + align + local + 10 * balance, self.for_generator)
        self.student.train()
        for net in others:
            net.requires_grad_(True)

        for _ in range(UPDATES):
            with torch.no_grad():
                images_BCHW = (torch.cat([self.make(), self.real_BCHW]) - 0.5) / 0.25
                teacher_BK = self.ask(self.teacher, images_BCHW)
            self.update(self.divergence(teacher_BK, self.ask(self.student, images_BCHW)), self.for_student)


def ours(folder: Path, batch: int, device: torch.device, *, dtype: Precision, compiled: bool) -> Callable[[], object]:
    """Iterations of the method, one after another."""
    teacher = fresh_teacher(folder, TEACHER, dtype=dtype, device=device)
    config = MosaicKDConfig(batch_size=batch)
    run = RunConfig(method="mosaickd", student=STUDENT, config=config, dtype=dtype, compile=compiled)
    method = fresh_method(run, teacher, steps=STEPS, place=Place(device=device))
    keys = np.array([f"{number:064x}".encode() for number in range(batch)]).astype(KEY_DTYPE)
    images_BCHW = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, device=device)
    real = RealBatch(images_BCHW=images_BCHW, keys=keys, labels_B=None, epoch=0)
    numbers = iter(range(STEPS))
    return lambda: method.step([real] * config.batches_per_step, next(numbers))


SIDES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32", "compiled": False},
    "bfloat16": {"dtype": "bfloat16", "compiled": False},
    "compiled": {"dtype": "bfloat16", "compiled": True},
}


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=["bfloat16", "compiled"], choices=SIDES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as name:
        sides: dict[str, Callable[[], object]] = {"plain": PlainStep(options.batch, device)}
        for side in options.sides:
            sides[side] = ours(Path(name), options.batch, device, **SIDES[side])
        times = take_turns(sides, repeats=options.repeats, device=device)
    report = {
        "student_updates": {side: rates(each, count=UPDATES) for side, each in times.items()},
        "times_plain": {side: ratio(times["plain"], times[side]) for side in options.sides},
    }
    state(options, device, report)


if __name__ == "__main__":
    main()
