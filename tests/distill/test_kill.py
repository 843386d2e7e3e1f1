"""Killed with SIGKILL at random moments and run again: the same bytes as a run that nobody disturbed.

The runs are children of a server that has imported torch once, so that a kill costs milliseconds and not seconds.
"""

import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.train import LAST, read_metrics
from shards.index import ShardFolder
from tests.distill import toys

KILLS = 4
UPDATES = {"kd": 24, "mosaickd": 80, "dfkd-mem": 60, "mad": 60}
PATIENCE = 60.0  # seconds for what takes one, on a machine that is busy with something else

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


@pytest.mark.parametrize("method", UPDATES)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_and_run_again(transfer_set: ShardFolder, weights: Path, tmp_path: Path, method: str, seed: int) -> None:
    moment = random.Random(f"{method} {seed}")

    def start(out: Path) -> "multiprocessing.context.ForkServerProcess":
        child = SERVER.Process(target=toys.train_often, args=(method, UPDATES[method], transfer_set.path, weights, out))
        child.start()
        return child

    undisturbed = start(tmp_path / "whole")
    undisturbed.join(PATIENCE)
    assert undisturbed.exitcode == 0
    whole = read_metrics(tmp_path / "whole")
    steps, step_s = whole[-1]["step"], whole[-2]["seconds"] / whole[-1]["step"]

    out, kills, resumed = tmp_path / "killed", 0, 0
    for _ in range(KILLS):
        resumed += (out / LAST).exists()
        target = max(1, lines(out) + moment.randint(0, steps // KILLS - 2))
        child, deadline = start(out), time.monotonic() + PATIENCE
        while lines(out) < target and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moment.random() * step_s)  # anywhere in a step: forward, backward, a checkpoint half written
        child.kill()
        child.join(PATIENCE)
        kills += child.exitcode == -signal.SIGKILL  # else it was done before us, on a machine that did not let us run
    assert kills >= 2
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
