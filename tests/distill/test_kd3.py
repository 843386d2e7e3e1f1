"""kd3: the shared classifier, the choice of an epoch's images, and what a step computes."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill import checkpoint
from distill.errors import DistillError
from distill.losses.mix_style import mix_style
from distill.losses.nt_xent import nt_xent
from distill.material import Material
from distill.methods.base import Setup
from distill.methods.dynamic_selection import chosen, teacher_share
from distill.methods.kd3 import KD3, KD3Config
from distill.methods.schedules import step_eighths
from distill.models.student import fresh_student
from distill.models.teachers import load_classifier, save_classifier
from distill.run import distill, load_run
from distill.train import Pace
from shards.device import RealBatch
from shards.index import ShardFolder
from tests.conformance.test_methods import real
from tests.distill import toys


def make(weights: Path, *, student: str = "wrn16_1", seed: int = 3, steps: int = 4, **settings: Any) -> KD3:
    net = fresh_student(
        student, len(toys.CLASSES), mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU
    )
    setup = Setup(teacher=load_classifier(weights), student=net, device=toys.CPU, steps=steps, seed=seed, flip=True)
    torch.manual_seed(0)
    return KD3(setup, KD3Config(**{"batch_size": 8, "epochs": 24, **settings}))


# classifier sharing


def test_the_classifier_is_the_teachers_and_stays(weights: Path) -> None:
    method = make(weights)
    for step in range(2):
        method.step([real(step)], step)
    head, shared = (
        net.get_submodule(name)
        for net, name in ((method.setup.the_teacher.net, "fc"), (method.setup.student.net, "classifier"))
    )
    assert all(torch.equal(p, q) for p, q in zip(head.parameters(), shared.parameters(), strict=True))
    assert all(p.grad is None for p in shared.parameters())
    moved = dict(method.setup.student.net.named_parameters())
    assert moved["projector.0.weight"].grad is not None
    assert moved["backbone.conv1.weight"].grad is not None


def test_what_is_deployed_loads_again(weights: Path, tmp_path: Path) -> None:
    method = make(weights, student="resnet8x4")
    method.step([real(0)], 0)
    student, path = method.deployed(), tmp_path / "student.safetensors"
    assert student.arch == "projected:resnet8x4:64"
    facts = {"mean": student.mean, "std": student.std, "classes": toys.CLASSES, "input_size": toys.SIZE}
    save_classifier(path, student.net, arch=student.arch, **facts)  # type: ignore[arg-type]
    images_BCHW = real(1).images_BCHW
    student.net.eval()
    with torch.no_grad():
        assert torch.equal(load_classifier(path)(images_BCHW).logits_BK, student(images_BCHW))


def test_the_student_that_came_is_left_alone(weights: Path) -> None:
    net = fresh_student(
        "wrn16_1", len(toys.CLASSES), mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU
    )
    before = net(real(0).images_BCHW)
    setup = Setup(teacher=load_classifier(weights), student=net, device=toys.CPU, steps=4, seed=3, flip=True)
    KD3(setup, KD3Config(batch_size=8)).step([real(0)], 0)
    assert torch.equal(net(real(0).images_BCHW), before)


# a step


def test_a_step_by_hand(weights: Path) -> None:
    method, batch = make(weights), real(1)
    x = method.setup.augmented(batch) / 255
    draws = method.setup.draws("restyle", 2)
    partners, mixing = torch.from_numpy(draws.permutation(8)), torch.from_numpy(draws.beta(0.1, 0.1, 8))
    both = torch.cat([x, mix_style(x, partners, mixing_B=mixing)])
    teacher, student = method.setup.the_teacher, method.setup.student
    with torch.no_grad(), teacher.watch(maps=["bn1"]):
        told, seen = teacher(both), student.view(both)
    square = (seen.maps["projector"] - F.relu(told.maps["bn1"]))[:8].square().mean(dim=(1, 2, 3))
    weight = 1 / (1 + (-(seen.logits_BK - told.logits_BK)[:8].square().sum(1).sqrt()).exp())
    terms = make(weights).step([batch], 2)
    assert list(terms) == ["align", "contrast_student", "contrast_teacher"]
    assert terms["align"].item() == pytest.approx((weight * square).mean().item(), rel=1e-4)
    for name, view in {"student": seen, "teacher": told}.items():
        z = method.heads[name](view.features_BD).detach()
        assert z.shape == (16, 128)
        expected = nt_xent(z[:8], z[8:], temperature=0.3)
        assert terms[f"contrast_{name}"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_styles_are_addressed_by_seed_and_step(weights: Path) -> None:
    method, x = make(weights), real(0).images_BCHW / 255
    first = method._restyled(x, 5)
    assert torch.equal(first, method._restyled(x, 5))
    assert not torch.equal(first, method._restyled(x, 6))
    assert not torch.equal(first, make(weights, seed=4)._restyled(x, 5))
    mixing = method.setup.draws("many", 0).beta(0.1, 0.1, 4000)
    assert mixing.mean() == pytest.approx(0.5, abs=0.03)
    assert ((mixing < 0.05) | (mixing > 0.95)).mean() > 0.7  # mostly one style or the other
    assert np.isfinite(mixing).all()


@pytest.mark.parametrize(
    ("settings", "queries", "names"),
    [
        ({}, 16, ["align", "contrast_student", "contrast_teacher"]),
        ({"contrast_teacher": False}, 8, ["align", "contrast_student"]),
        ({"contrast": 0.0}, 8, ["align"]),
    ],
)
def test_what_is_not_wanted_costs_nothing(
    weights: Path, settings: dict[str, Any], queries: int, names: list[str]
) -> None:
    method, asked = make(weights, **settings), list[int]()
    method.setup.the_teacher.register_forward_pre_hook(lambda _, arguments: asked.append(len(arguments[0])))
    assert list(method.step([real(0)], 0)) == names
    assert sum(asked) == method.config.queries_per_step == method.queries(1) == queries


def test_networks_without_a_map_share_their_features(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    grey = fresh_student(
        "lenet5", len(toys.CLASSES), mean=toys.MEAN, std=toys.STD, seed=5, dtype="float32", device=toys.CPU
    )
    save_classifier(path, grey.net, arch="lenet5", mean=grey.mean, std=grey.std, classes=toys.CLASSES, input_size=32)
    method = make(path, student="lenet5_half")
    assert method.deployed().arch == "projected:lenet5_half:84"
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    assert all(term.isfinite() for term in method.step([replace(real(0), images_BCHW=pixels)], 0).values())


def test_the_rate_falls_by_epochs_where_they_are_short(weights: Path) -> None:
    rates = []
    for epoch in (0, 15, 18, 21):  # of 24: 150, 180 and 210 of 240
        method = make(weights, steps=240)
        method.step([replace(real(0), epoch=epoch)], 0)
        rates.append(method.optimizer.param_groups[0]["lr"] / method.config.lr)
    assert rates == pytest.approx([1, 0.1, 0.01, 0.001])


# the choice


def test_chosen_by_hand() -> None:
    """Four fall in class 0, two in class 1, one in class 2: 0.95, 0.95 / 3 and 0.95 / 7 are asked."""
    confidence_N = torch.tensor([0.96, 0.95, 0.94, 0.5, 0.32, 0.31, 0.14])
    class_N = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    assert chosen(confidence_N, class_N, threshold=0.95).tolist() == [True, False, False, False, True, False, True]
    assert chosen(confidence_N, class_N, threshold=0.0).all()
    assert chosen(torch.tensor([torch.nan, 0.1]), torch.tensor([0, 0]), threshold=0.95).tolist() == [True, False]


def test_the_teachers_share_by_hand() -> None:
    assert teacher_share(0) == pytest.approx(1 - math.exp(-5 * (159 / 160) ** 2))
    assert teacher_share(119) == pytest.approx(1 - math.exp(-5 / 16))
    assert teacher_share(120) == 0
    config = KD3Config()
    assert [config.teacher_share(epoch) for epoch in (0, 60, 119, 120, 239)] == pytest.approx(
        [teacher_share(epoch) for epoch in (0, 60, 119, 120, 239)]
    )


class Look:
    """A split of 24 images in batches of 8, and how often it was looked at."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Iterator[RealBatch]:
        self.times += 1
        yield from (real(number) for number in range(3))


def test_an_epochs_choice_by_hand(weights: Path) -> None:
    method, look = make(weights, threshold=0.6), Look()
    rows_N = method.choose(2, look)
    share = 1 - math.exp(-5 * (3 / 16 - 1) ** 2)
    images_BCHW = torch.cat([real(number).images_BCHW for number in range(3)])
    method.setup.student.net.eval()
    with torch.no_grad():
        told_BK, own_BK = method.setup.the_teacher(images_BCHW).logits_BK, method.setup.student(images_BCHW)
    confidence = (share * told_BK + (1 - share) * own_BK).softmax(1)
    count = [sum(int(row.argmax()) == k for row in confidence) for k in range(4)]
    expected = []
    for row in confidence:
        beta = count[int(row.argmax())] / max(count)
        expected.append(row.max().item() > 0.6 * beta / (2 - beta))
    assert rows_N is not None
    assert rows_N.tolist() == expected
    assert 0 < sum(expected) < 24


def test_a_choice_is_made_once_an_epoch_and_kept(weights: Path, tmp_path: Path) -> None:
    method, look = make(weights, threshold=0.6), Look()
    first = method.choose(0, look)
    assert first is not None
    assert method.setup.student.net.training
    method.step([real(0)], 0)
    checkpoint.save(tmp_path / "c.safetensors", method.parts(), {"step": 1})
    resumed = make(weights, threshold=0.6)
    checkpoint.load(tmp_path / "c.safetensors", resumed.parts())
    for again in (method.choose(0, look), resumed.choose(0, look)):
        assert again is not None
        assert again.tolist() == first.tolist()
        assert again.dtype == np.bool_
    assert look.times == 1
    method.choose(1, look)
    assert look.times == 2


def test_looks_are_counted_while_the_teacher_is_asked(weights: Path) -> None:
    method, asked = make(weights, threshold=0.01), list[int]()
    method.setup.the_teacher.register_forward_pre_hook(lambda _, arguments: asked.append(len(arguments[0])))
    for epoch in (10, 11, 12, 13):  # the teacher's share is 0 from 12 on
        method.choice.epoch, method.choice.rows_N = epoch - 1, np.ones(24, np.bool_)
        method.choose(epoch, Look())
        assert method.queries(0) == min(epoch + 1, 12) * 24
    assert sum(asked) == 2 * 24


def test_a_threshold_of_0_takes_the_stream_as_it_is(weights: Path) -> None:
    look = Look()
    assert make(weights, threshold=0.0).choose(0, look) is None
    assert look.times == 0


def test_too_few_sure_images_for_a_batch_say_what_to_do(weights: Path) -> None:
    method = make(weights, batch_size=24)
    words = (
        r"^in epoch 3 of 24 kd3 is sure enough of \d+ of 24 images \(threshold 0.95\), fewer than a batch of 24; start "
        r"a new run with a lower --set threshold= \(0 takes all images\), or with a smaller --batch-size$"
    )
    with pytest.raises(DistillError, match=words):
        method.choose(2, Look())
    assert method.choice.epoch == -1


def test_published_settings() -> None:
    config = KD3Config()
    assert (config.lr, config.weight_decay, config.batch_size, config.epochs) == (0.05, 5e-4, 1024, 240)
    assert (config.threshold, config.contrast, config.contrast_temperature, config.mix_alpha) == (0.95, 1e-3, 0.3, 0.1)
    rates = [step_eighths(epoch, 240) for epoch in (149, 150, 180, 210, 239)]
    assert rates == pytest.approx([1, 0.1, 0.01, 0.001, 0.001])


# a whole run


def test_a_run_in_slices_ends_as_a_run_in_one(weights: Path, transfer_set: ShardFolder, tmp_path: Path) -> None:
    """Across epochs of different lengths, stopped after each step; what is left is the network that is deployed."""
    run = toys.run_config("kd3", threshold=0.5, epochs=2, batch_size=4)
    teacher = load_classifier(weights)

    def go(out: Path, **pace: Any) -> dict[str, Any]:
        return distill(
            Material.of(transfer_set), teacher, run, out=out, place=toys.PLACE, pace=Pace(save_every_s=1e9, **pace)
        )

    whole = go(tmp_path / "whole")
    slices = 0
    while not (report := go(tmp_path / "slices", stop_after_s=0.0))["finished"]:
        slices += 1
    assert slices > 2
    updates = whole["student_updates"]
    assert report["student_updates"] == updates < 2 * 10  # fewer than batches of all that there are
    asked = 2 * 4 * updates + 40  # one look: in the second epoch the teacher has no share
    assert report["teacher_queries"] == whole["teacher_queries"] == asked
    one, other = (load_run(tmp_path / name, dtype="float32", device=toys.CPU)["last"] for name in ("whole", "slices"))
    assert one.arch == "projected:wrn16_1:64"
    assert one.sha256 == other.sha256
