"""mad: what the slow copy of the generator is, when it moves, and how much of the student's batch it makes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill import checkpoint
from distill.errors import DistillError
from distill.methods.adversarial_config import AdversarialConfig
from distill.methods.mad import MAD, MADConfig
from tests.distill.test_adversarial import BATCH, CLASSES, make


def mad(weights: Path, **settings: Any) -> MAD:
    method: MAD = make(weights, "mad", **settings)
    return method


def state(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_the_average_moves_once_a_stage_after_the_generators_updates(weights: Path) -> None:
    """theta~ = alpha theta~ + (1 - alpha) theta of the generator as its last update left it; at first it is that."""
    method = mad(weights, ema_momentum=0.75)
    method.seek(0)
    first = state(method.average)
    assert all(torch.equal(tensor, first[name]) for name, tensor in method.synthesis.generator.state_dict().items())
    method.teach(0)
    assert all(torch.equal(a, first[name]) for name, a in method.average.state_dict().items() if "tracked" not in name)
    method.seek(1)
    for name, live in method.synthesis.generator.state_dict().items():
        expected = 0.75 * first[name] + 0.25 * live if live.is_floating_point() else live
        torch.testing.assert_close(method.average.state_dict()[name], expected, msg=name)


def test_the_average_begins_with_a_pretrained_generator(weights: Path) -> None:
    method = mad(weights, pretrain_steps=4)
    method.seek(0)
    pairs = zip(method.average.parameters(), method.synthesis.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_average_is_neither_trained_nor_forgotten(weights: Path, tmp_path: Path) -> None:
    method = mad(weights, **CLASSES)
    trained = {id(p) for group in method.generator_optimizer.param_groups for p in group["params"]}
    assert not trained & {id(parameter) for parameter in method.average.parameters()}
    for step in range(3):
        method.step([], step)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in method.average.parameters())
    checkpoint.save(tmp_path / "c.safetensors", method.parts(), {"step": 3})
    fresh = mad(weights, **CLASSES)
    checkpoint.load(tmp_path / "c.safetensors", fresh.parts())
    assert all(
        torch.equal(a, b) for a, b in zip(state(fresh.average).values(), state(method.average).values(), strict=True)
    )
    assert fresh.step([], 3) == method.step([], 3)


@pytest.mark.parametrize(("budget", "each"), [("published", BATCH), ("equal", BATCH // 2)])
def test_the_budget(weights: Path, budget: str, each: int) -> None:
    """B from each, 2B an update, or as many as abm has; the student sees both in one batch, the teacher too."""
    method = mad(weights, budget=budget)
    seen: list[int] = []
    method.setup.student.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    method.seek(0)
    seen.clear()
    method.teach(0)
    assert seen == [2 * each] * 3
    assert method.config.queries_per_step == 2 * BATCH + 3 * 2 * each
    buffer = method._filled(0, 2)
    assert [{name: len(lesson.images_BCHW) for name, lesson in of.items()} for of in buffer] == [
        {"kl": each, "kl_ema": each}
    ] * 2


def test_equal_takes_as_many_images_as_abm() -> None:
    mine, theirs = MADConfig(budget="equal"), AdversarialConfig()
    assert mine.images_per_update == theirs.images_per_update == 256
    assert MADConfig().images_per_update == 512
    assert mine.queries(10) == theirs.queries(10) == 10 * (3 + 60) * 256


def test_a_student_update_by_hand(weights: Path) -> None:
    """lambda_0 (KL + zeta_0 hinge) on the generator's + lambda_1 (KL + zeta_0 hinge) on the average's (Eq. 10)."""
    method = mad(weights, live=0.5, ema=2.0, student_steps=1, fill=1)
    method.seek(0)
    lessons = method._filled(0, 1)[0]
    net = method.setup.student.net
    gradients: list[list[Tensor]] = []
    method.student_optimizer.register_step_pre_hook(
        lambda *_: gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    )
    before = state(net)
    terms = method._learn(lessons, lr=0.0)
    net.load_state_dict(before)
    live_BK, slow_BK = method.setup.student(torch.cat([of.images_BCHW for of in lessons.values()])).chunk(2)
    kls = [
        F.kl_div(mine_BK.log_softmax(1), lesson.teacher_BK.softmax(1), reduction="batchmean")
        for mine_BK, lesson in zip((live_BK, slow_BK), lessons.values(), strict=True)
    ]
    hinges = [F.relu(mine_BK.abs() - 0.5).mean() for mine_BK in (live_BK, slow_BK)]
    loss = 0.5 * (kls[0] + 0.4 * hinges[0]) + 2 * (kls[1] + 0.4 * hinges[1])
    for gradient, expected in zip(gradients[0], torch.autograd.grad(loss, list(net.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert terms["kl"].item() == pytest.approx(kls[0].item(), rel=1e-5)
    assert terms["kl_ema"].item() == pytest.approx(kls[1].item(), rel=1e-5)
    assert terms["student_hinge"].item() == pytest.approx(torch.stack(hinges).mean().item(), rel=1e-5)


def test_the_two_generators_get_other_noise_and_the_same_embeddings(weights: Path) -> None:
    method = mad(weights, **CLASSES)
    method.seek(0)  # the average is now the generator
    inputs: list[Tensor] = []
    for net in (method.synthesis.generator, method.average):
        net.start.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    method.material(0, 2)
    assert inputs[0].shape == inputs[1].shape
    assert not torch.equal(*inputs)
    assert method.synthesis.embedding is not None
    with torch.no_grad():
        method.synthesis.embedding.weight.add_(100)
    method.material(0, 2)
    assert all(
        (after - before).mean().item() == pytest.approx(100, abs=1e-3)
        for before, after in zip(inputs[:2], inputs[2:], strict=True)
    )


def test_what_is_watched(weights: Path) -> None:
    """Nothing while the average is the generator; more when they part."""
    method = mad(weights)
    method.seek(0)
    assert method.watched()["kl_live_ema"].item() == 0
    method.seek(1)
    assert method.watched()["kl_live_ema"].item() > 0
    assert method.average.training


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ema_momentum": 1.01}, "ema_momentum is 1.01; expected a number from 0 to 1"),
        ({"budget": "double"}, "budget is 'double'; expected one of published, equal"),
        ({"budget": "equal", "batch_size": 7}, "batch_size is 7; expected an even number where budget is equal"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillError, match=words):
        MADConfig(**settings)


def test_the_published_setting() -> None:
    config = MADConfig()
    assert (config.live, config.ema, config.ema_momentum, config.budget) == (1, 1, 0.95, "published")
