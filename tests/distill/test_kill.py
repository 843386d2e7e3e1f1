"""Killed with SIGKILL at random moments and run again: the same bytes as a run that nobody disturbed.

The runs are children of a server that has imported torch once, so that a kill costs milliseconds and not seconds.
"""

import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.methods import METHODS
from distill.train import LAST, read_metrics
from shards.index import ShardFolder
from tests.distill import toys

STEPS = {"few": 12, "many": 64}
KILLS = {"few": 2, "many": 20}
BRIEF: dict[str, Any] = {"batch_size": 4, "epochs": 64}  # kd3's epochs are as short as what it chooses
SETTINGS: dict[str, dict[str, Any]] = {
    "kd": {},
    "fitnet": {"hint": 0.1},  # the maps of a teacher that was never trained are large
    "kd3": {"threshold": 0.3},  # nor is it sure of much
    "dfnd": {},
    "mosaickd": {"student_steps": 2},
    **{name: {"student_steps": 2, "fill": 2} for name in ("abm", "dfkd-mem", "mad")},
}
PATIENCE = 120.0  # seconds for what takes one, on a machine that is busy with something else

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.distill.toys", "torch._dynamo"])  # the second is what torch.optim loads late


def lines(out: Path) -> int:
    return len([line for line in read_metrics(out) if "updates" in line])


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    yield
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def test_every_method_is_killed() -> None:
    assert [*SETTINGS] == [name for name, method in METHODS.items() if not method.needs_labels]


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("how", ["few", pytest.param("many", marks=pytest.mark.slow)])
def test_killed_and_run_again(transfer_set: ShardFolder, weights: Path, tmp_path: Path, method: str, how: str) -> None:
    moment, steps = random.Random(f"{method} {how}"), STEPS[how]
    settings = BRIEF | SETTINGS[method]

    def start(out: Path) -> "multiprocessing.context.ForkServerProcess":
        updates = steps * settings.get("student_steps", 1)
        arguments = (method, updates, transfer_set.path, weights, out)
        child = SERVER.Process(target=toys.train_often, args=arguments, kwargs=settings)
        child.start()
        return child

    undisturbed = start(tmp_path / "whole")
    undisturbed.join(PATIENCE)
    assert undisturbed.exitcode == 0
    whole = read_metrics(tmp_path / "whole")
    step_s = next(line["seconds"] for line in reversed(whole) if "seconds" in line) / steps
    assert whole[-1]["step"] == steps

    out, kills, resumed = tmp_path / "killed", 0, 0
    for target in sorted(moment.sample(range(3, steps, 2), KILLS[how])):  # after a checkpoint, and a step of its own
        resumed += (out / LAST).exists()
        child, deadline = start(out), time.monotonic() + PATIENCE
        while lines(out) < target and time.monotonic() < deadline and child.is_alive():
            time.sleep(0.001)
        time.sleep(moment.random() * step_s)  # anywhere in a step: forward, backward, a checkpoint half written
        child.kill()
        child.join(PATIENCE)
        kills += child.exitcode == -signal.SIGKILL  # else it was done before us, on a machine that did not let us run
    assert kills >= KILLS[how] - 1
    assert resumed >= kills - 1

    last = start(out)
    last.join(PATIENCE)
    assert last.exitcode == 0
    for file in ("student.safetensors", "chosen.safetensors", "plan.json"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    for key in ("updates", "agreement"):
        found = [line["step"] for line in read_metrics(out) if key in line]
        assert found == [line["step"] for line in read_metrics(tmp_path / "whole") if key in line]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == len(read_metrics(out))
    assert not list(out.rglob("*.part"))
