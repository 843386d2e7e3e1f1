"""A method that chooses its images: asked before each epoch, and again, without a look, where it resumes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill import checkpoint
from distill.methods.base import Choice, Config, Look, Method, Setup, Stateful
from distill.models.student import fresh_student
from distill.train import LAST, Pace, Progressed, read_metrics, train
from shards.errors import StreamStateError
from shards.index import ShardFolder
from shards.sources import LocalBlocks
from shards.stream import Stream
from tests.distill import toys

ROWS, BATCH, EPOCHS = 40, 4, 3
LEFT = (12, 8, 21)
"""images chosen in each epoch: 3, 2 and 5 whole batches"""


class Choosy(Method):
    """Learns nothing; takes the first rows of the set, another number each epoch, and notes what it is given."""

    config_class = Config
    source = "none"

    def __init__(self, setup: Setup, config: Config) -> None:
        super().__init__(setup, config)
        self.choice = Choice()
        self.given: list[tuple[int, list[bytes]]] = []
        self.looks: list[tuple[int, list[bytes]]] = []

    def parts(self) -> dict[str, Stateful]:
        return {"student": self.setup.student.net, "choice": self.choice}

    def choose(self, epoch: int, look: Look) -> NDArray[np.bool_] | None:
        if self.choice.epoch != epoch:
            self.looks.append((epoch, [key for batch in look() for key in batch.keys.tolist()]))
            self.choice.epoch, self.choice.rows_N = epoch, np.arange(ROWS) < LEFT[epoch]
        return self.choice.rows_N

    def step(self, real: Sequence[Any], step: int) -> dict[str, Tensor]:
        self.given += [(batch.epoch, batch.keys.tolist()) for batch in real]
        return {"loss": torch.zeros(())}


Go = Callable[..., tuple[Choosy, Progressed]]


@pytest.fixture
def go(transfer_set: ShardFolder) -> Go:
    """``go(folder, ...)``: a process's part of the run."""

    def part(folder: Path, **how: Any) -> tuple[Choosy, Progressed]:
        student = fresh_student("wrn16_1", 2, mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU)
        setup = Setup(teacher=None, student=student, device=toys.CPU, steps=EPOCHS * ROWS // BATCH, seed=0, flip=True)
        method = Choosy(setup, Config(batch_size=BATCH, epochs=EPOCHS))
        stream = Stream(LocalBlocks(transfer_set, "train"), batch_size=BATCH)
        folder.mkdir(exist_ok=True)
        return method, train(method, stream, folder=folder, pace=Pace(log_every=1, save_every_s=0, **how))

    return part


@pytest.fixture
def stored(transfer_set: ShardFolder) -> list[bytes]:
    """All keys, in stored order."""
    source = LocalBlocks(transfer_set, "train")
    return [key for number in range(len(source.counts)) for key in source.read(number).keys.tolist()]


def test_each_epoch_is_of_its_own_choice_and_as_long(go: Go, stored: list[bytes], tmp_path: Path) -> None:
    method, done = go(tmp_path / "run")
    assert [epoch for epoch, _ in method.given] == [0] * 3 + [1] * 2 + [2] * 5
    for epoch, left in enumerate(LEFT):
        seen = [key for at, keys in method.given for key in keys if at == epoch]
        assert len(set(seen)) == len(seen) == left // BATCH * BATCH
        assert set(seen) <= set(stored[:left])
    assert method.looks == [(epoch, stored) for epoch in range(EPOCHS)]
    assert (done.step, done.ended) == (10, True)  # fewer than the steps of the whole stream


def test_stopped_after_each_step_it_goes_on_as_if_it_had_not_been(go: Go, tmp_path: Path) -> None:
    whole, _ = go(tmp_path / "whole")
    given: list[tuple[int, list[bytes]]] = []
    looks: list[tuple[int, list[bytes]]] = []
    for _ in range(20):
        method, done = go(tmp_path / "sliced", stop_after_s=0.0)
        given, looks = given + method.given, looks + method.looks
        if done.ended:
            break
    assert given == whole.given
    assert looks == whole.looks  # resumed within an epoch it looks no more
    assert [line["step"] for line in read_metrics(tmp_path / "sliced")] == [*range(1, 11)]
    again, done = go(tmp_path / "sliced")
    assert (again.given, again.looks, done.ended) == ([], [], True)


def test_a_choice_that_is_not_the_saved_one_is_refused(go: Go, tmp_path: Path) -> None:
    """The stream remembers the hash of its mask."""
    method, _ = go(tmp_path / "run", stop_after_s=0.0)
    facts = checkpoint.load(tmp_path / "run" / LAST, method.parts())
    method.choice.rows_N = ~method.choice.rows_N
    checkpoint.save(tmp_path / "run" / LAST, method.parts(), facts)
    with pytest.raises(StreamStateError, match="cannot resume: mask was '"):
        go(tmp_path / "run")
