"""How fast a network is here: batches of random normalised images that lie ready on the device, no feed, no loop.

Every reading of the clock waits for the device to be done with what it was given.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.device import in_words
from distill.errors import DistillError, UnsupportedSize
from distill.models import ModelSpec
from distill.models.counts import Counts, count
from distill.models.view import Precision

BUDGET = {"cpu": 16 * 10**9, "cuda": 256 * 10**9}
"""multiply-adds of a pass, by which batches are chosen: a tenth of a second on two cores, some milliseconds on a GPU"""
MOST_IMAGES = {"cpu": 64, "cuda": 1024}
"""of a batch so chosen, at most"""
WARM_UP, FEWEST = 1, 3
"""passes before the clock runs, and at least with it"""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A network and the batches that it is given."""

    model: ModelSpec
    size: int
    """pixels a side of the images"""
    classes: int
    """of the head"""
    batch_size: int
    """images in a pass"""
    dtype: Precision
    """bfloat16: autocast, in channels-last"""
    device: torch.device
    counts: Counts
    """at this size, with this head"""

    @property
    def what(self) -> str:
        """For messages."""
        return f"{self.model.name} at {self.size} px in batches of {self.batch_size}"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DistillError(f"batches must have at least 1 image; got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Passes of a batch on the clock."""

    images_per_s: float
    """at the median pass"""
    ms: float
    """of the median pass"""
    ms_min: float
    ms_max: float
    passes: int
    batch_size: int


def workload(
    model: ModelSpec,
    *,
    size: int | None = None,
    classes: int | None = None,
    batch_size: int | None = None,
    dtype: Precision = "float32",
    device: torch.device | str = "cpu",
) -> Workload:
    """Count a network at `size` px with `classes`, by default its own; a batch of about `BUDGET` multiply-adds.

    Raises UnsupportedSize, and DistillError for numbers below 1.
    """
    size = model.input_size if size is None else size
    classes = model.classes if classes is None else classes
    model.check_size(size)
    if classes < 1:
        raise DistillError(f"a head has at least 1 class; got {classes}")
    counts, device = _count(model, size, classes), torch.device(device)
    if batch_size is None:
        fitting = min(MOST_IMAGES[device.type], max(1, BUDGET[device.type] // max(1, counts.macs)))
        batch_size = 1 << (fitting.bit_length() - 1)  # the power of two below
    return Workload(
        model=model, size=size, classes=classes, batch_size=batch_size, dtype=dtype, device=device, counts=counts
    )


def measure_speed(work: Workload, *, seconds: float = 0.25) -> Speed:
    """The forward in eval mode, timed for about so long. Raises DistillError if a batch does not fit into memory."""
    return timed(Bench(work).forward, work, seconds)


def _count(model: ModelSpec, size: int, classes: int) -> Counts:
    """Parameters and multiply-adds, known or counted. Raises UnsupportedSize."""
    if (size, classes) == (model.input_size, model.classes):
        return Counts(params=model.params, macs=model.macs)
    if ":" in model.name:  # anybody's code need not know the meta device
        net = model.skeleton(classes)
    else:
        with torch.device("meta"):
            net = model.build(classes)
    try:
        return count(net, size=size, channels=model.channels)
    except Exception as error:  # noqa: BLE001  # anybody's code may raise anything
        reason = str(error).partition("\n")[0]
        raise UnsupportedSize(f"{model.name} cannot work at {size} px: {reason}") from None


class Bench:
    """A network on its device with a batch in front of it."""

    def __init__(self, work: Workload) -> None:
        model, layout = work.model, torch.channels_last if work.dtype == "bfloat16" else torch.contiguous_format
        shape = (work.batch_size, model.channels, work.size, work.size)
        images_BCHW = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with in_words(work.what):
            self.net = model.skeleton(work.classes).to(work.device)
            if work.dtype == "bfloat16":
                self.net.to(memory_format=torch.channels_last)
            self.images_BCHW = images_BCHW.to(work.device, memory_format=layout)
            self._labels_B = torch.zeros(work.batch_size, dtype=torch.long, device=work.device)
        self._low = work.dtype == "bfloat16"
        self._name = model.name

    def forward(self) -> None:
        with torch.no_grad():
            self._logits(self.net.eval())

    def train(self) -> None:
        self.net.zero_grad()
        if not any(parameter.requires_grad for parameter in self.net.parameters()):
            raise DistillError(f"{self._name} has no parameter to train; --no-backward measures the rest")
        F.cross_entropy(self._logits(self.net.train()).float(), self._labels_B).backward()  # type: ignore[no-untyped-call]

    def _logits(self, net: nn.Module) -> Tensor:
        with torch.autocast(self.images_BCHW.device.type, dtype=torch.bfloat16, enabled=self._low):
            logits_BK = net(self.images_BCHW)
        if not isinstance(logits_BK, Tensor):  # as some do in training mode alone
            raise DistillError(f"{self._name} returns a {type(logits_BK).__name__}; expected a tensor of logits (B, K)")
        return logits_BK


def timed(run: Callable[[], None], work: Workload, seconds: float, between: Callable[[], None] = lambda: None) -> Speed:
    """Run it for about so long; what is done in between is not timed."""
    ms: list[float] = []
    with in_words(work.what):
        for _ in range(WARM_UP):
            run()
            between()
        end = now(work.device) + seconds
        while len(ms) < FEWEST or time.perf_counter() < end:
            start = now(work.device)
            run()
            ms.append((now(work.device) - start) * 1000)
            between()
    median = statistics.median(ms)
    return Speed(
        images_per_s=work.batch_size / median * 1000,
        ms=median,
        ms_min=min(ms),
        ms_max=max(ms),
        passes=len(ms),
        batch_size=work.batch_size,
    )


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
