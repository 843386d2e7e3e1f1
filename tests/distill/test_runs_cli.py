"""Commands about methods and finished runs, and the ways to say what to train: files, seeds, forecasts, ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.explain import all_methods
from distill.methods import METHODS
from distill.run import STUDENT
from distill.train import LAST
from manifests.query import run_query
from shards.index import ShardFolder, open_folder
from shards.verify import verify
from tests.distill.test_cli import Command, Distill
from tests.distill.test_cli import distill as distill  # noqa: PLC0414  # a fixture of that file

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def short(transfer_set: ShardFolder, weights: Path) -> Command:
    return [
        *("train", "--shards", transfer_set.path, "--teacher-weights", weights, "--updates", "4", "--batch-size", "8"),
        *("--lr", "0.05", "--dtype", "float32", "--device", "cpu", "--threads", "1"),
    ]


def test_methods_are_listed_with_what_they_need_and_cost(distill: Distill) -> None:
    found = {method["method"]: method for method in distill("methods", "--json").json}
    assert [*found] == [name for name, method in METHODS.items() if not method.needs_labels]
    assert (found["kd"]["needs"], found["kd"]["queries_per_update"]) == ("transfer set", 128)
    assert (found["mosaickd"]["needs"], found["mad"]["needs"]) == ("transfer set + generator", "generator")
    assert found["mosaickd"]["phases"] == {"discriminator": 1, "generator": 1, "student": 5}
    listed = distill("methods").out
    assert all(f"\n{name} " in listed for name in found)


def test_every_setting_of_every_method_says_what_it_means(distill: Distill) -> None:
    for method in all_methods():
        for setting in method["settings"]:
            assert setting["meaning"], f"{method['method']}: {setting['name']}"
    one = distill("methods", "kd").out
    assert "learns from: transfer set" in one
    assert "of both softmaxes; the loss is multiplied by its square" in one
    distill("methods", "dk").refused("unknown method 'dk'; known: kd, ")


def test_a_dry_run_says_what_it_would_do_and_does_nothing(distill: Distill, short: Command) -> None:
    found = distill(*short, "--method", "mosaickd", "--dry-run", "--json").json
    assert found["cost"]["student updates"] == 5
    assert found["cost"]["teacher queries"] == 8 * 11
    assert found["cost"]["updates of the student a step"] == 5
    assert found["state"] == "would be started"
    assert found["settings"]["balance"] == 10.0
    assert not Path("runs").exists()
    assert "would be started" in distill(*short, "--dry-run").out
    distill(*short, "--dry-run", "--student", "convnet").refused("unknown model 'convnet'")


def test_options_from_a_file_and_the_command_line_wins(distill: Distill, short: Command) -> None:
    Path("run.toml").write_text(
        'method = "mosaickd"\nbatch-size = 4\nseed = 3\n[set]\nstudent_steps = 2\nnetworks = "paper"\n'
    )
    plan = distill(*short, "--config", "run.toml", "--out", "a", "--json").json["run"]
    assert (plan["method"], plan["seed"], plan["config"]["batch_size"]) == ("mosaickd", 3, 8)
    assert (plan["config"]["student_steps"], plan["config"]["networks"]) == (2, "paper")
    Path("bad.toml").write_text("methd = 1\n")
    distill(*short, "--config", "bad.toml").refused("--config bad.toml has 'methd', which is no option")
    Path("bad.toml").write_text("method = \n")
    distill(*short, "--config", "bad.toml").refused("--config bad.toml is not TOML")
    distill(*short, "--config", "gone.toml").refused("--config gone.toml does not exist")


def test_seeds_give_mean_and_spread(distill: Distill, short: Command) -> None:
    found = distill(*short, "--seeds", "0-1,4", "--out", "s", "--json").json
    assert [run["seed"] for run in found["runs"]] == [0, 1, 4]
    last = [json.loads(Path(f"s/seed-{seed}/report.json").read_text())["agreement"]["last"] for seed in (0, 1, 4)]
    assert found["last"]["mean"] == pytest.approx(sum(last) / 3)
    assert (found["last"]["n"], found["unfinished"]) == (3, 0)
    assert "agreement, last: 0." in distill(*short, "--seeds", "0-1,4", "--out", "s").out
    distill(*short, "--seeds", "0,x").refused("--seeds '0,x'; expected numbers such as 0,1,2 or 0-4")

    compared = distill("compare", "s", "--json").json
    (group,) = compared["groups"]
    assert (group["seeds"], group["agreement_last"]) == ([0, 1, 4], found["last"])
    assert "Agreement by student update" in Path("comparison.html").read_text()
    assert "±" in distill("compare", "s/seed-0", "s/seed-1").out
    distill("compare", "runs").refused("runs is no run and holds none (no report.json)")


def test_a_generator_makes_a_transfer_set(distill: Distill, short: Command) -> None:
    assert distill(*short, "--method", "mosaickd", "--out", "m").code == 0
    said = distill("synthesize", "m", "--count", "40", "--out", "syn", "--mosaic", "syn.png", "--device", "cpu",
                   "--dtype", "float32", "--threads", "1")  # fmt: skip
    assert said.code == 0, said.err
    folder = open_folder("syn")
    assert verify(folder.path).problems == ()
    rows = run_query(
        "SELECT count(*) AS n, min(entropy) > 0 AS scored FROM scores JOIN samples USING (key) WHERE shard IS NOT NULL",
        Path("syn"),
    )
    assert rows.to_pylist() == [{"n": folder.rows(), "scored": True}]
    assert Path("syn.png").read_bytes()[:4] == b"\x89PNG"
    again = [*short]
    again[2] = "syn"
    assert distill(*again, "--out", "onsyn").code == 0
    assert distill(*short, "--out", "k").code == 0
    distill("synthesize", "k").refused("k was trained by kd, which has no generator; mosaickd or mad have one")
    distill("synthesize", "gone").refused("gone")


def test_a_table_of_settings_holds_beside_what_is_typed(distill: Distill, short: Command) -> None:
    Path("run.toml").write_text('method = "mosaickd"\nlr = 0.2\n[set]\nstudent_steps = 2\nnetworks = "paper"\n')
    command = [*short[:-8], *short[-6:], "--config", "run.toml", "--dry-run", "--json"]  # --lr of the file
    found = distill(*command, "--set", "stride=2").json["settings"]
    assert [found[name] for name in ("student_steps", "networks", "stride", "lr")] == [2, "paper", 2, 0.2]
    found = distill(*command, "--set", "networks=code", "--set", "lr=0.3").json["settings"]
    assert [found[name] for name in ("student_steps", "networks", "lr")] == [2, "code", 0.3]
    distill(*command, "--lr", "0.3", "--set", "lr=0.4").refused("--set 'lr=0.4': lr was given before, as 0.3")
    Path("run.toml").write_text('set = "student_steps=2"\n')
    distill(*command).refused("expected a table [set]")


def test_one_says_which_seeds_once(distill: Distill, short: Command) -> None:
    distill(*short, "--seed", "1", "--seeds", "0,1").refused("--seed and --seeds both say which seeds")


@pytest.mark.parametrize(("option", "word"), [("--resident", "shelf"), ("--on-damage", "hope")])
def test_a_method_without_a_stream_takes_no_nonsense_either(
    distill: Distill, weights: Path, option: str, word: str
) -> None:
    distill("train", "--method", "abm", "--teacher-weights", weights, option, word).refused(
        f"{option} is {word!r}; expected one of"
    )


def test_a_dry_run_counts_what_choosing_costs(distill: Distill, short: Command) -> None:
    found = distill(*short, "--method", "kd3", "--set", "epochs=6", "--dry-run", "--json").json
    assert found["cost"]["teacher queries to choose images, at most"] == 3 * 40  # the teacher chooses in half of them


def test_a_student_is_exported(distill: Distill, short: Command) -> None:
    distill(*short, "--out", "run")
    said = distill("export", "run", "--out", "s.safetensors", "--which", "last")
    assert said.code == 0, said.err
    assert Path("s.safetensors").read_bytes() == Path("run/student.safetensors").read_bytes()
    distill("export", "run", "--out", "t.safetensors", "--which", "best").refused(
        "run has no 'best' student; it has last"
    )


def test_seeds_have_a_folder_of_their_own(distill: Distill, short: Command) -> None:
    assert distill(*short, "--out", "one").code == 0
    distill(*short, "--seeds", "0,1", "--out", "one").refused("one is the folder of one run; choose another --out")
    distill(*short, "--seeds", "0,0").refused("says 0 twice")
    distill(*short, "--seeds", "0,0", "--dry-run").refused("says 0 twice")
    distill(*short, "--seed", "9223372036854775808").refused("expected a number from 0 to 2^63 - 1")
    assert distill(*short, "--seeds", "0").code == 0
    found = distill(*short, "--seeds", "0,1", "--dry-run", "--json").json["runs"]
    states = {Path(out).name: state for out, state in found.items()}
    assert states == {
        "seed-0": "finished already: the same command shows its report",
        "seed-1": "would be started",
    }
    assert distill(*short).code == 0  # in a folder beside


def test_a_dry_run_keeps_no_teacher(distill: Distill, short: Command) -> None:
    assert distill(*short, "--dry-run").code == 0
    assert distill("teachers", "--json").json == []


def test_a_run_is_no_transfer_set(distill: Distill, short: Command) -> None:
    distill(*short, "--out", "one")
    again = [*short]
    again[2] = "one"
    distill(*again).refused("one is a run of training, not a transfer set")


def test_a_method_without_images_needs_a_teacher_alone(distill: Distill, weights: Path) -> None:
    command: Command = [
        *("train", "--method", "mad", "--teacher-weights", weights, "--updates", "2", "--batch-size", "8"),
        *("--set", "student_steps=2", "--set", "z_dim=8", "--dtype", "float32", "--device", "cpu", "--threads", "1"),
        *("--out", "d", "--json"),
    ]
    found = distill(*command).json
    assert (found["run"]["transfer_set"], found["student_updates"], found["images"]) == (None, 2, 0)
    assert found["agreement"]["images"] == 0
    distill("train", "--method", "mad").refused("which teacher? pass --teacher NAME or --teacher-weights FILE")


def ranks(count: int, arguments: Command, cwd: Path, home: Path) -> dict[str, Any]:
    """A run under torchrun; its report."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRANSFERSET_HOME": str(home), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run(
        [*launcher, "-m", "distill", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "mosaickd", "dfkd-mem", "mad"])
def test_two_ranks_train_one_student(short: Command, weights: Path, tmp_path: Path, method: str) -> None:
    """Stopped with two ranks and resumed with two, it ends with the same bytes."""
    command: Command = [*short, "--method", method, "--updates", "120", "--json"]
    if method in ("dfkd-mem", "mad"):
        command = ["train", *command[3:], "--set", "student_steps=2", "--set", "fill=2", "--set", "z_dim=8"]
    done = ranks(2, [*command, "--out", "whole"], tmp_path, tmp_path / "home")
    assert (done["ranks"], done["finished"], done["student_updates"]) == (2, True, 120)
    stopped = ranks(2, [*command, "--out", "sliced", "--stop-after", "0.01s"], tmp_path, tmp_path / "home")
    assert 0 < stopped["student_updates"] < 120
    assert ranks(2, [*command, "--out", "sliced"], tmp_path, tmp_path / "home")["finished"]
    sliced, whole = (load_file(tmp_path / name / LAST) for name in ("sliced", "whole"))
    assert [name for name in whole if not torch.equal(sliced[name], whole[name])] == []
    assert (tmp_path / "sliced" / STUDENT).read_bytes() == (tmp_path / "whole" / STUDENT).read_bytes()
