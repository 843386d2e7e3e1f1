"""fitnet: which maps are compared, the two stages, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from distill.errors import DistillError
from distill.methods.base import Setup
from distill.methods.fitnet import FitNet, FitNetConfig
from distill.models.student import fresh_student
from distill.models.teachers import load_classifier
from tests.conformance.test_methods import real
from tests.distill import toys


def make(weights: Path, *, student: str = "wrn16_1", steps: int = 4, **settings: Any) -> FitNet:
    net = fresh_student(
        student, len(toys.CLASSES), mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU
    )
    setup = Setup(teacher=load_classifier(weights), student=net, device=toys.CPU, steps=steps, seed=3, flip=True)
    torch.manual_seed(0)
    return FitNet(setup, FitNetConfig(**{"batch_size": 8, "hint": 1.0, **settings}))


def test_a_step_by_hand(weights: Path) -> None:
    method = make(weights, hint=7.0)
    batch, student = real(1), method.setup.student
    images_BCHW = method.setup.augmented(batch)
    with torch.no_grad(), method.setup.the_teacher.watch(maps=["block2"]), student.watch(maps=["block2"]):
        told, seen = method.setup.the_teacher(images_BCHW), student.view(images_BCHW)
        hint = F.mse_loss(method.regressor(seen.maps["block2"]), told.maps["block2"])
        soft = (student.view(images_BCHW).logits_BK / 5).log_softmax(1), (told.logits_BK / 5).softmax(1)
    method = make(weights, hint=7.0)  # before BN statistics were moved
    terms = method.step([batch], 0)
    assert terms["hint"].item() == pytest.approx(hint.item(), rel=1e-5)
    assert terms["kl"].item() == pytest.approx(25 * F.kl_div(*soft, reduction="batchmean").item(), rel=1e-4)


def test_the_middle_layers_of_different_families(weights: Path) -> None:
    method = make(weights, student="mobilenetv2_half")
    assert (method.teacher_layer, method.student_layer) == ("block2", "blocks.4")
    assert [tuple(p.shape) for p in method.regressor[0].parameters()] == [(32, 48, 1, 1)]
    assert method.step([real(1)], 0)["hint"].isfinite()


def test_named_layers(weights: Path) -> None:
    method = make(weights, teacher_layer="block3", student_layer="block1.layer.0")
    assert (method.teacher_layer, method.student_layer) == ("block3", "block1.layer.0")
    assert method.step([real(1)], 0)["hint"].isfinite()  # 2 x 2 of 8 x 8: pooled


def test_the_hint_alone_comes_first(weights: Path) -> None:
    method = make(weights, hint_first=0.5)
    head = method.setup.student.net.get_parameter("fc.weight")
    before = head.detach().clone()
    assert [list(method.step([real(step)], step)) for step in range(2)] == [["hint"]] * 2
    assert torch.equal(head, before)
    assert list(method.step([real(2)], 2)) == ["kl"]
    assert not torch.equal(head, before)


@pytest.mark.parametrize("layer", ["fc", "nonsense"])
def test_a_layer_without_a_map(weights: Path, layer: str) -> None:
    with pytest.raises(DistillError, match=f"the module '{layer}' of wrn16_1 gives no map; .* block1, block2, bn1"):
        make(weights, student_layer=layer)


def test_what_is_refused() -> None:
    with pytest.raises(DistillError, match=r"hint_first is 1\.5; expected a number from 0 to 1"):
        FitNetConfig(hint_first=1.5)
