"""Synthetic images for a data-free method: a generator, a class's embedding where it has one, noise by its address."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.generators.conditioning import ClassEmbedding, Conditioning, conditioned, input_width
from distill.generators.mad import Generator, Network
from distill.methods.base import Setup, Stateful


@dataclass(frozen=True, kw_only=True)
class Made:
    """A batch of synthetic images, and what they were made of."""

    images_BCHW: Tensor
    """in [0, 1]"""
    u_BCHW: Tensor
    """the same before the sigmoid"""
    classes_B: Tensor | None
    """the classes asked for, of a conditional generator"""
    embeddings_BE: Tensor | None
    """theirs"""


class Synthesis:
    """A generator in training and, unless ``conditioning`` is none, an embedding for each of the teacher's classes.

    In bfloat16 runs the generator too runs under autocast; images and u are float32. Its batch norms go by the batch,
    in student updates as in its own (ours), so that the student learns from what the generator was judged by.
    """

    def __init__(
        self, setup: Setup, *, z_dim: int, conditioning: Conditioning, size: int, network: Network | None
    ) -> None:
        self._setup, self._z_dim, self._conditioning = setup, z_dim, conditioning
        width = input_width(z_dim, conditioning)
        self.generator = setup.housed(Generator(z_dim=width, size=size, network=network))
        self.embedding = None
        if conditioning != "none":
            self.embedding = ClassEmbedding(setup.the_teacher.num_classes, z_dim).to(setup.device)

    def parts(self) -> dict[str, Stateful]:
        """All its state, by name."""
        networks: dict[str, Stateful] = {"generator": self.generator}
        return networks if self.embedding is None else networks | {"embedding": self.embedding}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the generator, then those of the embeddings, for one optimiser (MAD, Eq. 6)."""
        yield from self.generator.parameters()
        if self.embedding is not None:
            yield from self.embedding.parameters()

    def make(self, purpose: str, number: int, count: int, *, updates: int = 1, by: Generator | None = None) -> Made:
        """``count`` images, for so many ``updates``, of z and, if conditional, y addressed by (seed, purpose, number).

        ``by`` another network of the same shape than its own; the embeddings are its own all the same (MAD, Figure 1).
        """
        classes_B = None
        if self.embedding is not None:
            known = len(self.embedding.weight)
            classes_B = self._setup.integers(f"{purpose} y", number, count, below=known, updates=updates)
        z_BZ = self._setup.noise(f"{purpose} z", number, (count, self._z_dim), updates=updates)
        return self._made(z_BZ, classes_B, by or self.generator)

    @torch.no_grad()
    def samples(self, count: int, *, number: int = 0, by: Generator | None = None) -> Tensor:
        """Images (count, C, H, W) of the noise of that number, class after class, by running statistics."""
        net, z_BZ, classes_B = (
            by or self.generator,
            self._setup.noise("samples", number, (count, self._z_dim), whole=True),
            None,
        )
        if self.embedding is not None:
            classes_B = torch.arange(len(z_BZ), device=self._setup.device) % len(self.embedding.weight)
        net.eval()
        made = self._made(z_BZ, classes_B, net)
        net.train()
        return made.images_BCHW

    def _made(self, z_BZ: Tensor, classes_B: Tensor | None, net: Generator) -> Made:
        input_BZ, embeddings_BE = z_BZ, None
        if self.embedding is not None and classes_B is not None:
            embeddings_BE = self.embedding(classes_B)
            input_BZ = conditioned(z_BZ, embeddings_BE, self._conditioning)
        with self._setup.autocast():
            u_BCHW = net.logits(input_BZ)
        u_BCHW = u_BCHW.float()
        return Made(images_BCHW=u_BCHW.sigmoid(), u_BCHW=u_BCHW, classes_B=classes_B, embeddings_BE=embeddings_BE)
