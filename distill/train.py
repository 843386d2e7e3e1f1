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
from typing import Any

import torch
from torch import Tensor

from distill import checkpoint
from distill.device import in_words
from distill.errors import BadCheckpoint, Diverged
from distill.methods.base import Method
from manifests.commit import write_bytes
from manifests.keys import address
from manifests.progress import Advance, nothing
from shards.device import Feed, Labels
from shards.stream import Stream

LAST = "checkpoints/last.safetensors"
METRICS = "metrics.jsonl"


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


def train(
    method: Method,
    stream: Stream,
    *,
    folder: Path,
    labels: Labels | None = None,
    judge: Callable[[], float] | None = None,
    keep_best: Callable[[], None] = lambda: None,
    pace: Pace | None = None,
    advance: Advance = nothing,
) -> Progressed:
    """Run ``method`` to the end of its schedule, or until ``pace.stop_after_s``; resumes from ``folder``.

    ``judge`` rates the student (higher is better) and ``keep_best`` keeps it whenever it is the best so far.
    Raises `Diverged`, naming the loss term and the step, when a loss is not finite; the last checkpoint is then from
    before: none is written until all losses up to it, and all that it holds, were seen to be finite.
    """
    pace, steps, device = pace or Pace(), method.setup.steps, method.setup.device
    judge_every = pace.judge_every or max(1, steps // 10)
    now = _resume(method, stream, folder)
    advance(now.step)
    log = _Log(folder / METRICS, now.step)
    method.setup.student.net.train()
    started, saved, before = time.monotonic(), time.monotonic(), now.seconds
    with (
        in_words(f"a step of batches of {method.config.batch_size}"),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        Feed(stream, device=device, labels=labels) as feed,
        _interruptible() as interrupted,
    ):
        while now.step < steps:
            torch.manual_seed(address(method.setup.seed, "layers", now.step) >> 1)  # of dropout; torch takes 63 bits
            terms = method.step([feed.take() for _ in range(method.config.batches_per_step)], now.step)
            now.step += 1
            log.add(now.step, terms)
            advance(1)
            elapsed = time.monotonic() - started
            stop = interrupted.is_set() or (pace.stop_after_s is not None and elapsed >= pace.stop_after_s)
            last = now.step == steps
            judging = judge is not None and (last or now.step % judge_every == 0)
            # a judgement may replace the chosen student, so the checkpoint that says so follows at once
            saving = stop or last or judging or time.monotonic() - saved >= pace.save_every_s
            if now.step % pace.log_every == 0 or judging or saving:
                log.write(now.step, {"updates": now.step * method.config.updates_per_step, "seconds": before + elapsed})
            if judge is not None and judging:
                _judge(judge, keep_best, now, log)
            if saving:
                now.seconds, now.stream = before + time.monotonic() - started, stream.state()
                checkpoint.save(folder / LAST, method.parts(), vars(now))
                saved = time.monotonic()
            if stop:
                break
        if interrupted.is_set():
            raise KeyboardInterrupt
    return now


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


def _judge(judge: Callable[[], float], keep_best: Callable[[], None], now: Progressed, log: "_Log") -> None:
    rating = judge()
    log.note({"step": now.step, "agreement": rating})
    if now.best is None or rating > now.best:
        now.best, now.best_step = rating, now.step
        keep_best()


def _resume(method: Method, stream: Stream, folder: Path) -> Progressed:
    """Take parts, position and stream from the last checkpoint, if there is one."""
    path = folder / LAST
    if not path.exists():
        return Progressed()
    facts = checkpoint.load(path, method.parts())
    try:
        now = Progressed(**facts)
    except TypeError:
        raise BadCheckpoint(f"{path} was written by another release; delete it to start anew") from None
    stream.load_state(now.stream)
    return now


class _Log:
    """metrics.jsonl: means of each loss term since the last line.

    Lines after the resumed step, and one that a kill cut, are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._terms: list[tuple[int, str, Tensor]] = []
        if path.exists():
            kept = [line for line in _lines(path) if _step_of(line) <= step]
            write_bytes(path, "".join(line + "\n" for line in kept).encode())

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Keep a step's terms where they are."""
        self._terms += [(step, name, term) for name, term in terms.items()]

    def write(self, step: int, facts: Mapping[str, Any]) -> None:
        """One line, read from the device at once; raises `Diverged` if a term is not finite.

        Within a step terms come in the order of their computation, so the first bad one is the culprit.
        """
        values: dict[str, list[float]] = defaultdict(list)
        read = torch.stack([term for *_, term in self._terms]).tolist()
        for (at, name, _), value in zip(self._terms, read, strict=True):
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss term {name!r} became {value} at step {at:,}; the last checkpoint is from before, but it "
                    f"would happen again: start a new run with a lower --lr"
                )
            values[name].append(value)
        self.note({"step": step, **facts, **{name: sum(v) / len(v) for name, v in values.items()}})
        self._terms = []

    def note(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


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
