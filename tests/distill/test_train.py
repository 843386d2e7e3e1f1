"""The loop: steps, lines, checkpoints and judgements at their pace; exact resume from wherever it was stopped."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill import checkpoint
from distill.errors import BadCheckpoint, Diverged
from distill.methods.base import Config, Method, Setup, Stateful
from distill.models.student import fresh_student
from distill.train import LAST, METRICS, Pace, Progressed, read_metrics, train
from shards.device import RealBatch
from shards.errors import StreamStateError
from shards.index import ShardFolder
from shards.sources import LocalBlocks
from shards.stream import Batch, Stream
from tests.distill import toys

STEPS = 12
OFTEN = Pace(log_every=3, judge_every=4, save_every_s=0)
Terms = Callable[[int], dict[str, float]]


class Averaging(Method):
    """A method without networks: it keeps a running sum of what it saw, and answers the terms that a test wants."""

    config_class = Config
    source = "none"

    def __init__(self, setup: Setup, config: Config, terms: Terms) -> None:
        super().__init__(setup, config)
        self.seen = nn.Linear(1, 1).requires_grad_(False)
        self.seen.weight.zero_()
        self.terms, self.batches = terms, []  # type: tuple[Terms, list[RealBatch]]

    def parts(self) -> dict[str, Stateful]:
        return {"seen": self.seen, "student": self.setup.student.net}

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        self.batches += real
        self.seen.weight.mul_(0.7).add_(real[0].images_BCHW.float().mean() + step)
        return {name: torch.tensor(value) for name, value in self.terms(step).items()}


@pytest.fixture
def make(transfer_set: ShardFolder) -> Callable[..., tuple[Averaging, Stream]]:
    def new(terms: Terms = lambda step: {"loss": float(step)}, *, seed: int = 0) -> tuple[Averaging, Stream]:
        student = fresh_student("wrn16_1", 2, mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU)
        setup = Setup(teacher=None, student=student, device=toys.CPU, steps=STEPS, seed=seed, flip=True)
        stream = Stream(LocalBlocks(transfer_set, "train"), batch_size=12, seed=seed)  # 3 an epoch
        return Averaging(setup, Config(batch_size=12), terms), stream

    return new


Make = Callable[..., tuple[Averaging, Stream]]


def steps_of(folder: Path, key: str) -> list[int]:
    return [line["step"] for line in read_metrics(folder) if key in line]


# what it does and when


def test_a_run_from_beginning_to_end(make: Make, tmp_path: Path) -> None:
    method, stream = make()
    seen: list[int] = []
    done = train(method, stream, folder=tmp_path, pace=Pace(log_every=5), advance=seen.append)
    assert done.step == STEPS == sum(seen)
    assert [batch.epoch for batch in method.batches] == [step // 3 for step in range(STEPS)]
    keys = [key for batch in method.batches[:3] for key in batch.keys.tolist()]
    assert len(set(keys)) == 36
    lines = read_metrics(tmp_path)
    assert [(line["step"], line["updates"], line["loss"]) for line in lines] == [
        (5, 5, 2.0),
        (10, 10, 7.0),
        (12, 12, 10.5),
    ]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert method.setup.student.net.training


def test_terms_are_averaged_over_the_steps_that_had_them(make: Make, tmp_path: Path) -> None:
    method, stream = make(lambda step: {"always": 2.0} | ({"sometimes": float(step)} if step % 2 else {}))
    train(method, stream, folder=tmp_path, pace=Pace(log_every=4))
    found = [(line["always"], line["sometimes"]) for line in read_metrics(tmp_path)]
    assert found == [(2.0, 2.0), (2.0, 6.0), (2.0, 10.0)]


def test_labels_are_those_of_the_batch(make: Make, tmp_path: Path) -> None:
    method, stream = make()

    def labels(batch: Batch) -> Tensor:
        return torch.tensor([int(key[:4], 16) for key in batch.keys])

    train(method, stream, folder=tmp_path, labels=labels)
    for batch in method.batches:
        assert batch.labels_B is not None
        assert batch.labels_B.tolist() == [int(key[:4], 16) for key in batch.keys]
    assert make()[0].batches == []


def test_the_best_is_kept_and_the_first_of_equals(make: Make, tmp_path: Path) -> None:
    ratings = iter([0.5, 0.75, 0.75, 0.25])
    kept: list[int] = []
    method, stream = make()
    done = train(
        method,
        stream,
        folder=tmp_path,
        judge=lambda: next(ratings),
        keep_best=lambda: kept.append(len(method.batches)),
        pace=Pace(judge_every=3),
    )
    assert kept == [3, 6]
    assert (done.best, done.best_step) == (0.75, 6)
    assert [(line["step"], line["agreement"]) for line in read_metrics(tmp_path) if "agreement" in line] == [
        (3, 0.5),
        (6, 0.75),
        (9, 0.75),
        (12, 0.25),
    ]


def test_the_last_step_is_judged_and_saved_whatever_the_pace(make: Make, tmp_path: Path) -> None:
    method, stream = make()
    done = train(method, stream, folder=tmp_path, judge=lambda: 0.0, pace=Pace(log_every=100, judge_every=100))
    assert (done.best, done.best_step) == (0.0, STEPS)
    assert steps_of(tmp_path, "loss") == [STEPS]
    assert checkpoint.load(tmp_path / LAST, make()[0].parts())["step"] == STEPS


# stopping and going on


def interrupted_after(step: int) -> Callable[[int], None]:
    """What advances a run until it is killed in the middle of a step's book-keeping."""
    count = 0

    def advance(n: int) -> None:
        nonlocal count
        count += n
        if count == step:
            raise KeyboardInterrupt

    return advance


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_resume_is_exact_wherever_it_was_stopped(make: Make, tmp_path: Path, at: int) -> None:
    ratings = [0.1, 0.9, 0.4]

    def go(folder: Path, advance: Callable[[int], None] = lambda n: None) -> tuple[Progressed, Averaging]:
        folder.mkdir(exist_ok=True)
        method, stream = make()
        judge = lambda: ratings[read_metrics(folder)[-1]["step"] // 4 - 1]  # noqa: E731
        return train(method, stream, folder=folder, judge=judge, pace=OFTEN, advance=advance), method

    undisturbed, expected = go(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "b", interrupted_after(at))
    resumed, method = go(tmp_path / "b")
    assert len(method.batches) == STEPS - at + 1  # the checkpoint is of the step before the one that was cut
    assert torch.equal(method.seen.weight, expected.seen.weight)
    assert (resumed.step, resumed.best, resumed.best_step, resumed.stream) == (
        undisturbed.step,
        undisturbed.best,
        undisturbed.best_step,
        undisturbed.stream,
    )
    for key in ("loss", "agreement"):
        steps = steps_of(tmp_path / "b", key)
        assert steps == sorted(set(steps))
    assert steps_of(tmp_path / "b", "agreement") == [4, 8, 12]


def test_ctrl_c_saves_the_step_it_came_in(make: Make, tmp_path: Path) -> None:
    def press(step: int) -> dict[str, float]:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return {"loss": 1.0}

    before = signal.getsignal(signal.SIGINT)
    method, stream = make(press)
    with pytest.raises(KeyboardInterrupt):
        train(method, stream, folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    method, stream = make()
    seen: list[int] = []
    assert train(method, stream, folder=tmp_path, advance=seen.append).step == STEPS
    assert seen[0] == 5  # steps 0 to 4 were kept


def test_seconds_add_up_over_slices(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("distill.train.time.monotonic", lambda: float(next(clock)))
    slices = []
    while True:
        done = train(*make(), folder=tmp_path, pace=Pace(stop_after_s=5.0, log_every=1))
        slices.append((done.step, done.seconds))
        if done.step == STEPS:
            break
    assert len(slices) > 2
    assert slices == sorted(slices)
    seconds = [line["seconds"] for line in read_metrics(tmp_path)]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= slices[-1][1] < 10 * len(slices)


def test_stop_after_makes_at_least_one_step_and_saves_it(make: Make, tmp_path: Path) -> None:
    for step in range(1, STEPS + 1):
        done = train(*make(), folder=tmp_path, pace=Pace(stop_after_s=1e-9))
        assert done.step == step
    assert steps_of(tmp_path, "loss") == list(range(1, STEPS + 1))
    method, stream = make()
    assert train(method, stream, folder=tmp_path).step == STEPS
    assert method.batches == []  # a finished run has nothing left to do


def test_checkpoints_come_at_their_pace(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(checkpoint, "save", lambda path, parts, facts: saved.append(facts["step"]))
    clock = iter(range(10_000))
    monkeypatch.setattr("distill.train.time.monotonic", lambda: float(next(clock)))  # two looks a step
    train(*make(), folder=tmp_path, pace=Pace(save_every_s=8.0))
    assert saved == [0, 4, 8, 12]
    saved.clear()
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint, "save", lambda path, parts, facts: saved.append(facts["step"]))
    train(*make(), folder=tmp_path, pace=Pace(save_every_s=3600.0))
    assert saved == [0, 12]


# metrics.jsonl


@pytest.mark.parametrize(
    "tail", ['{"step": 9, "lo', "{", "null\n", '{"loss": 1}\n', "\0\0\0\0", '{"step": 99, "loss": 1.0}\n', "\udcff"]
)
def test_a_torn_or_later_last_line_is_dropped(make: Make, tmp_path: Path, tail: str) -> None:
    train(*make(), folder=tmp_path, pace=Pace(stop_after_s=1e-9))
    path = tmp_path / METRICS
    whole = path.read_bytes()
    path.write_bytes(whole + tail.encode(errors="surrogateescape"))
    if "99" not in tail:
        assert steps_of(tmp_path, "step") == [1]  # also for a reader while the run is down
    train(*make(), folder=tmp_path, pace=Pace(log_every=6))
    assert path.read_bytes().startswith(whole)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 6, 12]


def test_a_whole_last_line_without_its_end_is_kept(make: Make, tmp_path: Path) -> None:
    train(*make(), folder=tmp_path, pace=Pace(stop_after_s=1e-9))
    (tmp_path / METRICS).write_text((tmp_path / METRICS).read_text().rstrip("\n"))
    train(*make(), folder=tmp_path, pace=Pace(log_every=6))
    assert steps_of(tmp_path, "loss") == [1, 6, 12]


def test_lines_without_a_checkpoint_are_of_no_run(make: Make, tmp_path: Path) -> None:
    """Killed before the first checkpoint: the run starts anew, and so do its metrics."""
    (tmp_path / METRICS).write_text('{"step": 1, "loss": 5.0}\n')
    train(*make(), folder=tmp_path, pace=Pace(log_every=6))
    assert steps_of(tmp_path, "loss") == [6, 12]


def test_no_metrics_is_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


# what goes wrong


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_term_is_named_with_its_step(make: Make, tmp_path: Path, bad: float) -> None:
    """By the next step every term is bad, and 20 steps are read at once: the culprit is named all the same."""

    def terms(step: int) -> dict[str, float]:
        return {
            "innocent": bad if step >= 7 else 1.0,
            "culprit": bad if step >= 6 else 1.0,
            "victim": bad if step >= 6 else 1.0,
        }

    with pytest.raises(Diverged, match=rf"the loss term 'culprit' became {bad} at step 7; .* with a lower --lr"):
        train(*make(terms), folder=tmp_path)
    assert checkpoint.load(tmp_path / LAST, make()[0].parts())["step"] == 0  # of its beginning
    assert read_metrics(tmp_path) == []


def test_losses_are_seen_before_a_checkpoint_and_a_judgement(make: Make, tmp_path: Path) -> None:
    def never() -> float:
        raise AssertionError("judged although a loss was not finite")

    method, stream = make(lambda step: {"loss": float("nan") if step == 3 else 1.0})
    with pytest.raises(Diverged, match="at step 4"):
        train(method, stream, folder=tmp_path, judge=never, pace=Pace(log_every=100, judge_every=4, save_every_s=0))
    assert checkpoint.load(tmp_path / LAST, make()[0].parts())["step"] == 3
    with pytest.raises(Diverged, match="at step 4"):  # and it would happen again
        train(*make(method.terms), folder=tmp_path)


@pytest.mark.parametrize("cut", [10, -1])
def test_a_damaged_checkpoint_is_refused(make: Make, tmp_path: Path, cut: int) -> None:
    train(*make(), folder=tmp_path, pace=Pace(stop_after_s=1e-9))
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:cut])
    with pytest.raises(
        BadCheckpoint, match=r"last.safetensors is damaged or no checkpoint .*; delete it to start anew"
    ):
        train(*make(), folder=tmp_path)
    (tmp_path / LAST).unlink()
    assert train(*make(), folder=tmp_path).step == STEPS


def test_a_checkpoint_of_another_release_is_refused(make: Make, tmp_path: Path) -> None:
    facts: dict[str, Any] = {"step": 1, "learned": "something new"}
    checkpoint.save(tmp_path / LAST, make()[0].parts(), facts)
    with pytest.raises(BadCheckpoint, match="was written by another release; delete it to start anew"):
        train(*make(), folder=tmp_path)


def test_a_checkpoint_of_another_stream_is_refused(make: Make, tmp_path: Path) -> None:
    train(*make(), folder=tmp_path, pace=Pace(stop_after_s=1e-9))
    with pytest.raises(StreamStateError, match="cannot resume: seed was 0 when the run was saved and is 1 now"):
        train(*make(seed=1), folder=tmp_path)
