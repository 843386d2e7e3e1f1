"""Corpora that come with the program: every image is a pure function of (family, index), so nothing is downloaded.

`builtin:digits?split=train`, `builtin:photos?n=500`: `n` keeps the first n images, which are the same whatever n is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from curate.corpora.base import Item, Part, fingerprint, split
from curate.corpora.starter import digits, glyphs, photos, textures
from curate.errors import UnknownCorpus

_VERSION = 1  # raised when a family draws other images at the same index
_MAX_COUNT = 1_000_000  # uris have six digits


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a builtin corpus is made of."""

    draw: Callable[[int], tuple[NDArray[np.uint8], str | None]]  # index -> image and label
    count: int  # images, unless the query says otherwise
    limit: int = _MAX_COUNT  # most images there can be
    classes: tuple[str, ...] | None = None
    splits: Mapping[str, int] = field(default_factory=dict)  # images in each split, where the family has splits
    members: Callable[[str], Sequence[int]] | None = None  # split -> indices
    files: Callable[[], tuple[Path, ...]] = tuple  # files it is cut from


BUILTINS = {
    "digits": Family(
        draw=digits.draw,
        count=digits.COUNT,
        limit=digits.COUNT,
        classes=digits.CLASSES,
        splits=digits.SPLITS,
        members=digits.members,
    ),
    "photos": Family(draw=photos.draw, count=photos.COUNT, files=photos.files),
    "glyphs": Family(draw=glyphs.draw, count=glyphs.COUNT),
    "textures": Family(draw=textures.draw, count=textures.COUNT),
}

STARTER_CORPORA = ("photos", "glyphs", "textures")  # out of domain for a teacher of digits


class BuiltinCorpus:
    """Images drawn or cut by the program itself."""

    scheme = "builtin"
    builtin = True

    def __init__(self, name: str, path: str) -> None:
        family, _, query = path.partition("?")
        if family not in BUILTINS:
            raise UnknownCorpus(f"no builtin corpus {family!r}; known: {', '.join(BUILTINS)}")
        self._name, self._family = family, BUILTINS[family]
        self._split, self._count = _options(family, query)
        self.name, self.classes = name, self._family.classes
        chosen = f"split={self._split}&" if self._split else ""
        self.spec = f"builtin:{family}?{chosen}n={self._count}"

    @staticmethod
    def fits(_path: Path) -> bool:
        """A path is never builtin."""
        return False

    @cached_property
    def _indices(self) -> Sequence[int]:
        if self._family.members is None or self._split is None:
            return range(self._count)
        return self._family.members(self._split)[: self._count]

    def identity(self) -> str:
        """Over the family's version and parameters, and the names and sizes of the files it is cut from."""
        files = [(path.name, path.stat().st_size) for path in self._family.files()]
        return fingerprint(self.scheme, _VERSION, self.spec, files)

    def parts(self) -> list[Part]:
        """Indices in ascending order, PART_SIZE a part."""
        return split(self._indices)

    def read(self, part: Part) -> Iterator[Item]:
        """The images as uint8 arrays: 8x8 for digits, 32x32x3 for all others."""
        for index in part.where:
            image, label = self._family.draw(index)
            yield Item(uri=f"{self._name}/{index:06d}", data=image, label=label)


def _options(name: str, query: str) -> tuple[str | None, int]:
    """The split (None where the family has none) and the number of images that a query asks for."""
    family = BUILTINS[name]
    known = ("split", "n") if family.splits else ("n",)
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in known:
            raise UnknownCorpus(f"builtin:{name} has no option {option!r}; expected one of {', '.join(known)}")
    chosen = options.get("split", "all") if family.splits else None
    if chosen is not None and chosen not in family.splits:
        raise UnknownCorpus(f"builtin:{name} has no split {chosen!r}; expected one of {', '.join(family.splits)}")
    count, limit = options.get("n"), family.splits[chosen] if chosen else family.limit
    if count is None:
        return chosen, min(family.count, limit)
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= limit):
        raise UnknownCorpus(f"builtin:{name}: n={count} is not a number of images from 1 to {limit:,}")
    return chosen, int(count)
