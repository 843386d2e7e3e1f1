"""The game of the data-free methods: a stage of abm against a second, plain writing, and what all three share."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import DistillError, UnsupportedSize
from distill.methods import METHODS
from distill.methods.abm import ABM
from distill.methods.adversarial import Adversarial, _means
from distill.methods.adversarial_config import AdversarialConfig
from distill.methods.base import Setup
from distill.models import build
from distill.models.student import fresh_student
from distill.models.teachers import load_classifier, save_classifier
from tests.distill import toys

BATCH, Z, STEPS, K = 6, 10, 4, len(toys.CLASSES)
WEIGHTS: dict[str, Any] = {"adv": 1.5, "bn": 0.01, "teacher_hinge": 0.3, "pixel_hinge": 0.2, "student_hinge": 0.4}
CLASSES: dict[str, Any] = {"conditioning": "sum", "nll": 0.6, "norm": 0.7}
BOUNDS: dict[str, Any] = {"delta": 0.5, "nu": 0.1, "gamma": 1.0}  # so low that every hinge is at work
DATA_FREE = [name for name, kind in METHODS.items() if issubclass(kind, Adversarial)]


def make(weights: Path, name: str = "abm", *, arch: str = "wrn16_1", seed: int = 3, **settings: Any) -> Any:
    """A method as before its first step; ``settings`` over weights of the losses that are all different."""
    student = fresh_student(arch, K, mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU)
    setup = Setup(teacher=load_classifier(weights), student=student, device=toys.CPU, steps=STEPS, seed=seed, flip=True)
    torch.manual_seed(0)
    counts = {"batch_size": BATCH, "z_dim": Z, "generator_steps": 2, "student_steps": 3, "fill": 2}
    return METHODS[name](setup, METHODS[name].config_class(**{**counts, **WEIGHTS, **BOUNDS, **settings}))


# the reference: Eq. 10 and 11 in plain PyTorch, with nothing of ours but networks and draws


class Reference:
    """A stage of Do et al. 2022 without the EMA generator, with PyTorch's own losses and optimisers."""

    def __init__(self, ours: ABM) -> None:
        self.ours, self.config = ours, ours.config
        self.generator = copy.deepcopy(ours.synthesis.generator)
        self.teacher, self.student = map(copy.deepcopy, (ours.setup.the_teacher.net, ours.setup.student.net))
        self.embedding = copy.deepcopy(ours.synthesis.embedding)
        trained = [*self.generator.parameters(), *(self.embedding.parameters() if self.embedding else [])]
        self.g_opt = torch.optim.Adam(trained, self.config.gan_lr, weight_decay=self.config.gan_weight_decay)
        self.s_opt = torch.optim.SGD(self.student.parameters(), self.config.lr, momentum=0.9, weight_decay=5e-4)

    @staticmethod
    def normalised(x: Tensor) -> Tensor:
        return torch.stack([(x[:, c] - toys.MEAN[c]) / toys.STD[c] for c in range(3)], dim=1)

    def draw(self, purpose: str, number: int, count: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """u, y and e of addressed noise."""
        z, y, e = self.ours.setup.noise(f"{purpose} z", number, (count, Z)), None, None
        if self.embedding is not None:
            y = self.ours.setup.integers(f"{purpose} y", number, count, below=K)
            e = self.embedding.weight[y]
            z = z + e
        return self.generator.logits(z), y, e

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's logits, and its batch norms' distance from their statistics."""
        layers = [module for module in self.teacher.modules() if isinstance(module, nn.BatchNorm2d)]
        far: list[Tensor] = []

        def note(layer: Any, arguments: tuple[Tensor]) -> None:
            mean, var = arguments[0].mean((0, 2, 3)), arguments[0].var((0, 2, 3), correction=0)
            far.append(((mean - layer.running_mean) ** 2).sum() + ((var - layer.running_var) ** 2).sum())

        hooks = [layer.register_forward_pre_hook(note) for layer in layers]
        logits = self.teacher(self.normalised(x))
        for hook in hooks:
            hook.remove()
        assert len(far) == len(layers)
        return logits, sum(far, torch.zeros(()))

    def generator_step(self, number: int) -> dict[str, Tensor]:
        u, y, e = self.draw("generator", number, BATCH)
        x = torch.sigmoid(u)
        t, bn = self.moments(x)
        self.student.eval()
        s = self.student(self.normalised(x))
        self.student.train()
        terms = {"adv": -F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")}
        if y is not None and e is not None:
            terms["nll"] = F.nll_loss(t.log_softmax(1), y)
            terms["norm"] = F.relu(e.pow(2).sum(1).sqrt() - Z**0.5).mean()
        terms |= {"bn": bn, "teacher_hinge": F.relu(t.abs() - 0.5).mean(), "pixel_hinge": F.relu(u.abs() - 0.1).mean()}
        self.g_opt.zero_grad()
        loss = sum((getattr(self.config, name) * term for name, term in terms.items()), torch.zeros(()))
        torch.autograd.backward(loss)
        self.g_opt.step()
        return {name: term.detach() for name, term in terms.items()}

    def student_step(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(self.normalised(x))
        s = self.student(self.normalised(x))
        terms = {"kl": F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")}
        terms["student_hinge"] = F.relu(s.abs() - 0.5).mean()
        self.s_opt.zero_grad()
        torch.autograd.backward(terms["kl"] + 0.4 * terms["student_hinge"])
        self.s_opt.step()
        return {name: term.detach() for name, term in terms.items()}

    def stage(self) -> Iterator[dict[str, Tensor]]:
        """The first: two generator updates, then three of the student on images made for two and for one of them."""
        for number in range(2):
            yield self.generator_step(number)
        for first, updates in ((0, 2), (2, 1)):
            with torch.no_grad():
                images = torch.sigmoid(self.draw("student", first, updates * BATCH)[0])
            for x in images.chunk(updates):
                yield self.student_step(x)


@pytest.mark.parametrize("settings", [{}, CLASSES], ids=["unconditional", "conditional"])
def test_a_stage_equals_the_reference(weights: Path, settings: dict[str, Any]) -> None:
    # Adam's first steps divide a gradient that is nothing but rounding by its own size: its rate keeps that small
    ours = make(weights, gan_lr=1e-4, **settings)
    reference = Reference(ours)
    terms = ours.step([], 0)
    expected: dict[str, list[float]] = {}
    for found in reference.stage():
        for name, term in found.items():
            expected.setdefault(name, []).append(term.item())
    means = {name: sum(values) / len(values) for name, values in expected.items()}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(means, rel=1e-4, abs=1e-4)
    assert all(values[0] != 0 for values in expected.values())
    for (name, tensor), other in zip(
        ours.setup.student.net.state_dict().items(), reference.student.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(tensor, other, rtol=1e-3, atol=1e-5, msg=name)


# what the generator's step does and does not touch


def test_a_generator_step_moves_generator_and_embeddings_alone(weights: Path) -> None:
    method = make(weights, **CLASSES, lr=0.0)
    net = method.setup.student.net
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    embedding = method.synthesis.embedding.weight.detach().clone()
    generator = [parameter.detach().clone() for parameter in method.synthesis.generator.parameters()]
    method.seek(0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert all(parameter.grad is None for parameter in method.setup.the_teacher.parameters())
    assert net.training
    assert not torch.equal(embedding, method.synthesis.embedding.weight)
    assert not all(torch.equal(a, b) for a, b in zip(generator, method.synthesis.generator.parameters(), strict=True))
    assert not method.setup.the_teacher._probe.watches  # what is watched costs time in the student's steps


def test_a_student_step_leaves_generator_and_embeddings_be(weights: Path) -> None:
    method = make(weights, **CLASSES)
    before = [parameter.detach().clone() for parameter in method.synthesis.parameters()]
    method.teach(0)
    assert all(torch.equal(a, b) for a, b in zip(before, method.synthesis.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in method.synthesis.parameters())


def test_terms_of_no_weight_are_not_computed(weights: Path) -> None:
    assert set(make(weights, bn=0.0, pixel_hinge=0.0).seek(0)) == {"adv", "teacher_hinge"}
    assert set(make(weights, adv=0.0).seek(0)) == {"bn", "teacher_hinge", "pixel_hinge"}
    assert set(make(weights, **CLASSES).seek(0)) == {"adv", "nll", "norm", "bn", "teacher_hinge", "pixel_hinge"}


# draws


def test_noise_and_classes_are_fresh_for_every_update(weights: Path) -> None:
    method = make(weights, **CLASSES)
    inputs: list[Tensor] = []
    method.synthesis.generator.start.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    for step in range(2):
        method.step([], step)
    rows = torch.cat(inputs)
    assert len(rows) == 2 * (2 + 3) * BATCH
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_classes_are_drawn_evenly_and_by_their_address(weights: Path) -> None:
    setup = make(weights).setup
    drawn = setup.integers("y", 1, 4000, below=K)
    assert drawn.dtype == torch.int64
    assert torch.bincount(drawn, minlength=K).min() > 900
    assert torch.equal(drawn, setup.integers("y", 1, 4000, below=K))
    others = [setup.integers("y", 2, 4000, below=K), setup.integers("z", 1, 4000, below=K)]
    others.append(make(weights, seed=4).setup.integers("y", 1, 4000, below=K))
    assert not any(torch.equal(drawn, other) for other in others)


def test_the_buffer_holds_the_teachers_own_answers(weights: Path) -> None:
    method = make(weights)
    buffer = method._filled(0, 2)
    assert len(buffer) == 2
    for lessons in buffer:
        assert lessons["kl"].images_BCHW.shape == (BATCH, 3, toys.SIZE, toys.SIZE)
        answer_BK = method.setup.the_teacher(lessons["kl"].images_BCHW).logits_BK
        torch.testing.assert_close(lessons["kl"].teacher_BK, answer_BK)
    assert not torch.equal(buffer[0]["kl"].images_BCHW, buffer[1]["kl"].images_BCHW)


# pretraining


def test_pretraining_is_the_first_stages_and_leaves_the_student_out(weights: Path) -> None:
    """Updates of the generator before all others, without the adversarial term; its queries are counted once."""
    method = make(weights, pretrain_steps=5)
    updates: list[int] = []
    method.generator_optimizer.register_step_post_hook(lambda *_: updates.append(len(asked)))
    asked: list[int] = []
    method.setup.student.register_forward_pre_hook(lambda *_: asked.append(1))
    method.seek(0)
    assert updates == [0] * 5 + [1, 2]
    method.seek(1)
    assert len(updates) == 5 + 2 + 2
    assert method.config.queries(2) == 2 * method.config.queries_per_step + 5 * BATCH


def test_pretraining_lowers_what_it_trains(weights: Path) -> None:
    settings = {**CLASSES, "bn": 0.1, "nll": 1.0, "gan_lr": 1e-2}
    fresh, pretrained = make(weights, **settings), make(weights, **settings, pretrain_steps=40)
    assert pretrained.seek(0)["bn"] < 0.7 * fresh.seek(0)["bn"]


# settings


@pytest.mark.parametrize("name", DATA_FREE)
def test_published_settings(name: str) -> None:
    """Tables 5, 6 and 7, row by row."""
    paper, recipes = METHODS[name].config_class(), METHODS[name].recipes
    assert isinstance(paper, AdversarialConfig)
    assert (paper.optimizer, paper.lr, paper.weight_decay, paper.momentum) == ("sgd", 1e-2, 5e-4, 0.9)
    assert (paper.gan_lr, paper.gan_weight_decay, paper.generator_steps, paper.student_steps) == (1e-3, 5e-4, 3, 60)
    assert (paper.batch_size, paper.schedule, paper.steps(0), paper.z_dim) == (256, "step_thirds", 15_000, 256)
    assert (paper.adv, paper.nll, paper.norm, paper.bn) == (1, 0, 0, 1)
    assert (paper.student_hinge, paper.teacher_hinge, paper.pixel_hinge) == (0.01, 0.1, 0.1)
    assert (paper.delta, paper.nu, paper.conditioning, paper.pretrain_steps) == (20, 20, "none", 0)
    table = {  # student steps, generator steps, stages, pretraining
        "mad-cifar-resnet": (30, 3, 15_000, 0),
        "mad-tiny-imagenet": (90, 3, 15_000, 0),
        "mad-imagenet": (150, 20, 6_000, 200),
        "mad-places365": (150, 10, 6_000, 50),
        "mad-food101": (150, 5, 4_000, 50),
    }
    assert recipes.keys() == table.keys()
    for recipe, expected in table.items():
        config = recipes[recipe]
        assert type(config) is METHODS[name].config_class
        assert isinstance(config, AdversarialConfig)
        assert (config.student_steps, config.generator_steps, config.steps(0), config.pretrain_steps) == expected
        assert config.phases == {"generator": expected[1], "student": expected[0]}
        if expected[0] < 150:
            continue
        assert (config.optimizer, config.lr, config.weight_decay, config.schedule) == ("adam", 1e-4, 1e-4, "constant")
        assert (config.gan_lr, config.gan_weight_decay, config.batch_size) == (1e-4, 5e-4, 512)
        assert (config.conditioning, config.gamma, config.image_size) == ("sum", 1.1, 256)
        assert (config.adv, config.nll, config.norm, config.bn) == (1, 0.1, 0.1, 0)
        assert (config.student_hinge, config.teacher_hinge, config.pixel_hinge) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize("conditioning", ["sum", "cat"])
def test_every_way_of_conditioning_learns_and_shows_every_class(weights: Path, name: str, conditioning: str) -> None:
    method = make(weights, name, **{**CLASSES, "conditioning": conditioning})
    for step in range(3):
        terms = method.step([], step)
        assert all(term.isfinite() for term in terms.values())
    images_BCHW = method.samples(2 * K)
    assert images_BCHW.shape == (2 * K, 3, toys.SIZE, toys.SIZE)
    assert torch.equal(images_BCHW, method.samples(2 * K))
    assert method.synthesis.generator.training
    assert "embedding" in method.parts()


def test_adam_is_the_students_where_asked(weights: Path) -> None:
    method = make(weights, optimizer="adam", lr=0.03, schedule="constant")
    assert isinstance(method.student_optimizer, torch.optim.Adam)
    method.step([], STEPS - 1)
    assert [group["lr"] for group in method.student_optimizer.param_groups] == [0.03]
    assert method.student_optimizer.param_groups[0]["weight_decay"] == 5e-4


def test_only_the_students_rate_decays(weights: Path) -> None:
    method = make(weights, lr=0.1, gan_lr=1e-3)
    method.step([], 3)  # of 4: beyond two thirds
    assert method.student_optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    assert method.generator_optimizer.param_groups[0]["lr"] == 1e-3


def test_another_size_than_the_teachers(weights: Path) -> None:
    method = make(weights, image_size=16)
    method.step([], 0)
    assert method.samples(2).shape == (2, 3, 16, 16)
    with pytest.raises(UnsupportedSize, match="cannot make images of 45 px"):
        make(weights, image_size=45)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nll": 0.1}, "nll is 0.1 and norm 0.0, but conditioning is 'none'; expected 0 and 0"),
        ({"norm": 0.1}, "nll is 0.0 and norm 0.1, but conditioning is 'none'"),
        ({"optimizer": "rmsprop"}, "optimizer is 'rmsprop'; expected one of sgd, adam"),
        ({"conditioning": "film"}, "conditioning is 'film'; expected one of none, sum, cat"),
        ({"network": "dcgan"}, "network is 'dcgan'; expected one of auto, conv, residual"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected one of one_cycle, cosine"),
        ({"gamma": 0.5}, "gamma is 0.5; expected a number of at least 1"),
        (
            dict.fromkeys(["adv", "bn", "teacher_hinge", "pixel_hinge"], 0.0),
            "every weight of the generator's objective",
        ),
        (
            {**dict.fromkeys(["bn", "teacher_hinge", "pixel_hinge"], 0.0), "pretrain_steps": 3},
            "pretrain_steps is 3; expected 0 where adv is the only term",
        ),
    ],
)
def test_what_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillError, match=words):
        AdversarialConfig(**settings)


def test_a_teacher_without_batch_norms_needs_no_matching(tmp_path: Path) -> None:
    weights, names = tmp_path / "t.safetensors", toys.CLASSES
    save_classifier(weights, build("lenet5", K), arch="lenet5", mean=[0.5], std=[0.5], classes=names, input_size=32)
    with pytest.raises(
        DistillError, match=r"bn is 0.01, but the teacher lenet5-.* has no batch norms .* expected bn=0"
    ):
        make(weights, arch="lenet5_half")
    method = make(weights, arch="lenet5_half", bn=0.0)
    assert all(term.isfinite() for term in method.step([], 0).values())


def test_the_term_that_spoils_a_stage_is_the_one_that_is_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, asked = make(weights, generator_steps=3), []

    def spoilt(moments: object) -> torch.Tensor:
        asked.append(moments)
        return torch.tensor(float("nan") if len(asked) == 2 else 0.5, requires_grad=True)

    monkeypatch.setattr("distill.methods.adversarial.moment_matching", spoilt)
    terms = method.step([], 0)
    bad = [name for name, term in terms.items() if not term.isfinite()]
    assert bad[0] == "bn"
    assert terms["adv"].isfinite()


def test_means_are_of_all_updates_where_all_are_finite() -> None:
    nan = float("nan")
    whole = [{"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, {"a": torch.tensor(3.0), "b": torch.tensor(6.0)}]
    assert {name: float(mean) for name, mean in _means(whole).items()} == {"a": 2.0, "b": 4.0}
    cut = _means(
        [whole[0], {"a": torch.tensor(5.0), "b": torch.tensor(nan)}, {name: torch.tensor(nan) for name in "ab"}]
    )
    assert (float(cut["a"]), bool(cut["b"].isnan())) == (3.0, True)
