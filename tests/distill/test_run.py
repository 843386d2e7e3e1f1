"""A whole run in its folder: what is in it, what it says of itself, and what happens when it is asked for again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import run as run_module
from distill.errors import DamagedCheckpoint, DistillError, UnknownMethod, UnknownModel, UnsupportedSize
from distill.material import Material
from distill.models import spec
from distill.models.teachers import Classifier, load_classifier
from distill.run import RunConfig, default_out, distill, load_run
from distill.train import LAST, METRICS, Pace, read_metrics
from manifests.commit import exclusive
from manifests.errors import Busy, OutputConflict, TransfersetError
from shards.errors import ShardError
from shards.index import ShardFolder
from shards.sources import LocalBlocks
from shards.stream import Stream
from tests.distill import toys
from tests.distill.test_teachers import rewrite

OFTEN = Pace(log_every=2, judge_every=3, save_every_s=0)
METHODS = ("kd", "mosaickd")


@pytest.fixture(scope="module")
def teacher(weights: Path) -> Classifier:
    return load_classifier(weights)


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(transfer_set: ShardFolder, teacher: Classifier) -> Run:
    """``run(out, method, ...)`` on the toy set."""

    def go(out: Path, method: str = "kd", *, config: RunConfig | None = None, **how: Any) -> dict[str, Any]:
        config = config or toys.run_config(method, updates=6)
        return distill(Material.of(transfer_set), teacher, config, out=out, place=toys.PLACE, **{"pace": OFTEN, **how})

    return go


# a finished run


@pytest.mark.parametrize("method", METHODS)
def test_what_a_run_leaves(
    run: Run, transfer_set: ShardFolder, teacher: Classifier, tmp_path: Path, method: str
) -> None:
    report = run(tmp_path / "run", method)
    expected = {"plan.json", "report.json", "report.html", "student.safetensors", "chosen.safetensors", METRICS, LAST}
    expected |= {"runs.parquet", "metrics.parquet"}
    files = {p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert files - {".lock"} == expected | ({"mosaics/synthetic.png"} if method == "mosaickd" else set())
    assert report == json.loads((tmp_path / "run" / "report.json").read_bytes())
    assert report["run"] == json.loads((tmp_path / "run" / "plan.json").read_bytes())
    assert report["run"]["transfer_set"] == transfer_set.id
    assert report["run"]["teacher"] == report["teacher"]["sha256"] == teacher.sha256
    assert report["images"] == 40
    assert report["finished"] is True
    student = load_classifier(tmp_path / "run" / "student.safetensors")
    assert (student.arch, student.classes, student.mean, student.std) == (
        "wrn16_1",
        teacher.classes,
        teacher.mean,
        teacher.std,
    )
    assert (student.metadata["teacher"], student.metadata["method"]) == (teacher.sha256, method)
    assert student.metadata["dataset"] == f"transfer set {transfer_set.id}"


@pytest.mark.parametrize(
    ("method", "updates", "steps", "made", "queries"),
    [("kd", 6, 6, 6, 6 * 8), ("mosaickd", 10, 2, 10, 2 * 11 * 8), ("mosaickd", 6, 2, 10, 2 * 11 * 8)],
)
def test_hidden_student_steps_are_counted(
    run: Run, tmp_path: Path, *, method: str, updates: int, steps: int, made: int, queries: int
) -> None:
    """Whole outer iterations: mosaickd rounds the student's updates up to a multiple of five."""
    report = run(tmp_path / "run", config=toys.run_config(method, updates=updates))
    assert (report["steps"], report["steps_planned"]) == (steps, steps)
    assert (report["student_updates"], report["teacher_queries"]) == (made, queries)
    assert read_metrics(tmp_path / "run")[-2]["updates"] == made


def test_epochs_set_the_steps(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path / "kd", config=toys.run_config("kd"))["steps"] == 2 * (40 // 8)
    assert run(tmp_path / "mosaickd", config=toys.run_config("mosaickd", epochs=1))["steps"] == 40 // 8


def test_chosen_is_the_best_on_the_held_out_slice_and_last_is_last(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = iter([0.2, 0.8, 0.5, 0.5])  # after steps 3, 6 and 8, and for the report
    monkeypatch.setattr(run_module._Judge, "__call__", lambda self: next(ratings))
    report = run(tmp_path / "run", config=toys.run_config("kd", updates=8))
    assert report["agreement"] == {
        "split": "holdout",
        "images": 10,
        "majority": 0.7,
        "last": 0.5,
        "chosen": 0.8,
        "chosen_step": 6,
    }
    monkeypatch.undo()
    students = load_run(tmp_path / "run", dtype="float32", device=toys.CPU)
    assert list(students) == ["last", "chosen"]
    assert students["last"].sha256 != students["chosen"].sha256


def test_agreement_is_what_student_and_teacher_say_of_the_held_out_images(
    run: Run, transfer_set: ShardFolder, teacher: Classifier, tmp_path: Path
) -> None:
    report = run(tmp_path / "run")
    student = load_classifier(tmp_path / "run" / "student.safetensors")
    (batch,) = Stream(LocalBlocks(transfer_set, "holdout"), batch_size=10, shuffle=False).one_epoch()
    images_BCHW = torch.from_numpy(batch.images_BCHW)
    same = student(images_BCHW).logits_BK.argmax(1) == teacher(images_BCHW).logits_BK.argmax(1)
    assert report["agreement"]["last"] == pytest.approx(same.float().mean().item())


def test_an_empty_holdout(teacher: Classifier, weights: Path, tmp_path: Path) -> None:
    folder = toys.write_transfer_set(tmp_path, weights, train=16, holdout=0)
    report = distill(Material.of(folder), teacher, toys.run_config("kd"), out=tmp_path / "run", place=toys.PLACE)
    assert report["agreement"] == {
        "split": "holdout",
        "images": 0,
        "majority": None,
        "last": None,
        "chosen": None,
        "chosen_step": None,
    }
    assert not (tmp_path / "run" / "chosen.safetensors").exists()
    assert list(load_run(tmp_path / "run", dtype="float32", device=toys.CPU)) == ["last"]
    assert "Agreement with the teacher" not in (tmp_path / "run" / "report.html").read_text()


# the same bits


@pytest.mark.parametrize("method", METHODS)
def test_the_same_run_gives_the_same_bytes(run: Run, tmp_path: Path, method: str) -> None:
    for name in ("a", "b"):
        run(tmp_path / name, method)
    for file in ("student.safetensors", "chosen.safetensors", "plan.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    run(tmp_path / "c", config=toys.run_config(method, updates=6, seed=1))
    assert (tmp_path / "c" / "student.safetensors").read_bytes() != (
        tmp_path / "a" / "student.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_slices_add_up_to_the_undisturbed_run(run: Run, tmp_path: Path, method: str) -> None:
    config = toys.run_config(method, updates={"kd": 6, "mosaickd": 15}[method])
    whole = report = run(tmp_path / "whole", config=config)
    for step in range(1, whole["steps"] + 1):
        report = run(tmp_path / "sliced", config=config, pace=replace(OFTEN, stop_after_s=1e-9))
        assert (report["steps"], report["finished"]) == (step, step == whole["steps"])
        assert (tmp_path / "sliced" / "student.safetensors").exists()  # of what it is so far
    for file in ("student.safetensors", "chosen.safetensors"):
        assert (tmp_path / "sliced" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    volatile = {"seconds", "transfer_set", "hardware"}
    assert {k: v for k, v in report.items() if k not in volatile} == {
        k: v for k, v in whole.items() if k not in volatile
    }


def test_a_finished_run_is_shown_again_without_doing_anything(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "run")
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "run").rglob("*.*") if p.name != ".lock"}
    monkeypatch.setattr(run_module, "train", None)
    monkeypatch.setattr(run_module, "_Judge", None)
    torch.set_num_threads(2)  # the report is of the machine that did the work
    try:
        assert run(tmp_path / "run") == first
    finally:
        torch.set_num_threads(1)
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before}
    del before[tmp_path / "run" / "plan.json"], after[tmp_path / "run" / "plan.json"]  # written anew, the same
    assert after == before


@pytest.mark.parametrize("killed_in", ["save_classifier", "write_report", "write_json"])
def test_killed_after_the_last_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str) -> None:
    whole = run(tmp_path / "whole", "mosaickd")

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module._Judge, "__call__", lambda self: 0.5)
        run(tmp_path / "run", "mosaickd", pace=Pace(stop_after_s=1e-9))
        patch.setattr(run_module, killed_in, kill)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", "mosaickd", pace=Pace(judge_every=100))
    report = run(tmp_path / "run", "mosaickd")
    assert report["finished"] is True
    assert report["steps"] == whole["steps"]
    for file in ("student.safetensors", "mosaics/synthetic.png"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


# another run in the same folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "was made differently: seed was 0, now 1; choose another folder, or pass --replace"),
        ({"updates": 7}, "was made differently: updates was 6, now 7"),
        ({"lr": 0.5}, r"was made differently: config.lr was 0.05, now 0.5"),
        ({"method": "mosaickd"}, r"was made differently: config.adv was not there, now 1.0; .*and \d+ more"),
    ],
)
def test_another_config_is_refused(run: Run, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    run(tmp_path / "run", pace=Pace(stop_after_s=1e-9))
    before = (tmp_path / "run" / LAST).read_bytes()
    with pytest.raises(OutputConflict, match=words):
        run(tmp_path / "run", config=toys.run_config(**{"method": "kd", "updates": 6, **change}))
    assert (tmp_path / "run" / LAST).read_bytes() == before


def test_a_teacher_that_looks_otherwise_is_another(
    run: Run, transfer_set: ShardFolder, teacher: Classifier, weights: Path, tmp_path: Path
) -> None:
    """Equal tensors, another normaliser: its set is refused. Equal tensors, other mirroring: its run is."""
    run(tmp_path / "run", pace=Pace(stop_after_s=1e-9))
    for name, put, words in (
        (
            "mean",
            {"mean": "0.1,0.1,0.1"},
            r"was chosen by wrn16_1-.* when its mean was \[0.5, .*; now .* \[0.1, ",
        ),
        ("flip", {"flip": "false"}, "was made differently: flip was True, now False"),
    ):
        changed = rewrite(Path(shutil.copy(weights, tmp_path / f"{name}.safetensors")), put=put)
        other = load_classifier(changed)
        assert other.sha256 == teacher.sha256
        with pytest.raises(TransfersetError, match=words):
            distill(
                Material.of(transfer_set),
                other,
                toys.run_config("kd", updates=6),
                out=tmp_path / "run",
                place=toys.PLACE,
            )


def test_code_that_builds_a_network_is_part_of_the_plan(
    transfer_set: ShardFolder, teacher: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "net.py"
    arch = f"{path}:make"
    plans = []
    for comment in ("", "# changed"):
        path.write_text(f"from distill.models import build\ndef make(k): return build('wrn16_1', k)\n{comment}")
        spec.cache_clear()
        plans.append(
            replace(toys.run_config("kd"), student=arch).plan(Material.of(transfer_set), teacher, device=toys.CPU)
        )
    assert plans[0]["code"][0] is None
    assert plans[0]["code"][1] != plans[1]["code"][1]
    assert "code" not in toys.run_config("kd").plan(Material.of(transfer_set), teacher, device=toys.CPU)


def test_replace_moves_the_other_run_aside(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "run")
    before = (tmp_path / "run" / "student.safetensors").read_bytes()
    report = run(tmp_path / "run", config=toys.run_config("kd", updates=6, seed=1), replace=True)
    assert report["run"]["seed"] == 1
    assert (tmp_path / "run.old-1" / "student.safetensors").read_bytes() == before
    assert (tmp_path / "run" / "student.safetensors").read_bytes() != before


def test_a_folder_of_something_else_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputConflict, match=r"holds something else \(thesis.tex\)"):
        run(tmp_path / "run")


def test_two_runs_at_once_are_refused(run: Run, tmp_path: Path) -> None:
    with exclusive(tmp_path / "run"), pytest.raises(Busy, match="is being written by process"):
        run(tmp_path / "run")


def test_a_damaged_checkpoint_is_refused(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "run", pace=Pace(stop_after_s=1e-9))
    path = tmp_path / "run" / LAST
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DamagedCheckpoint, match="is damaged or no checkpoint"):
        run(tmp_path / "run")
    path.unlink()
    assert run(tmp_path / "run")["finished"] is True


# what is refused before anything is written


def test_nothing_is_written_by_a_run_that_cannot_begin(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="batch size 41 does not fit the 40 images in split 'train'"):
        run(tmp_path / "run", config=toys.run_config("kd", batch_size=41))
    assert not (tmp_path / "run").exists()


def test_a_teacher_for_another_size(transfer_set: ShardFolder, tmp_path: Path) -> None:
    large = load_classifier(toys.write_teacher(tmp_path / "t.safetensors", size=16))
    with pytest.raises(
        DistillError, match=r"holds 8 px images, wrn16_1-\w+ takes 16 px; curate again with this teacher"
    ):
        distill(Material.of(transfer_set), large, toys.run_config("kd"), out=tmp_path / "run", place=toys.PLACE)
    assert not (tmp_path / "run").exists()


def test_a_size_that_the_generator_cannot_make(tmp_path: Path) -> None:
    weights = toys.write_teacher(tmp_path / "t.safetensors", size=10)
    folder = toys.write_transfer_set(tmp_path, weights, size=10)
    with pytest.raises(UnsupportedSize, match="a multiple of 4; got 10"):
        distill(
            Material.of(folder),
            load_classifier(weights),
            toys.run_config("mosaickd"),
            out=tmp_path / "r",
            place=toys.PLACE,
        )
    assert not (tmp_path / "r").exists()


def test_configs_that_make_no_sense() -> None:
    with pytest.raises(DistillError, match="--updates is 0; expected at least 1"):
        toys.run_config("kd", updates=0)
    with pytest.raises(DistillError, match="supervised needs labels and a transfer set has none; `distill pretrain`"):
        toys.run_config("supervised")
    with pytest.raises(UnknownMethod, match="unknown method 'dkd'; known: kd, "):
        RunConfig(method="dkd", student="wrn16_1", config=toys.run_config("kd").config)
    with pytest.raises(UnknownModel, match="unknown model 'convnet'; known: wrn16_1"):
        replace(toys.run_config("kd"), student="convnet")


def test_equal_plans_share_a_default_folder(transfer_set: ShardFolder, teacher: Classifier) -> None:
    plans = [toys.run_config("kd", seed=s).plan(Material.of(transfer_set), teacher, device=toys.CPU) for s in (0, 0, 1)]
    outs = [default_out(plan, "kd", "wrn16_1") for plan in plans]
    assert outs[0] == outs[1] != outs[2]
    assert outs[0].as_posix().startswith("runs/kd-wrn16_1-")


# loading


def test_load_run_refuses_what_is_no_finished_run(run: Run, tmp_path: Path) -> None:
    for absent, made in (("student.safetensors", False), ("report.json", True)):
        if made:
            run(tmp_path / "run")
            (tmp_path / "run" / "report.json").unlink()
        with pytest.raises(
            DistillError, match=rf"is no finished run \(no {absent} in it\); make one with `distill train`"
        ):
            load_run(tmp_path / "run", dtype="float32", device=toys.CPU)
