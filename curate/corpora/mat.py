"""Reader of MATLAB files in the layout of SVHN: images `X` (H x W x 3 x N, uint8), labels `y` (N numbers).

`?images=NAME&labels=NAME` name other variables; `?labels=` reads none. A file without `y` has no labels. Where labels
run from 1 to 10 and 10 is among them they are digits, and 10 means 0, for MATLAB counts from one (Netzer et al.,
"Reading digits in natural images", 2011); else they are given as they are. A variable is held while it is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.corpora.arrays import ArrayCorpus, Rows, blocks, check_labels, is_folder, opened, texts, the_only
from curate.corpora.base import SourceFile, find_files, is_container
from curate.corpora.mat5 import Variable, list_variables, read_variable
from curate.errors import UnknownCorpus
from shards.names import is_pattern

_KIND = "MATLAB file"
_ENDING = ".mat"
_CHANNELS = (1, 3)
_ZERO = "10"  # SVHN's label of the digit 0
_DIGITS = tuple("0123456789")


class MatCorpus(ArrayCorpus):
    """Images as an array in a MATLAB file."""

    scheme = "mat"
    known = ("images", "labels")

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is a `.mat` file, a folder of them, or a pattern that ends in `.mat`."""
        if path.is_dir():
            return any(is_container(entry, _ENDING) for entry in path.iterdir())
        return path.name.lower().endswith(_ENDING) and (path.is_file() or is_pattern(str(path)))

    def _find(self, place: str) -> list[SourceFile]:
        if not is_folder(place):
            return find_files(place, "")
        return the_only(self.scheme, find_files(place, _ENDING), place=place, what="*.mat file")

    def _open(self, file: SourceFile) -> Rows:
        with opened(_KIND, file) as stream:
            variables = list_variables(stream)
        images = _images(file, variables, self._options.get("images", "X"))
        labels = _labels(file, variables, self._options.get("labels"))
        return _MatRows(file, images, labels, self)

    @cached_property
    def digits(self) -> bool:
        """Whether labels are digits, 10 for 0."""
        found = {text for rows in self._rows.values() if isinstance(rows, _MatRows) for text in rows.numbers or ()}
        return _ZERO in found and found <= {_ZERO, *_DIGITS[1:]}

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The digits, where the labels are digits."""
        return _DIGITS if self.digits else None


class _MatRows(Rows):
    """A file whose images are loaded when they are first read."""

    def __init__(self, file: SourceFile, images: Variable, labels: Variable | None, corpus: MatCorpus) -> None:
        super().__init__(file)
        self._images, self._labels, self._corpus = images, labels, corpus
        self._held: NDArray[np.uint8] | None = None
        if labels is not None:
            check_labels(file, len(self), file, prod(labels.shape))

    def __len__(self) -> int:
        return self._images.shape[3] if len(self._images.shape) > 3 else 1  # MATLAB drops a last dimension of one

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        if self._held is None:
            self._held = self._load(self._images)
        height, width, channels = self._images.shape[:3]
        held_NCWH = self._held.reshape(height, width, channels, -1, order="F").transpose()  # the last index is slowest
        for first, last in blocks(start, stop, height * width * channels):
            block_NHWC = np.ascontiguousarray(held_NCWH[first:last].transpose(0, 3, 2, 1))
            yield block_NHWC if channels > 1 else block_NHWC[..., 0]

    @cached_property
    def numbers(self) -> list[str] | None:
        """Labels as they lie in the file."""
        if self._labels is None:
            return None
        return texts(self.images, self._load(self._labels).reshape(-1, order="F"))

    def label(self, start: int, stop: int) -> Sequence[str | None]:
        if self.numbers is None:
            return [None] * (stop - start)
        found = self.numbers[start:stop]
        return ["0" if text == _ZERO else text for text in found] if self._corpus.digits else found

    def drop(self) -> None:
        self._held = None

    def _load(self, variable: Variable) -> NDArray[Any]:
        with opened(_KIND, self.images) as stream:
            values = read_variable(stream, variable)
            if variable is self._images and values.dtype != np.uint8:
                raise ValueError(f"{variable.name} is {variable}, but its values lie there as {values.dtype}")
            return values


def _images(file: SourceFile, variables: Mapping[str, Variable], name: str) -> Variable:
    found = variables.get(name)
    if found is None:
        there = ", ".join(f"{each.name} ({each})" for each in variables.values()) or "nothing"
        raise UnknownCorpus(f"no variable {name!r} in {file.place}, which holds {there}; say which: ?images=NAME")
    if found.kind != "uint8" or len(found.shape) not in (3, 4) or found.shape[2] not in _CHANNELS or 0 in found.shape:
        raise UnknownCorpus(
            f"{name} in {file.place} is {found}; expected uint8, height x width x 3 x number, as SVHN's X is"
        )
    return found


def _labels(file: SourceFile, variables: Mapping[str, Variable], name: str | None) -> Variable | None:
    if name == "" or (name is None and "y" not in variables):
        return None
    found = variables.get(name or "y")
    if found is None:
        raise UnknownCorpus(f"no variable {name!r} in {file.place}, which holds {', '.join(variables)}")
    if not found.numeric or sum(side != 1 for side in found.shape) > 1:
        raise UnknownCorpus(f"labels {found.name} in {file.place} are {found}; expected one number an image")
    return found
