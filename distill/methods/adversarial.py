"""The game of `abm`, `dfkd-mem` and `mad`: a generator seeks what the student does not know, the student learns it.

Do et al. 2022, Momentum Adversarial Distillation (MAD), Eq. 1-3 and 6-11; it trains its two baselines "using exactly
the same settings", so all of that is here, and each method adds where else its student's images come from.

One step is a stage: n_G updates of the generator G and its class embeddings E, then n_S of the student S.

- G, E: -adv KL(T || S) + nll -ln Tp(x)[y] + norm max(||e_y|| - gamma sqrt(d_e), 0) + bn BN moment matching +
  teacher_hinge max(|T(x)| - delta, 0) + pixel_hinge max(|u| - nu, 0), x = sigmoid(u), u = G(z, e_y), y drawn evenly
- S: the sum over sources of images of weight (KL(T || S) + student_hinge max(|S(x)| - delta, 0)), all sources in one
  batch

Student images are made for `fill` updates at a time and kept with the teacher's logits (the paper's own remedy for its
40 % of added time, section 6), so that generator and teacher work on large batches.

Ours where the paper is silent: "steps per epoch" are stages (6,000 of them are its 6,000 iterations on ImageNet, and
the drops of its Figure 4 at 5,000 are epoch 100 of 50 stages); the rate that decays is the student's; hinges are means
over elements; Adam's betas are torch's; S is in eval mode while it is only asked; its sources share one batch, so that
its BN sees the mix; pretraining is part of the first stage.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from distill.errors import DistillError
from distill.generators.conditioning import Conditioning
from distill.generators.mad import Network
from distill.losses.batch_norm import moment_matching
from distill.losses.embedding_norm import norm_hinge
from distill.losses.hinge import magnitude_hinge
from distill.losses.kl import kl_divergence
from distill.losses.nll import class_nll
from distill.methods.adversarial_config import AdversarialConfig
from distill.methods.base import Method, Setup, Stateful, descend, no_gradients_for, sgd
from distill.methods.schedules import SCHEDULES
from distill.methods.synthesis import Made, Synthesis
from shards.device import RealBatch


class Lesson(NamedTuple):
    """What one source of images gives one update of the student."""

    images_BCHW: Tensor
    """in [0, 1]"""
    teacher_BK: Tensor
    """the teacher's logits"""


class Adversarial(Method):
    """min_S max_G KL(T || S). A subclass says in `material` and `weights` what its student learns from."""

    needs_stream = False
    config: AdversarialConfig

    def __init__(self, setup: Setup, config: AdversarialConfig) -> None:
        super().__init__(setup, config)
        teacher = setup.the_teacher
        if config.bn and not any(isinstance(module, _BatchNorm) for module in teacher.net.modules()):
            raise DistillError(
                f"bn is {config.bn}, but the teacher {teacher.name} has no batch norms to match; expected bn=0"
            )
        self.image_size = config.image_size or teacher.input_size
        self.synthesis = Synthesis(
            setup,
            z_dim=config.z_dim,
            conditioning=cast("Conditioning", config.conditioning),
            size=self.image_size,
            network=None if config.network == "auto" else cast("Network", config.network),
        )
        if config.optimizer == "adam":
            weights = setup.student.net.parameters()
            self.student_optimizer: torch.optim.Optimizer = torch.optim.Adam(weights, weight_decay=config.weight_decay)
        else:
            self.student_optimizer = sgd(setup.student, config)
        self.generator_optimizer = torch.optim.Adam(self.synthesis.parameters(), weight_decay=config.gan_weight_decay)

    def parts(self) -> dict[str, Stateful]:
        return {
            "student": self.setup.student.net,
            **self.synthesis.parts(),
            "student_optimizer": self.student_optimizer,
            "generator_optimizer": self.generator_optimizer,
        }

    def compile(self) -> None:
        super().compile()
        self.synthesis.generator.compile()

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:  # noqa: ARG002  # it needs none
        return {**self.seek(step), **self.teach(step)}

    def samples(self, count: int, *, number: int = 0) -> Tensor:
        return self.synthesis.samples(count, number=number)

    # the generator's part of a stage

    def seek(self, step: int) -> dict[str, Tensor]:
        """The generator's updates; their mean loss terms."""
        config, net = self.config, self.setup.student.net
        watch = self.setup.the_teacher.watch(batch_norm=True) if config.bn else contextlib.nullcontext()
        with no_gradients_for(net), watch:
            net.eval()  # it is only asked here, its BN statistics belong to its own batches
            before = [
                self._improve(self.synthesis.make("pretraining", number, config.batch_size), without=("adv",))
                for number in range(config.pretrain_steps if step == 0 else 0)
            ]
            first = step * config.generator_steps
            terms = [
                self._improve(self.synthesis.make("generator", number, config.batch_size))
                for number in range(first, first + config.generator_steps)
            ]
            net.train()
        pretraining = {f"pretraining_{name}": mean for name, mean in _means(before).items()} if before else {}
        return pretraining | _means(terms)

    def _improve(self, made: Made, *, without: Sequence[str] = ()) -> dict[str, Tensor]:
        """One update of generator and embeddings."""
        weights = {n: weight for n, weight in self.config.generator_weights.items() if weight and n not in without}
        terms = self.generator_terms(made, weights)
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        descend(loss, self.generator_optimizer, lr=self.config.gan_lr)
        return {name: term.detach() for name, term in terms.items()}

    def generator_terms(self, made: Made, wanted: Mapping[str, float]) -> dict[str, Tensor]:
        """Eq. 11 term by term, without the weights; only those that are ``wanted``."""
        config, view = self.config, self.setup.the_teacher(made.images_BCHW)
        terms = {}
        if "adv" in wanted:
            terms["adv"] = -kl_divergence(view.logits_BK, self.setup.student(made.images_BCHW))
        if "nll" in wanted and made.classes_B is not None:
            terms["nll"] = class_nll(view.logits_BK, made.classes_B)
        if "norm" in wanted and made.embeddings_BE is not None:
            terms["norm"] = norm_hinge(made.embeddings_BE, gamma=config.gamma)
        if "bn" in wanted:
            terms["bn"] = moment_matching(view.batch_norm.values())
        if "teacher_hinge" in wanted:
            terms["teacher_hinge"] = magnitude_hinge(view.logits_BK, bound=config.delta)
        if "pixel_hinge" in wanted:
            terms["pixel_hinge"] = magnitude_hinge(made.u_BCHW, bound=config.nu)
        return terms

    # the student's

    def material(self, first: int, updates: int) -> dict[str, Tensor]:
        """Images in [0, 1] for that many student updates from the ``first`` of the run, by name of their loss term.

        The images of a source are as many for each update, one update's after another's.
        """
        count = updates * self.config.batch_size
        return {"kl": self.synthesis.make("student", first, count, updates=updates).images_BCHW}

    def weights(self) -> dict[str, float]:
        """Of each source's loss, by the same names."""
        return {"kl": 1.0}

    def teach(self, step: int) -> dict[str, Tensor]:
        """The student's updates; their mean loss terms."""
        config = self.config
        lr = config.lr * SCHEDULES[config.schedule](step, self.setup.steps)
        begin, terms = step * config.student_steps, []
        for first in range(0, config.student_steps, config.fill):
            buffer = self._filled(begin + first, min(config.fill, config.student_steps - first))
            terms += [self._learn(lessons, lr=lr) for lessons in buffer]
        return _means(terms)

    @torch.no_grad()
    def _filled(self, first: int, updates: int) -> list[dict[str, Lesson]]:
        """The buffer: for each update a lesson from each source."""
        buffer: list[dict[str, Lesson]] = [{} for _ in range(updates)]
        for name, images_NCHW in self.material(first, updates).items():
            logits_NK = self.setup.the_teacher(images_NCHW).logits_BK
            parts = zip(buffer, images_NCHW.chunk(updates), logits_NK.chunk(updates), strict=True)
            for lessons, images_BCHW, teacher_BK in parts:
                lessons[name] = Lesson(images_BCHW, teacher_BK)
        return buffer

    def _learn(self, lessons: Mapping[str, Lesson], *, lr: float) -> dict[str, Tensor]:
        """One update of the student."""
        config, weights = self.config, self.weights()
        images_BCHW = torch.cat([lesson.images_BCHW for lesson in lessons.values()])
        answers = self.setup.student(images_BCHW).split([len(lesson.images_BCHW) for lesson in lessons.values()])
        terms, hinges, losses = {}, [], []
        for (name, lesson), answer_BK in zip(lessons.items(), answers, strict=True):
            terms[name] = kl_divergence(lesson.teacher_BK, answer_BK)
            hinges.append(magnitude_hinge(answer_BK, bound=config.delta))
            losses.append(weights[name] * (terms[name] + config.student_hinge * hinges[-1]))
        descend(torch.stack(losses).sum(), self.student_optimizer, lr=lr)
        terms["student_hinge"] = torch.stack(hinges).mean()
        return {name: term.detach() for name, term in terms.items()}


def _means(terms: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of each term over the updates of a stage; from the first on that is not finite, of those before alone.

    For it spoils the weights, and so every later term: but one mean is then not finite, and the loop names it.
    """
    values_UT = torch.stack([torch.stack([*of.values()]) for of in terms])
    bad_N = ~values_UT.flatten().isfinite()
    later_UT = ((bad_N.cumsum(0) - bad_N.long()) > 0).view_as(values_UT)  # than a bad one, in order of computation
    mean_T = values_UT.masked_fill(later_UT, 0).sum(0) / (~later_UT).sum(0).clamp_min(1)
    return dict(zip(terms[0], mean_T, strict=True))
