"""Logits that a transfer set carries: the pixels they are of, and a teacher that is asked nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.material import Material
from distill.methods.base import Setup
from distill.models.student import fresh_student
from distill.models.teachers import Classifier, load_classifier
from distill.run import RunConfig, distill
from distill.telemetry import REMEMBERED
from distill.train import Pace
from shards.augment import crop_and_flip
from shards.device import Feed
from shards.index import ShardFolder
from shards.stream import Stream
from tests.distill import toys
from tests.distill.test_cli import Command, Distill

HELD_OUT = 10
"""images about which the teacher is asked once, to judge by"""


@pytest.fixture(scope="module")
def viewed(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    """The toy set with logits of three views, seeded as the runs below are."""
    return toys.write_transfer_set(tmp_path_factory.mktemp("viewed"), weights, views=3)


def asked_by(teacher: Classifier) -> list[int]:
    """Sizes of the batches that the teacher will be asked about."""
    found: list[int] = []
    teacher.register_forward_pre_hook(lambda _, arguments: found.append(len(arguments[0])))
    return found


def setup_for(material: Material, teacher: Classifier, *, seed: int = 9) -> Setup:
    student = fresh_student("wrn16_1", 4, mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU)
    views = material.views_for(teacher)
    return Setup(teacher=teacher, student=student, device=toys.CPU, steps=9, seed=seed, flip=True, views=views)


@pytest.mark.parametrize("resident", [False, True])
def test_pixels_are_those_of_the_view_and_logits_came_with_them(
    viewed: ShardFolder, weights: Path, resident: bool
) -> None:
    teacher, material = load_classifier(weights), Material.of(viewed)
    setup, asked = setup_for(material, teacher), asked_by(teacher)
    assert material.train is not None
    with Feed(Stream(material.train, batch_size=20), device=toys.CPU, resident=resident) as feed:
        lessons = [(batch, *setup.taught(batch)) for batch in (feed.take() for _ in range(2 * 5))]  # five epochs
    assert asked == []
    for batch, images_BCHW, logits_BK in lessons:
        view = batch.epoch % 3
        wanted = crop_and_flip(batch.images_BCHW, batch.keys, seed=0, view=view, flip=True, pad=4)
        assert torch.equal(images_BCHW, wanted)
        assert logits_BK.dtype == torch.float32
        torch.testing.assert_close(logits_BK, teacher(wanted).logits_BK, rtol=1e-3, atol=1e-3)
    assert lessons[-1][0].epoch == 4


def test_what_the_set_cannot_say_is_asked(transfer_set: ShardFolder, weights: Path) -> None:
    """No logits, or those of another teacher: crops go by the run's own seed, and the teacher is asked."""
    teacher, material = load_classifier(weights), Material.of(transfer_set)
    setup, asked = setup_for(material, teacher), asked_by(teacher)
    assert material.train is not None
    with Feed(Stream(material.train, batch_size=20), device=toys.CPU) as feed:
        batch = feed.take()
    images_BCHW, logits_BK = setup.taught(batch)
    assert asked == [20]
    assert torch.equal(images_BCHW, crop_and_flip(batch.images_BCHW, batch.keys, seed=9, view=0, flip=True))
    assert torch.equal(logits_BK, teacher(images_BCHW).logits_BK)


Run = Callable[..., tuple[dict[str, Any], list[int], dict[str, torch.Tensor]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(set, weights, config)``: its report, what the teacher was asked, the student."""

    def go(
        folder: ShardFolder, weights: Path, config: RunConfig
    ) -> tuple[dict[str, Any], list[int], dict[str, torch.Tensor]]:
        teacher = load_classifier(weights)
        asked, out = asked_by(teacher), tmp_path / f"{len(list(tmp_path.iterdir()))}"
        report = distill(Material.of(folder), teacher, config, out=out, place=toys.PLACE, pace=Pace(judge_every=1000))
        return report, asked, load_classifier(out / "student.safetensors").net.state_dict()

    return go


@pytest.mark.parametrize(
    ("method", "settings", "queries"),
    [
        ("kd", {"lr": 0.005}, 0),  # at ten times the rate two students of such a teacher part ways by themselves
        ("dfnd", {}, 0),
        ("mosaickd", {"student_steps": 2}, 5 * 8 * (1 + 2)),  # its own images: for itself, and for each update
    ],
)
def test_stored_logits_teach_as_the_teacher_does(
    run: Run, viewed: ShardFolder, weights: Path, *, method: str, settings: dict[str, Any], queries: int
) -> None:
    """Two epochs, of which the views are the very crops: what differs is the rounding to float16."""
    config = toys.run_config(method, **settings, **({"epochs": 1} if method == "mosaickd" else {}))
    cached, asked, mine = run(viewed, weights, config)
    assert sum(count for count in asked if count < REMEMBERED) == HELD_OUT + queries  # telemetry asks about more
    assert cached["teacher_queries"] == queries
    live, asked_live, theirs = run(viewed, weights, replace(config, logits="live"))
    assert live["teacher_queries"] == sum(n for n in asked_live if n < REMEMBERED) - HELD_OUT > queries
    apart = max(float((mine[name].float() - theirs[name].float()).abs().max()) for name in mine)
    other = run(viewed, weights, replace(config, seed=1, logits="live"))[2]
    far = max(float((mine[name].float() - other[name].float()).abs().max()) for name in mine)
    assert 0 < apart < 0.02 * far


def test_the_logits_of_another_teacher_are_not_used(run: Run, viewed: ShardFolder, tmp_path: Path) -> None:
    other = toys.write_teacher(tmp_path.parent / "other.safetensors", seed=1)
    report, asked, _ = run(viewed, other, toys.run_config("kd", updates=3))
    assert report["teacher_queries"] == sum(asked) - HELD_OUT == 3 * 8


def test_the_command_asks_where_it_is_told_to(command: Distill, viewed: ShardFolder, weights: Path) -> None:
    short: Command = ["train", "--shards", viewed.path, "--teacher-weights", weights, "--updates", "2", "--json"]
    short += ["--batch-size", "8", "--dtype", "float32", "--device", "cpu", "--threads", "1"]
    assert command(*short).json["teacher_queries"] == 0
    assert command(*short, "--logits", "live").json["teacher_queries"] == 16
    command(*short, "--logits", "cached").refused("logits is 'cached'; expected auto or live")
