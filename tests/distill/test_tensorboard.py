"""TensorBoard's files say what metrics.jsonl says, also after a kill; without the package it is refused at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.tensorboard import Board
from distill.train import read_metrics
from shards.index import ShardFolder
from tests.distill.test_cli import Command, Distill


@pytest.fixture
def short(transfer_set: ShardFolder, weights: Path) -> Command:
    """A run of four steps."""
    return [
        *("train", "--shards", transfer_set.path, "--teacher-weights", weights, "--updates", "4", "--batch-size", "8"),
        *("--lr", "0.05", "--dtype", "float32", "--device", "cpu", "--threads", "1", "--out", "run"),
    ]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_every_number_of_a_run_is_a_curve(command: Distill, short: Command) -> None:
    done = command(*short, "--method", "mosaickd", "--set", "student_steps=1", "--tensorboard", "--json")
    assert done.code == 0, done.err
    found = curves(Path("run"))
    assert {"kl", "adv", "local", "updates", "agreement", "synthetic.entropy", "synthetic.kl_now"} <= found.keys()
    lines = read_metrics(Path("run"))
    for name in ("kl", "agreement"):
        assert dict(found[name]) == pytest.approx({line["step"]: line[name] for line in lines if name in line})
    looks = {line["step"]: line["synthetic"]["entropy"] for line in lines if "synthetic" in line}
    assert dict(found["synthetic.entropy"]) == pytest.approx(looks)
    assert "synthetic.classes" not in found  # a list


def test_nothing_is_written_unasked(command: Distill, short: Command) -> None:
    command(*short)
    assert not list(Path("run").glob("events*"))
    plan = json.loads(Path("run/plan.json").read_text())
    assert command(*short, "--tensorboard", "--json").json["run"] == plan  # the same run


def test_what_a_killed_run_wrote_beyond_its_checkpoint_is_void(tmp_path: Path) -> None:
    def slice_of(steps: list[int], value: float) -> None:
        with Board(tmp_path) as board:
            for step in steps:
                board({"step": step, "kl": value})

    slice_of([20, 40, 60, 80], 1.0)
    slice_of([60, 80, 100], 2.0)  # its checkpoint was of step 50
    assert curves(tmp_path)["kl"] == [(20, 1.0), (40, 1.0), (60, 2.0), (80, 2.0), (100, 2.0)]


def test_a_board_without_lines_leaves_no_file(tmp_path: Path) -> None:
    with Board(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_is_refused_at_once(
    command: Distill, short: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, package: Any = None) -> None:
        return None

    monkeypatch.setattr("distill.tensorboard.find_spec", absent)
    command(*short, "--tensorboard").refused(
        "--tensorboard needs a package that is not here: pip install 'transferset[tensorboard]'"
    )
    assert not Path("run").exists()
