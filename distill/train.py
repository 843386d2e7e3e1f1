"""THE loop: batches from the stream, a method's step, metrics, checkpoints. It knows no method by name.

Nothing waits for the device inside a step: loss terms stay where they are and are read every `log_every` steps.
"""

import contextlib
import json
import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from distill import checkpoint
from distill.device import in_words
from distill.errors import BadCheckpoint, Diverged
from distill.methods.base import Method, Stateful
from distill.ranks import Ranks
from distill.telemetry import Telemetry
from manifests.commit import write_bytes
from manifests.progress import Advance, nothing
from shards.device import Feed, Labels, RealBatch
from shards.stream import Stream

LAST = "checkpoints/last.safetensors"
METRICS = "metrics.jsonl"
LOOK = 256  # images a batch where a method looks at the whole split

Mirror = Callable[[Mapping[str, Any]], None]
"""takes a line of metrics.jsonl"""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often the loop does what."""

    log_every: int = 20
    """steps between lines of metrics.jsonl, and between checks that the losses are finite"""
    judge_every: int | None = None
    """steps between judgements of the student on the held-out slice; None: a tenth of the run"""
    save_every_s: float = 60.0
    """seconds between checkpoints"""
    stop_after_s: float | None = None
    """seconds after which to save and stop, to be resumed later"""


@dataclass(kw_only=True)
class Progressed:
    """Where a run is; kept in its checkpoint."""

    step: int = 0
    seconds: float = 0.0
    """of training, over all slices"""
    best: float | None = None
    """highest agreement with the teacher on the held-out slice so far"""
    best_step: int | None = None
    stream: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    """whether the schedule is over"""


def train(
    method: Method,
    stream: Stream | None,
    *,
    folder: Path,
    labels: Labels | None = None,
    judge: Callable[[], float] | None = None,
    judged: bool | None = None,
    keep_best: Callable[[], None] = lambda: None,
    pace: Pace | None = None,
    resident: bool = False,
    mirror: Mirror = lambda line: None,
    advance: Advance = nothing,
) -> Progressed:
    """Run ``method`` to the end of its schedule, or until ``pace.stop_after_s``; resumes from ``folder``.

    ``stream`` is None for a method that needs none; ``resident`` holds it on the device. ``judge`` rates the student
    (higher is better) and ``keep_best`` keeps it whenever it is the best so far; only rank 0 has a judge, and writes,
    and ``judged`` tells the others that it has one. ``mirror`` is told each line of metrics.jsonl as well.
    Raises `Diverged`, naming the loss term and the step, when a loss is not finite; the last checkpoint is then from
    before: none is written until all losses up to it, and all that it holds, were seen to be finite.
    """
    pace, setup = pace or Pace(), method.setup
    steps, device, ranks = setup.steps, setup.device, setup.ranks
    judge_every = pace.judge_every or max(1, steps // 10)
    judged = judge is not None if judged is None else judged
    parts = state_of(method)
    telemetry = parts.get("telemetry")
    now = _resume(parts, folder)
    advance(now.step)
    log = _Log(folder / METRICS, now.step, ranks, mirror)
    method.deployed().net.train()
    started, saved, before = time.monotonic(), time.monotonic(), now.seconds
    with (
        in_words(f"a step of batches of {method.config.batch_size}"),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        _Supply(method, stream, now.stream, labels=labels, resident=resident) as supply,
        _interruptible() as interrupted,
    ):
        if now.step == 0 and ranks.first:  # so that there is a good one, whatever the first steps bring
            checkpoint.save(folder / LAST, parts, vars(now))
        while now.step < steps and not supply.ended:
            torch.manual_seed(setup.layer_seed(now.step))  # of dropout
            if supply.chooses_next:  # from networks that are known to be finite
                log.write(now.step, {})
            terms = method.step(supply.take(), now.step)
            ranks.same_buffers(parts.values())
            now.step += 1
            log.add(now.step, terms)
            advance(1)
            elapsed = time.monotonic() - started
            last = now.step == steps or supply.ended
            logging = now.step % pace.log_every == 0
            stop = interrupted.is_set() or (pace.stop_after_s is not None and elapsed >= pace.stop_after_s)
            saving = stop or time.monotonic() - saved >= pace.save_every_s
            if ranks.world > 1:  # all must do the same: they ask each other, but not at every step
                stop, saving = (logging and ranks.agree(said, device) for said in (stop, saving))
            judging = (last or now.step % judge_every == 0) and (judged or isinstance(telemetry, Telemetry))
            # a judgement may replace the chosen student, so the checkpoint that says so follows at once
            saving = saving or last or judging
            if logging or saving:
                log.write(now.step, {"updates": now.step * method.config.updates_per_step, "seconds": before + elapsed})
            if judging and ranks.first:
                rating = {} if judge is None else {"agreement": _judge(judge, keep_best, now)}
                seen = {"synthetic": telemetry.look(method)} if isinstance(telemetry, Telemetry) else {}
                log.note({"step": now.step, **rating, **seen})
            if saving and ranks.first:
                now.seconds, now.stream = before + time.monotonic() - started, supply.state()
                checkpoint.save(folder / LAST, parts, vars(now))
                saved = time.monotonic()
            if stop:
                break
        now.ended = now.step == steps or supply.ended
        ranks.wait()
        if interrupted.is_set():
            raise KeyboardInterrupt
    return now


def state_of(method: Method) -> dict[str, Stateful]:
    """What a checkpoint keeps: the method's parts, and what the loop remembers of its generator's images."""
    return method.parts() | ({"telemetry": Telemetry()} if method.has_generator else {})


class _Supply:
    """A step's batches; where a method chooses the rows of an epoch, it is asked before the first of them."""

    def __init__(
        self, method: Method, stream: Stream | None, state: Mapping[str, Any], *, labels: Labels | None, resident: bool
    ) -> None:
        self._method, self._stream = method, stream
        self._chooses = type(method).choose is not Method.choose
        self._feed: Feed | None = None
        if stream is None:
            return
        device = method.setup.device
        self._feed = Feed(stream, device=device, labels=labels, resident=resident, past_the_epoch=not self._chooses)
        if state:
            if self._chooses:
                self._choose(int(state["epoch"]))
            stream.load_state(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._feed is not None:
            self._feed.close()

    @property
    def ended(self) -> bool:
        """Whether the epochs are over, for a method whose epochs are as long as it chooses."""
        if self._stream is None or not self._chooses:
            return False
        epochs, at = self._method.config.epochs, self._stream
        return at.epoch == epochs - 1 and at.batch >= at.batches_per_epoch

    @property
    def chooses_next(self) -> bool:
        """Whether the next batch is the first of an epoch whose rows the method chooses."""
        at = self._stream
        return self._chooses and at is not None and (at.epoch == at.batch == 0 or at.batch >= at.batches_per_epoch)

    def state(self) -> dict[str, Any]:
        """Of the stream."""
        return {} if self._stream is None else self._stream.state()

    def take(self) -> list[RealBatch]:
        """The batches of the next step."""
        if self._feed is None:
            return []
        return [self._next(self._feed) for _ in range(self._method.config.batches_per_step)]

    def _next(self, feed: Feed) -> RealBatch:
        if self.chooses_next:
            stream = feed.stream
            stream.epoch += stream.batch > 0  # the next one, but for the very first
            stream.batch = 0
            self._choose(stream.epoch)
        return feed.take()

    def _choose(self, epoch: int) -> None:
        stream, device = cast("Stream", self._stream), self._method.setup.device

        def look() -> Iterator[RealBatch]:
            for batch in stream.in_stored_order(LOOK):
                yield RealBatch(
                    images_BCHW=torch.from_numpy(batch.images_BCHW).to(device),
                    keys=batch.keys,
                    labels_B=None,
                    epoch=epoch,
                )

        stream.narrow(self._method.choose(epoch, look))


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C asks the loop to save and stop after its step; the second stops at once, as ever."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where signals do not arrive
        yield asked
        return

    def ask(number: int, frame: object) -> None:  # noqa: ARG001  # as signal calls it
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _judge(judge: Callable[[], float], keep_best: Callable[[], None], now: Progressed) -> float:
    rating = judge()
    if now.best is None or rating > now.best:
        now.best, now.best_step = rating, now.step
        keep_best()
    return rating


def _resume(parts: Mapping[str, Stateful], folder: Path) -> Progressed:
    """Take parts and position from the last checkpoint, if there is one."""
    path = folder / LAST
    if not path.exists():
        return Progressed()
    facts = checkpoint.load(path, parts)
    try:
        return Progressed(**facts)
    except TypeError:
        raise BadCheckpoint(f"{path} was written by another release; delete it to start anew") from None


class _Log:
    """metrics.jsonl: means of each loss term since the last line.

    Lines after the resumed step, and one that a kill cut, are dropped.
    """

    def __init__(self, path: Path, step: int, ranks: Ranks, mirror: Mirror) -> None:
        self._path, self._ranks, self._mirror = path, ranks, mirror
        self._terms: list[tuple[int, str, Tensor]] = []
        if path.exists() and ranks.first:
            kept = [line for line in _lines(path) if _step_of(line) <= step]
            write_bytes(path, "".join(line + "\n" for line in kept).encode())

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Keep a step's terms where they are."""
        self._terms += [(step, name, term) for name, term in terms.items()]

    def write(self, step: int, facts: Mapping[str, Any]) -> None:
        """One line, read from the device at once; raises `Diverged` if a term is not finite.

        Within a step terms come in the order of their computation, so the first bad one is the culprit.
        """
        if not self._terms:
            return
        values: dict[str, list[float]] = defaultdict(list)
        read = self._ranks.mean(torch.stack([term for *_, term in self._terms])).tolist()
        for (at, name, _), value in zip(self._terms, read, strict=True):
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss term {name!r} became {value} at step {at:,}; the last checkpoint is from before, but it "
                    f"would happen again: start a new run with a lower --lr, or a lower rate or weight of that term"
                )
            values[name].append(value)
        self.note({"step": step, **facts, **{name: sum(v) / len(v) for name, v in values.items()}})
        self._terms = []

    def note(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        if not self._ranks.first:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._mirror(line)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # cut by a kill
        return 1 << 62


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics.jsonl."""
    path = folder / METRICS
    lines = _lines(path) if path.exists() else []
    return [json.loads(line) for line in lines if _step_of(line) < 1 << 62]
