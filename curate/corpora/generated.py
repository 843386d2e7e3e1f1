"""What generated corpora share: `FAMILY?n=&seed=&size=`, every image a pure function of (family, seed, index, size).

So image i is the same whatever n is, whatever part holds it and whichever process reads it; nothing is stored, and
parts are ranges of indices, so that a corpus of 10^9 images costs no more memory than one of ten.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.corpora import base
from curate.corpora.base import Item, Part, fingerprint, part_name, split_options
from curate.corpora.starter.addressed import generator_at
from curate.errors import UnknownCorpus

_DIGITS = 9  # of the index in a uri


class _Option(NamedTuple):
    what: str
    default: int
    low: int
    high: int


_OPTIONS = {
    "n": _Option("number of images", 50_000, 1, 10**_DIGITS),  # 50,000: the images of CIFAR-10's training set
    "seed": _Option("seed", 0, 0, 2**63 - 1),
    "size": _Option("side in px", 32, 8, 1024),
}


class Draw(Protocol):
    """How a family draws an image."""

    def __call__(self, rng: np.random.Generator, index: int, /, *, size: int) -> NDArray[np.uint8]:
        """Image (size, size, 3) from the generator that belongs to (family, seed, index), and from nothing else."""


class Family(NamedTuple):
    """A kind of generated image."""

    draw: Draw
    version: int
    """raised when the family draws other images at the same index: stores of the old ones are then made anew"""


class GeneratedCorpus:
    """Images that are computed when they are read; subclasses name a scheme and its families."""

    scheme: ClassVar[str]
    families: ClassVar[Mapping[str, Family]]
    classes = None
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        family, given = split_options(self.scheme, path, tuple(_OPTIONS))
        if family not in self.families:
            known = ", ".join(self.families)
            raise UnknownCorpus(f"{self.scheme}: has no family {family!r}; expected one of {known}")
        self.name, self._family = name, family
        values = {key: _value(f"{self.scheme}:{family}", key, given.get(key)) for key in _OPTIONS}
        self._count, self._seed, self._size = values["n"], values["seed"], values["size"]
        self.spec = f"{self.scheme}:{family}?" + "&".join(f"{key}={value}" for key, value in values.items())

    @staticmethod
    def fits(_path: Path) -> bool:
        """A path is never generated."""
        return False

    def identity(self) -> str:
        """Over the family's version and the parameters."""
        return fingerprint(self.scheme, self.families[self._family].version, self.spec)

    def parts(self) -> list[Part]:
        """Ranges of indices, PART_SIZE a part."""
        starts = range(0, self._count, base.PART_SIZE)
        ranges = ((start, min(start + base.PART_SIZE, self._count)) for start in starts)
        return [
            Part(name=part_name(n), count=stop - start, where=(start, stop)) for n, (start, stop) in enumerate(ranges)
        ]

    def read(self, part: Part) -> Iterator[Item]:
        """The images as uint8 arrays (size, size, 3), without labels."""
        draw, address = self.families[self._family].draw, f"{self.scheme}:{self._family}/{self._seed}"
        for index in range(*part.where):
            image_HWC = draw(generator_at(address, index), index, size=self._size)
            yield Item(uri=f"{self._family}/{index:0{_DIGITS}d}", data=image_HWC)


def _value(corpus: str, key: str, text: str | None) -> int:
    option = _OPTIONS[key]
    if text is None:
        return option.default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and option.low <= int(text) <= option.high):
        raise UnknownCorpus(f"{corpus}: {key}={text} is not a {option.what} from {option.low:,} to {option.high:,}")
    return int(text)
