"""mosaickd against a second, plain writing of one outer iteration, and the defects that other implementations have."""

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import checkpoint
from distill.errors import DistillError, UnsupportedSize
from distill.generators.mosaic import Generator, ImageDiscriminator
from distill.material import Views
from distill.methods.base import Setup
from distill.methods.mosaickd import MosaicKD, MosaicKDConfig
from distill.models.student import fresh_student
from distill.models.teachers import load_classifier
from distill.recipes import configure
from manifests.keys import content_key
from shards.augment import crop_and_flip
from shards.device import RealBatch
from shards.layout import KEY_DTYPE
from tests.distill import toys

BATCH, STEPS, STUDENT_STEPS, LR = 6, 4, 2, 0.1
WEIGHTS = {"adv": 1.5, "align": 0.7, "local": 0.4, "balance": 3.0}


def make(weights: Path, *, size: int = toys.SIZE, **settings: Any) -> MosaicKD:
    """The method as before its first step; ``settings`` over weights of the losses that are all different."""
    student = fresh_student(
        "wrn16_1", len(toys.CLASSES), mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU
    )
    setup = Setup(teacher=load_classifier(weights), student=student, device=toys.CPU, steps=STEPS, seed=3, flip=True)
    torch.manual_seed(0)
    chosen = {"batch_size": BATCH, "student_steps": STUDENT_STEPS, "lr": LR, "z_dim": 10, **WEIGHTS, **settings}
    return MosaicKD(setup, MosaicKDConfig(**chosen))


def critic(method: MosaicKD) -> nn.Module:
    """The discriminator of a method that has one."""
    assert method.discriminator is not None
    return method.discriminator


def real(number: int, *, size: int = toys.SIZE) -> RealBatch:
    pixels = np.random.default_rng(number).integers(0, 256, (BATCH, 3, size, size), dtype=np.uint8)
    keys = np.array([content_key(image) for image in pixels], KEY_DTYPE)
    return RealBatch(images_BCHW=torch.from_numpy(pixels), keys=keys, labels_B=None, epoch=number)


# the reference: methods.md section 3 in plain PyTorch, with nothing of ours but networks, crops and the draw of z


class Reference:
    """MosaicKD's objectives (Fang et al. 2021, supplement) with PyTorch's own losses, optimisers and schedulers."""

    def __init__(self, ours: MosaicKD, step: int) -> None:
        self.setup, self.step = ours.setup, step
        networks = (ours.generator, critic(ours), ours.setup.student.net, ours.setup.the_teacher.net)
        self.generator, self.discriminator, self.student, self.teacher = map(copy.deepcopy, networks)
        self.optimizers = [
            torch.optim.Adam(self.generator.parameters(), 1e-3, betas=(0.5, 0.999)),
            torch.optim.Adam(self.discriminator.parameters(), 1e-3, betas=(0.5, 0.999)),
            torch.optim.SGD(self.student.parameters(), LR, momentum=0.9, weight_decay=1e-4),
        ]
        schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS) for o in self.optimizers]
        for optimizer in self.optimizers:
            optimizer.step()  # nothing to do yet, but schedulers insist
        for scheduler in schedulers * step:
            scheduler.step()
        theirs = (ours.generator_optimizer, ours.discriminator_optimizer, ours.student_optimizer)
        for optimizer, other in zip(self.optimizers, theirs, strict=True):  # moments of steps before; lr is our own
            optimizer.load_state_dict(optimizer.state_dict() | {"state": copy.deepcopy(other.state_dict()["state"])})

    @staticmethod
    def normalised(x: Tensor) -> Tensor:
        """By the teacher's mean and standard deviation, whatever the image is."""
        return torch.stack([(x[:, c] - toys.MEAN[c]) / toys.STD[c] for c in range(3)], dim=1)

    def z(self, purpose: str, number: int) -> Tensor:
        return self.setup.noise(purpose, number, (BATCH, 10))

    def outer(self, batches: list[RealBatch]) -> dict[str, float]:
        """One discriminator, one generator and some student updates; returns the loss terms."""
        g_opt, d_opt, s_opt = self.optimizers
        ood = batches[0].images_BCHW / 255
        fake = self.generator(self.z("generator z", self.step))

        on_fake, on_ood = self.discriminator(fake.detach()), self.discriminator(ood)
        critic = (self.bce(on_fake, 0.0) + self.bce(on_ood, 1.0)) / 2
        d_opt.zero_grad()
        critic.backward()  # type: ignore[no-untyped-call]
        d_opt.step()

        self.student.eval()  # ours: BN statistics of the student belong to its own batches
        t, s = self.teacher(self.normalised(fake)), self.student(self.normalised(fake))
        self.student.train()
        p = t.softmax(1)
        mean_p = p.mean(0)
        terms = {
            "adv": -F.kl_div(s.log_softmax(1), p, reduction="batchmean"),
            "align": -(p * t.log_softmax(1)).sum(1).mean(),
            "local": self.bce(self.discriminator(fake), 1.0),
            "balance": (mean_p * mean_p.log2()).sum(),
        }
        g_opt.zero_grad()
        torch.autograd.backward(torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum())
        g_opt.step()

        kls = [self.teach(self.step * STUDENT_STEPS + i, batch, s_opt) for i, batch in enumerate(batches[1:])]
        found = {"discriminator": critic, **terms, "kl": torch.stack(kls).mean()}
        return {name: term.item() for name, term in found.items()}

    @staticmethod
    def bce(map_B1hw: Tensor, target: float) -> Tensor:
        """Summed over the patch map, divided by B."""
        goal = torch.full_like(map_B1hw, target)
        return F.binary_cross_entropy_with_logits(map_B1hw, goal, reduction="sum") / BATCH

    def teach(self, number: int, batch: RealBatch, opt: torch.optim.Optimizer) -> Tensor:
        with torch.no_grad():
            synthetic = self.generator(self.z("student z", number))
            ood = crop_and_flip(batch.images_BCHW, batch.keys, seed=3, view=batch.epoch) / 255
            x = self.normalised(torch.cat([synthetic, ood]))
            t = self.teacher(x)
        kl = F.kl_div(self.student(x).log_softmax(1), t.softmax(1), reduction="batchmean")
        opt.zero_grad()
        kl.backward()  # type: ignore[no-untyped-call]
        opt.step()
        return kl.detach()


@pytest.mark.parametrize("networks", ["code", "paper"])
def test_an_outer_iteration_equals_the_reference(weights: Path, networks: str) -> None:
    """The third: Adam's first divides every gradient by its own size, also those that are nothing but rounding."""
    step = 2
    ours = make(weights, networks=networks)
    batches = [[real(10 * number + i) for i in range(1 + STUDENT_STEPS)] for number in range(step + 1)]
    for number in range(step):
        ours.step(batches[number], number)
    reference = Reference(ours, step)
    terms = ours.step(batches[step], step)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        reference.outer(batches[step]), rel=2e-5
    )
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (ours.generator, reference.generator),
        (critic(ours), reference.discriminator),
        (ours.setup.student.net, reference.student),
    ]
    for net, other in pairs:
        for (name, tensor), expected in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
            if name == "start.0.bias":  # the BN after it takes it away: its gradient is rounding, which Adam blows up
                continue
            assert torch.allclose(tensor, expected, rtol=1e-4, atol=2e-6), name


# defects that other implementations have


class Seen:
    """What went into a module, call by call."""

    def __init__(self, module: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        module.register_forward_pre_hook(lambda _, arguments: self.inputs.append(arguments[0].detach().clone()))


def test_real_images_meet_the_teachers_normaliser(weights: Path) -> None:
    """Not one by their own statistics: teacher and student see the same numbers, denormalised they are the pixels."""
    method = make(weights)
    teacher, student = (
        Seen(net.get_submodule("conv1")) for net in (method.setup.the_teacher.net, method.setup.student.net)
    )
    batches = [real(i) for i in range(1 + STUDENT_STEPS)]
    method.step(batches, 0)
    assert len(teacher.inputs) == len(student.inputs) == 1 + STUDENT_STEPS
    assert all(torch.equal(t, s) for t, s in zip(teacher.inputs, student.inputs, strict=True))
    back = teacher.inputs[1] * torch.tensor(toys.STD).view(3, 1, 1) + torch.tensor(toys.MEAN).view(3, 1, 1)
    expected = crop_and_flip(batches[1].images_BCHW, batches[1].keys, seed=3, view=batches[1].epoch) / 255
    torch.testing.assert_close(back[BATCH:], expected)


def test_synthetic_images_are_not_augmented_and_real_ones_are(weights: Path) -> None:
    method = make(weights)
    images, before = Seen(method.setup.student), []
    method.generator.register_forward_hook(lambda _, arguments, output: before.append(output.detach().clone()))
    batches = [real(i) for i in range(1 + STUDENT_STEPS)]
    method.step(batches, 0)
    assert torch.equal(images.inputs[0], before[0])  # the generator's step
    for number in range(1, 1 + STUDENT_STEPS):
        synthetic, ood = images.inputs[number][:BATCH], images.inputs[number][BATCH:]
        assert torch.equal(synthetic, before[number])
        raw = batches[number].images_BCHW / 255
        assert not torch.equal(ood, raw)
        assert torch.equal(
            ood, crop_and_flip(batches[number].images_BCHW, batches[number].keys, seed=3, view=number) / 255
        )


def test_discriminator_and_generator_see_the_same_z_and_each_student_step_a_fresh_one(weights: Path) -> None:
    method = make(weights)
    z, judged = Seen(method.generator), Seen(critic(method))
    for step in range(2):
        method.step([real(i) for i in range(1 + STUDENT_STEPS)], step)
    assert len(z.inputs) == 2 * (1 + STUDENT_STEPS)
    assert len({tuple(one.flatten().tolist()) for one in z.inputs}) == len(z.inputs)
    assert len(judged.inputs) == 2 * 3  # fake, real; then fake again, through the discriminator just updated
    assert torch.equal(judged.inputs[0], judged.inputs[2])
    assert torch.equal(judged.inputs[1], real(0).images_BCHW / 255)


def test_noise_is_addressed_by_seed_purpose_and_step(weights: Path) -> None:
    setup = make(weights).setup
    first = setup.noise("z", 1, (400, 10))
    assert torch.equal(first, setup.noise("z", 1, (400, 10)))
    others = [setup.noise("z", 2, (400, 10)), setup.noise("y", 1, (400, 10))]
    others.append(replace(setup, seed=4).noise("z", 1, (400, 10)))
    assert not any(torch.equal(first, other) for other in others)
    assert first.mean().abs() < 0.1
    assert (first.std() - 1).abs() < 0.05


def test_the_discriminators_optimiser_is_restored(weights: Path, tmp_path: Path) -> None:
    method = make(weights)
    for step in range(2):
        method.step([real(i) for i in range(1 + STUDENT_STEPS)], step)
    checkpoint.save(tmp_path / "c.safetensors", method.parts(), {"step": 2})
    resumed = make(weights)
    checkpoint.load(tmp_path / "c.safetensors", resumed.parts())
    for optimizer in ("discriminator_optimizer", "generator_optimizer", "student_optimizer"):
        old, new = (getattr(m, optimizer).state_dict()["state"] for m in (method, resumed))
        assert old.keys() == new.keys() != set()
        for number, state in old.items():
            assert state.keys() == new[number].keys()
            assert all(torch.equal(tensor, new[number][name]) for name, tensor in state.items())
    moments = method.discriminator_optimizer.state_dict()["state"][0]
    assert moments["step"] == 2
    assert moments["exp_avg"].abs().sum() > 0


@pytest.mark.parametrize(("stride", "side"), [(1, 4), (2, 2)])
def test_the_stride_option_works(tmp_path: Path, stride: int, side: int) -> None:
    method = make(toys.write_teacher(tmp_path / "t.safetensors", size=16), stride=stride)
    maps: list[Tensor] = []
    critic(method).register_forward_hook(lambda _, arguments, output: maps.append(output))
    method.step([real(i, size=16) for i in range(1 + STUDENT_STEPS)], 0)
    assert {tuple(one.shape) for one in maps} == {(BATCH, 1, side, side)}


def test_the_generators_gradients_stop_at_the_other_networks(weights: Path) -> None:
    """Its step neither moves nor leaves gradients on student and discriminator, and not their BN statistics."""
    method = make(weights, student_steps=1, lr=0.0)
    net = method.setup.student.net
    states: list[dict[str, Tensor]] = []

    def note(*_: Any) -> None:
        states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        assert all(parameter.grad is None for parameter in net.parameters())

    method.generator_optimizer.register_step_post_hook(note)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    method.step([real(i) for i in range(2)], 0)
    assert len(states) == 1
    assert all(torch.equal(tensor, states[0][name]) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in [*net.parameters(), *critic(method).parameters()])
    assert net.training


def test_counts_of_the_published_setting() -> None:
    """Hidden student steps are counted: five updates, six batches, and 11 B images through the teacher."""
    config = MosaicKDConfig()
    assert (config.batch_size, config.student_steps, config.epochs) == (256, 5, 200)
    assert (config.updates_per_step, config.batches_per_step, config.queries_per_step) == (5, 6, 11 * 256)
    assert (config.adv, config.align, config.local, config.balance) == (1, 1, 1, 10)
    assert (config.lr, config.momentum, config.weight_decay, config.gan_lr, config.z_dim) == (0.1, 0.9, 1e-4, 1e-3, 100)


# options


@pytest.mark.parametrize(
    ("settings", "batches", "queries", "phases"),
    [
        ({}, 3, 5 * BATCH, {"discriminator": 1, "generator": 1, "student": 2}),
        ({"discriminator": "image"}, 3, 5 * BATCH, {"discriminator": 1, "generator": 1, "student": 2}),
        ({"discriminator": "none"}, 2, 5 * BATCH, {"generator": 1, "student": 2}),
        ({"student_images": "synthetic"}, 1, 3 * BATCH, {"discriminator": 1, "generator": 1, "student": 2}),
        ({"student_images": "synthetic", "local": 0.0}, 0, 3 * BATCH, {"generator": 1, "student": 2}),
        ({"align": 0.0, "local": 0.0, "balance": 0.0}, 2, 5 * BATCH, {"generator": 1, "student": 2}),
        ({"adv": 0.0, "align": 0.0, "balance": 0.0}, 3, 4 * BATCH, {"discriminator": 1, "generator": 1, "student": 2}),
        ({"adv": 0.0, "align": 0.0, "balance": 0.0, "local": 0.0}, 2, 4 * BATCH, {"student": 2}),
    ],
)
def test_what_has_no_weight_costs_nothing(
    weights: Path, settings: dict[str, Any], batches: int, queries: int, phases: dict[str, int]
) -> None:
    method = make(weights, **settings)
    config, asked = method.config, Seen(method.setup.the_teacher)
    assert (config.batches_per_step, config.queries_per_step, config.phases) == (batches, queries, phases)
    assert (method.discriminator is None) == ("discriminator" not in phases)
    updates: list[str] = []
    for part, opt in method.parts().items():
        if isinstance(opt, torch.optim.Optimizer):
            opt.register_step_post_hook(lambda *_, part=part: updates.append(part.removesuffix("_optimizer")))
    terms = method.step([real(i) for i in range(batches)], 0)
    assert sum(map(len, asked.inputs)) == method.queries(1) == queries
    assert updates == [name for name, count in phases.items() for _ in range(count)]
    weighed = [name for name in WEIGHTS if config.generator_weights.get(name)]
    assert list(terms) == ["discriminator"] * ("discriminator" in phases) + weighed + ["kl"]


def test_options_leave_what_they_do_not_concern(weights: Path) -> None:
    """With a generator that does not move, the student sees the same whether there is a discriminator or not."""
    mixed, alone = make(weights, student_steps=1, gan_lr=0.0), make(weights, student_steps=1, gan_lr=0.0, local=0.0)
    kl = mixed.step([real(0), real(1)], 0)["kl"]
    assert alone.step([real(1)], 0)["kl"] == kl


def test_a_synthetic_student_batch_is_synthetic(weights: Path) -> None:
    method = make(weights, student_images="synthetic")
    images = Seen(method.setup.student)
    method.step([real(0)], 0)
    assert [len(one) for one in images.inputs] == [BATCH] * (1 + STUDENT_STEPS)


@pytest.mark.parametrize("networks", ["code", "paper"])
@pytest.mark.parametrize("size", [8, 32, 64, 100])
def test_the_image_discriminator_says_one_thing_of_a_whole_image(networks: Any, size: int) -> None:
    torch.manual_seed(0)
    net = ImageDiscriminator(size=size, variant=networks).eval()
    images_BCHW = torch.rand(2, 3, size, size, requires_grad=True)
    map_B111 = net(images_BCHW)
    assert map_B111.shape == (2, 1, 1, 1)
    (gradient_BCHW,) = torch.autograd.grad(map_B111.sum(), images_BCHW)
    assert (gradient_BCHW[0].abs().sum(0) > 0).float().mean() > 0.9  # the corners of some sides fall off a convolution


def test_logits_that_came_with_real_images_are_not_asked_for(weights: Path) -> None:
    method, asking = make(weights), make(weights)
    views = Views(count=1, seed=3, flip=True, pad=4)
    method.setup = replace(method.setup, views=views)
    asked = Seen(method.setup.the_teacher)
    batches = [replace(real(i), epoch=0) for i in range(1 + STUDENT_STEPS)]
    teacher = asking.setup.the_teacher
    carried = [
        replace(b, logits_BK=teacher(crop_and_flip(b.images_BCHW, b.keys, seed=3, view=0)).logits_BK) for b in batches
    ]
    terms = method.step(carried, 0)
    assert sum(map(len, asked.inputs)) == method.queries(1) == (1 + STUDENT_STEPS) * BATCH
    assert terms["kl"].item() == pytest.approx(asking.step(batches, 0)["kl"].item(), rel=1e-4)


def test_published_ablations_are_recipes() -> None:
    assert configure("stride-3", "mosaickd", {"epochs": 2}) == MosaicKDConfig(stride=3, epochs=2)
    assert configure("image", "mosaickd", {}) == MosaicKDConfig(discriminator="image")
    assert configure("unregularised", "mosaickd", {}) == MosaicKDConfig(align=0, local=0, balance=0)


def test_a_stride_of_no_patches_is_refused() -> None:
    with pytest.raises(DistillError, match="stride is 2; expected 1 where discriminator is image, which has no patc"):
        MosaicKDConfig(stride=2, discriminator="image")


def test_samples_are_always_of_the_same_z_and_change_nothing(weights: Path) -> None:
    method = make(weights)
    method.step([real(i) for i in range(1 + STUDENT_STEPS)], 0)
    before = {name: tensor.clone() for name, tensor in method.generator.state_dict().items()}
    images_BCHW = method.samples(5)
    assert images_BCHW.shape == (5, 3, toys.SIZE, toys.SIZE)
    assert 0 <= images_BCHW.min() < images_BCHW.max() <= 1
    assert torch.equal(images_BCHW, method.samples(5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.generator.state_dict().items())
    assert method.generator.training


def test_a_size_that_the_generator_cannot_make(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSize, match="a multiple of 4; got 10"):
        make(toys.write_teacher(tmp_path / "t.safetensors", size=10))
    assert isinstance(make(toys.write_teacher(tmp_path / "t.safetensors", size=12)).generator, Generator)


def test_in_bfloat16_all_networks_compute_in_it_and_losses_do_not(weights: Path) -> None:
    """Channels-last too; images are float32: near 1 that type has fewer levels than pixels do."""
    student = fresh_student(
        "wrn16_1", len(toys.CLASSES), mean=toys.MEAN, std=toys.STD, seed=0, dtype="bfloat16", device=toys.CPU
    )
    teacher = load_classifier(weights, dtype="bfloat16")
    method = MosaicKD(
        Setup(teacher=teacher, student=student, device=toys.CPU, steps=STEPS, seed=3, flip=True),
        MosaicKDConfig(batch_size=BATCH, student_steps=STUDENT_STEPS, z_dim=10),
    )
    seen: dict[str, set[torch.dtype]] = {}
    for name, net in {"generator": method.generator, "discriminator": critic(method)}.items():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                assert module.weight.is_contiguous(memory_format=torch.channels_last)
                module.register_forward_hook(lambda _, __, out, of=name: seen.setdefault(of, set()).add(out.dtype))
    terms = method.step([real(number) for number in range(1 + STUDENT_STEPS)], 0)
    assert seen == {"generator": {torch.bfloat16}, "discriminator": {torch.bfloat16}}
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert method.samples(4).dtype == torch.float32


def test_compile_covers_generator_and_discriminator(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is asked of them in an iteration goes through what torch.compile made; here that is themselves."""
    asked: Counter[str] = Counter()

    def compiled(call: Any, *_: Any, **__: Any) -> Any:
        def through(*inputs: Any, **named: Any) -> Any:
            asked[type(call.__self__).__name__] += 1
            return call(*inputs, **named)

        return through

    monkeypatch.setattr(torch, "compile", compiled)
    method = make(weights)
    method.compile()
    method.step([real(number) for number in range(1 + STUDENT_STEPS)], 0)
    assert asked["Generator"] == 1 + STUDENT_STEPS
    assert asked["Discriminator"] == 3  # fake and real; fake again, for the generator
    assert asked["Classifier"] == 1 + STUDENT_STEPS
