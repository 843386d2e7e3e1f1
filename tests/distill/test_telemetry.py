"""What is seen in a generator's images, against numbers worked by hand; and which of them are remembered."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill import checkpoint
from distill.telemetry import LOOKED_AT, LOOKS, REMEMBERED, Telemetry
from distill.train import METRICS, Pace, read_metrics
from tests.distill import toys


class Brightness(nn.Module):
    """A network of two classes: the logit of the first is ln 3 for a bright image and -ln 3 for a dark one."""

    def __init__(self, *, sure: bool) -> None:
        super().__init__()
        self.scale = math.log(3) if sure else 0.0

    @property
    def net(self) -> nn.Module:
        """As a student has it."""
        return self

    def forward(self, images_BCHW: Tensor) -> Tensor:
        unit_BCHW = images_BCHW.float() / (255 if images_BCHW.dtype == torch.uint8 else 1)
        logit_B = self.scale * (2.0 * (unit_BCHW.mean(dim=(1, 2, 3)) > 0.5) - 1)
        return torch.stack([logit_B, torch.zeros_like(logit_B)], dim=1)


class Generating:
    """What telemetry asks of a method: its images, a sure teacher and a student that cannot tell."""

    def __init__(self) -> None:
        self.bright, self.level = LOOKED_AT, 255
        self.student, teacher = Brightness(sure=False), Brightness(sure=True)
        self.setup = SimpleNamespace(
            the_teacher=lambda images_BCHW: SimpleNamespace(logits_BK=teacher(images_BCHW)), device=toys.CPU
        )

    def samples(self, count: int, *, number: int = 0) -> Tensor:
        """So many bright images, of that level, and then black ones."""
        images_BCHW = torch.zeros(count, 3, 2, 2)
        images_BCHW[: self.bright] = self.level / 255
        return images_BCHW

    def deployed(self) -> Brightness:
        return self.student

    def watched(self) -> dict[str, Tensor]:
        return {"own": torch.tensor(0.25)}


def look(telemetry: Telemetry, method: Generating) -> dict[str, Any]:
    return telemetry.look(method)  # type: ignore[arg-type]  # all that it asks of a method


ENTROPY = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
KL = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)


def test_a_generator_of_one_class_by_hand() -> None:
    """The teacher says (3/4, 1/4) of every image: its mean answer is that too, where the student says (1/2, 1/2)."""
    found = look(Telemetry(), Generating())
    assert found["classes"] == [LOOKED_AT, 0]
    assert found["entropy"] == pytest.approx(ENTROPY)
    assert found["effective_classes"] == pytest.approx(math.exp(ENTROPY))
    assert found["kl_now"] == pytest.approx(KL)
    assert found["kl_before"] is None
    assert found["own"] == 0.25


def test_a_generator_of_both_classes_by_hand() -> None:
    """A quarter bright: the mean answer is 1/4 (3/4, 1/4) + 3/4 (1/4, 3/4) = (3/8, 5/8); each is as sure as before."""
    method = Generating()
    method.bright = LOOKED_AT // 4
    found = look(Telemetry(), method)
    assert found["classes"] == [LOOKED_AT // 4, 3 * LOOKED_AT // 4]
    assert found["entropy"] == pytest.approx(ENTROPY)
    mean = -(3 / 8 * math.log(3 / 8) + 5 / 8 * math.log(5 / 8))
    assert found["effective_classes"] == pytest.approx(math.exp(mean))


def test_what_was_forgotten_is_of_earlier_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student learns the bright images of the second look and not the black ones of the first."""
    method, telemetry = Generating(), Telemetry()
    method.bright = 0
    look(telemetry, method)
    method.bright = LOOKED_AT
    sure = Brightness(sure=True)
    monkeypatch.setattr(method.student, "forward", lambda images_BCHW: sure(images_BCHW).clamp_min(0))
    found = look(telemetry, method)
    assert found["kl_now"] == pytest.approx(0, abs=1e-6)
    assert found["kl_before"] == pytest.approx(0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5))


def test_the_student_is_left_in_training() -> None:
    method, modes = Generating(), []
    method.student.train()
    method.student.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    look(Telemetry(), method)
    assert modes == [False]
    assert method.student.training


def test_images_stay_until_theirs_is_the_oldest_look() -> None:
    method, telemetry = Generating(), Telemetry()
    for level in range(LOOKS + 2):
        method.level = 130 + level
        look(telemetry, method)
    images_NCHW = telemetry.state_dict()["images"]
    assert images_NCHW.dtype == torch.uint8
    kept = images_NCHW.view(LOOKS, REMEMBERED, -1)
    assert (kept == kept[:, :1, :1]).all()
    assert kept[:, 0, 0].tolist() == [130 + LOOKS, 131 + LOOKS, *range(132, 130 + LOOKS)]


def test_the_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    method, telemetry, empty = Generating(), Telemetry(), Telemetry()
    for path, state in ((tmp_path / "none", empty), (tmp_path / "some", telemetry)):
        checkpoint.save(path, {"telemetry": state}, {"step": 1})
        method.level = 140
        look(telemetry, method)
    resumed = Telemetry()
    checkpoint.load(tmp_path / "none", {"telemetry": resumed})
    assert resumed.state_dict() == {"looks": 0, "images": None}
    checkpoint.load(tmp_path / "some", {"telemetry": resumed})
    again = Telemetry()
    look(again, method)
    assert resumed.state_dict()["looks"] == 1
    assert torch.equal(resumed.state_dict()["images"], again.state_dict()["images"])
    method.level = 150
    assert look(resumed, method) == look(again, method)


def test_a_run_looks_when_it_judges(weights: Path, tmp_path: Path) -> None:
    from distill.material import Material
    from distill.models.teachers import load_classifier
    from distill.run import distill

    config = toys.run_config("mad", updates=12, student_steps=3)
    distill(Material(), load_classifier(weights), config, out=tmp_path, place=toys.PLACE, pace=Pace(judge_every=2))
    looks = [line for line in read_metrics(tmp_path) if "synthetic" in line]
    assert [line["step"] for line in looks] == [2, 4]
    assert (tmp_path / METRICS).exists()
    assert [line["synthetic"]["kl_before"] is None for line in looks] == [True, False]
    assert sum(looks[0]["synthetic"]["classes"]) == LOOKED_AT
    assert looks[0]["synthetic"]["kl_live_ema"] >= 0
