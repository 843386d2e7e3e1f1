"""What a run would cost, by hand, and that a forecast leaves no trace; a run then does what was said."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.errors import DistillError
from distill.forecast import forecast
from distill.material import Material
from distill.models import build
from distill.models.teachers import load_classifier
from distill.run import RunConfig, distill
from distill.train import Pace
from manifests.errors import OutputConflict
from shards.index import ShardFolder
from tests.distill import toys


def said(material: Material, weights: Path, run: RunConfig, out: Path) -> dict[str, Any]:
    return forecast(material, load_classifier(weights), run, place=toys.PLACE, out=out)


@pytest.mark.parametrize(
    ("method", "settings", "cost"),
    [
        # 40 images, batches of 8: 5 steps an epoch
        ("kd", {"epochs": 3}, {"steps": 15, "student updates": 15, "teacher queries": 15 * 8, "epoch": 40}),
        (
            "mosaickd",
            {"epochs": 1, "student_steps": 4},
            {"steps": 5, "student updates": 20, "teacher queries": 5 * 8 * (1 + 2 * 4), "epoch": 40},
        ),
        (
            "mad",  # 2 epochs of 4 stages: a generator update and 3 of the student, of a batch from each generator
            {"epochs": 2, "steps_per_epoch": 4},
            {"steps": 8, "student updates": 24, "teacher queries": 8 * 8 * (1 + 3 * 2), "epoch": 0},
        ),
    ],
)
def test_costs_by_hand_and_as_they_turn_out(
    transfer_set: ShardFolder, weights: Path, tmp_path: Path, *, method: str, settings: Any, cost: dict[str, int]
) -> None:
    material = Material.of(transfer_set) if method != "mad" else Material()
    run, out = toys.run_config(method, **settings), tmp_path / "run"
    found = said(material, weights, run, out)["cost"]
    assert {**found, "epoch": found["images in an epoch"]} == {**found, **cost}
    assert found["student parameters"] == sum(p.numel() for p in build("wrn16_1", 4).parameters())
    assert not out.exists()
    seldom = Pace(judge_every=1000)  # a look at what a generator makes costs more than a step here
    report = distill(material, load_classifier(weights), run, out=out, place=toys.PLACE, pace=seldom)
    assert (report["student_updates"], report["teacher_queries"]) == (cost["student updates"], cost["teacher queries"])


def test_logits_that_are_there_cost_nothing(weights: Path, tmp_path: Path) -> None:
    material = Material.of(toys.write_transfer_set(tmp_path, weights, views=2))
    assert said(material, weights, toys.run_config("kd"), tmp_path / "r")["cost"]["teacher queries"] == 0


def test_the_state_of_the_folder(transfer_set: ShardFolder, weights: Path, tmp_path: Path) -> None:
    material, run, out = Material.of(transfer_set), toys.run_config("kd", updates=3), tmp_path / "run"
    states = [said(material, weights, run, out)["state"]]
    for pace in (Pace(stop_after_s=0.0), Pace()):
        distill(material, load_classifier(weights), run, out=out, place=toys.PLACE, pace=pace)
        states.append(said(material, weights, run, out)["state"])
    assert states == [
        "would be started",
        "would be resumed",
        "finished already: the same command shows its report",
    ]


def test_it_refuses_what_the_run_would_refuse(transfer_set: ShardFolder, weights: Path, tmp_path: Path) -> None:
    material, out = Material.of(transfer_set), tmp_path / "run"
    distill(material, load_classifier(weights), toys.run_config("kd", updates=1), out=out, place=toys.PLACE)
    with pytest.raises(OutputConflict, match="was made differently: seed was 0, now 1"):
        said(material, weights, toys.run_config("kd", updates=1, seed=1), out)
    with pytest.raises(DistillError, match="kd learns from images; pass --shards, or take a method without"):
        said(Material(), weights, toys.run_config("kd"), tmp_path / "other")
    large = toys.write_teacher(tmp_path / "large.safetensors", size=16)
    with pytest.raises(DistillError, match=r"holds 8 px images, .* takes 16 px"):
        said(material, large, toys.run_config("kd"), tmp_path / "other")


def test_the_settings_are_the_resolved_ones(transfer_set: ShardFolder, weights: Path, tmp_path: Path) -> None:
    run = toys.run_config("kd", temperature=3.0)
    before = torch.get_rng_state()
    settings = said(Material.of(transfer_set), weights, run, tmp_path)["settings"]
    assert torch.equal(torch.get_rng_state(), before)
    assert (settings["temperature"], settings["batch_size"], settings["student"]) == (3.0, 8, "wrn16_1")
    assert settings["residence"] == "memory"
