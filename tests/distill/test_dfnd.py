"""dfnd: which half is distilled, the noise of the labels, and the teacher's accuracy."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from distill.errors import DistillError
from distill.methods.base import Setup
from distill.methods.dfnd import DFND, DFNDConfig, surest
from distill.methods.schedules import step_fifths
from distill.models.student import fresh_student
from distill.models.teachers import load_classifier
from tests.conformance.test_methods import real
from tests.distill import toys


def make(weights: Path, **settings: Any) -> DFND:
    net = fresh_student(
        "wrn16_1", len(toys.CLASSES), mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU
    )
    setup = Setup(teacher=load_classifier(weights), student=net, device=toys.CPU, steps=4, seed=3, flip=True)
    return DFND(setup, DFNDConfig(**{"batch_size": 8, **settings}))


def test_a_step_by_hand(weights: Path) -> None:
    method, batch = make(weights, noisy=0.5), real(1)
    images_BCHW = method.setup.augmented(batch)
    with torch.no_grad():
        told_BK, seen_BK = method.setup.the_teacher(images_BCHW).logits_BK, method.setup.student(images_BCHW)
    sureness = [row.softmax(0).max().item() for row in told_BK]
    kept = sorted(range(8), key=lambda row: -sureness[row])[:4]
    soft = (seen_BK[kept] / 4).log_softmax(1), (told_BK[kept] / 4).softmax(1)
    belief_BK, noise_KK = seen_BK.softmax(1), torch.full((4, 4), 0.1 / 3).fill_diagonal_(0.9)
    likelihood = [(belief @ noise_KK)[told.argmax()].item() for belief, told in zip(belief_BK, told_BK, strict=True)]
    terms = make(weights, noisy=0.5).step([batch], 0)
    assert terms["kl"].item() == pytest.approx(16 * F.kl_div(*soft, reduction="batchmean").item(), rel=1e-4)
    assert terms["noisy"].item() == pytest.approx(-sum(map(math.log, likelihood)) / 8, rel=1e-4)


def test_the_noise_is_learned_and_its_diagonal_is_not(weights: Path) -> None:
    method = make(weights)
    for step in range(2):
        method.step([real(step)], step)
    noise_KK = method.noise().exp().detach()
    torch.testing.assert_close(noise_KK.diagonal(), torch.full((4,), 0.9))
    assert (noise_KK - torch.full((4, 4), 0.1 / 3).fill_diagonal_(0.9)).abs().max() > 1e-4


def test_no_work_for_noise_without_a_weight(weights: Path) -> None:
    assert list(make(weights, noisy=0.0).step([real(0)], 0)) == ["kl"]


def test_the_half_is_rounded_up() -> None:
    logits_BK = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert sorted(surest(logits_BK, logits_BK.argmax(1)).tolist()) == [1, 2]
    assert surest(logits_BK[:1], torch.tensor([0])).tolist() == [0]


def test_the_accuracy_is_the_one_stated_or_told(weights: Path, tmp_path: Path) -> None:
    assert make(weights).noise.accuracy == 0.9
    assert make(weights, accuracy=0.7).noise.accuracy == 0.7
    for stated, says in {"": "states a test_accuracy of ;?", "1.0000": "states a test_accuracy of 1.0000"}.items():
        path = toys.write_teacher(tmp_path / f"t{stated}.safetensors", test_accuracy=stated)
        with pytest.raises(DistillError, match=f"{says}.* needs the teacher's accuracy, .*\n.*--set accuracy=0.95"):
            make(path)
        assert make(path, accuracy=0.7).noise.accuracy == 0.7


def test_an_accuracy_in_per_cent_is_refused() -> None:
    with pytest.raises(DistillError, match=r"accuracy is 95; expected a fraction below 1, such as 0\.95"):
        DFNDConfig(accuracy=95)


def test_published_settings() -> None:
    config = DFNDConfig()
    assert (config.lr, config.batch_size, config.epochs, config.temperature) == (0.1, 256, 800, 4)
    rates = [step_fifths(epoch, 800) for epoch in (319, 320, 639, 640)]
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01])
