"""Reader of batches as CIFAR and the downsampled ImageNet have them: rows of 3 x S x S bytes, red, green, blue planes.

`data_batch_1` (CIFAR, pickled by Python) and `train_data_batch_1`, pickled or `.npz` (ImageNet-32 and -64, Chrabaszcz
et al. 2017): `data` (N, 3*S*S) and `labels`, or `fine_labels`. Labels are the file's own numbers, ImageNet-32's from 1
to 1000, or names where a CIFAR folder's `batches.meta` or `meta` states them. `array_pickle` alone opens a pickle.
A batch is loaded to be counted and, when its turn comes, to be read; one is in memory at a time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.corpora import array_pickle
from curate.corpora.arrays import ArrayCorpus, Rows, blocks, check_labels, is_folder, opened, telling
from curate.corpora.base import SourceFile, find_files, is_container
from curate.corpora.numpy_files import npz_array, npz_headers
from curate.errors import CorpusAmbiguous, CorpusEmpty, UnknownCorpus
from shards.names import is_pattern

_KIND = "batch"
_TRAIN = re.compile(r"(train_)?data_batch_[\d*?{}\[\],.-]+?(\.npz)?|train")  # also a pattern of such names
_TEST = re.compile(r"val_data(\.npz)?|test_batch|test")
_BARE = ("train", "test")  # CIFAR-100's files: known as batches only beside `meta`
_CIFAR10 = re.compile(r"data_batch_\d+|test_batch")
_DATA, _LABELS, _NAMES = "data", ("labels", "fine_labels"), ("label_names", "fine_label_names")
_ZIP = b"PK"  # first bytes of an .npz


def is_batch(name: str) -> bool:
    """Whether a file, or a pattern of files, is named as batches are."""
    return name not in _BARE and (_TRAIN.fullmatch(name) or _TEST.fullmatch(name)) is not None


class BatchCorpus(ArrayCorpus):
    """Images as rows of batches."""

    scheme = "batches"

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is a batch, a folder of them, or a pattern such as `data_batch_*`."""
        if path.is_dir():
            names = {entry.name for entry in path.iterdir() if is_container(entry, "")}
            return any(map(is_batch, names)) or ("meta" in names and not names.isdisjoint(_BARE))
        if path.is_file():
            return is_batch(path.name) or (path.name in _BARE and path.with_name("meta").is_file())
        return is_batch(path.name) and is_pattern(str(path))

    def _find(self, place: str) -> list[SourceFile]:
        files = find_files(place, "")
        if not is_folder(place):
            return files
        train = [file for file in files if _TRAIN.fullmatch(file.place.name)]
        test = [file for file in files if _TEST.fullmatch(file.place.name)]
        if not train + test:
            raise CorpusEmpty(f"no batch (such as data_batch_1 or train_data_batch_1.npz) in the folder {place}")
        if train and test:
            names = re.sub(r"\d+", "*", train[0].place.name), test[0].place.name
            spellings = " or ".join(f"batches:{place.rstrip('/')}/{name}" for name in names)
            raise CorpusAmbiguous(f"batches to train and to test on lie in {place}; say which: {spellings}")
        return train or test

    @cached_property
    def _meta(self) -> list[SourceFile]:
        """The files of class names beside the batches."""
        wanted = {(file.place.parent, name): file for file in self._files if (name := _meta_name(file.place.name))}
        found = (file.beside(name) for (_, name), file in wanted.items())
        return [file for file in found if file]

    def _companions(self) -> list[SourceFile]:
        return self._meta

    @cached_property
    def names(self) -> tuple[str, ...] | None:
        """What the files beside the batches state."""
        stated = {_read_names(file) for file in self._meta}
        if len(stated) > 1:
            raise CorpusAmbiguous(f"the batches of {self.spec} state different class names; read them one by one")
        return stated.pop() if stated else None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names in CIFAR's file of them."""
        return self.names

    def _open(self, file: SourceFile) -> Rows:
        return _BatchRows(file, self)


class _BatchRows(Rows):
    """One batch; held from its first row to its last."""

    def __init__(self, file: SourceFile, corpus: BatchCorpus) -> None:
        super().__init__(file)
        self._corpus = corpus
        self._packed = _is_npz(file)
        self._held_ND: NDArray[np.uint8] | None = None
        dtype, self._shape, labels = self._look()
        self._side = _side(file, dtype, self._shape)
        self._numbers = None if labels is None else _numbers(file, labels)
        if self._numbers is not None:
            check_labels(file, len(self), file, len(self._numbers))

    def _look(self) -> tuple[Any, tuple[int, ...], Any]:
        """Type and shape of the images, and the labels."""
        if not self._packed:
            found = _unpickle(self.images)
            data, labels = found.get(_DATA), next((found[key] for key in _LABELS if key in found), None)
            return getattr(data, "dtype", type(data).__name__), getattr(data, "shape", ()), labels
        headers = npz_headers(self.images)
        key = next((key for key in _LABELS if key in headers), None)
        header = headers.get(_DATA)
        labels = npz_array(self.images, key) if key else None
        return (header.dtype, header.shape, labels) if header else ("nothing", (), labels)

    def __len__(self) -> int:
        return self._shape[0]

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        if self._held_ND is None:
            self._held_ND = npz_array(self.images, _DATA) if self._packed else _unpickle(self.images)[_DATA]
        held_ND, side = self._held_ND, self._side
        for first, last in blocks(start, stop, 3 * side * side):
            planes_NCHW = held_ND[first:last].reshape(-1, 3, side, side)
            yield np.ascontiguousarray(planes_NCHW.transpose(0, 2, 3, 1))

    def label(self, start: int, stop: int) -> Sequence[str | None]:
        if self._numbers is None:
            return [None] * (stop - start)
        found, names = self._numbers[start:stop].tolist(), self._corpus.names
        if names is None:
            return [str(number) for number in found]
        return [names[number] if 0 <= number < len(names) else None for number in found]

    def drop(self) -> None:
        self._held_ND = None


def _is_npz(file: SourceFile) -> bool:
    with opened(_KIND, file) as stream:
        return stream.read(len(_ZIP)) == _ZIP


def _unpickle(file: SourceFile) -> Mapping[str, Any]:
    with opened(_KIND, file) as stream:
        try:
            found = array_pickle.load(stream)
        except array_pickle.Refused as refusal:
            raise UnknownCorpus(
                f"{file.place} was not loaded: {refusal}; a pickled batch may hold arrays, lists and numbers alone"
            ) from None
        if stream.read(1):
            raise ValueError("there is more after its end")
    if not isinstance(found, dict):
        raise UnknownCorpus(f"{file.place} holds a {type(found).__name__}; expected a dictionary with {_DATA!r}")
    return found


def _side(file: SourceFile, dtype: Any, shape: tuple[int, ...]) -> int:
    """S of rows of 3*S*S bytes."""
    side = isqrt(shape[1] // 3) if len(shape) == 2 else 0
    if dtype != np.uint8 or not side or 3 * side * side != shape[1]:
        there = f"{dtype} {'x'.join(map(str, shape))}".strip()
        raise UnknownCorpus(
            f"{_DATA!r} in {file.place} is {there}; expected uint8 rows of 3 x S x S bytes, N x 3072 say"
        )
    return side


def _numbers(file: SourceFile, labels: Any) -> NDArray[np.int64]:
    with telling(_KIND, file):
        numbers = np.asarray(labels).reshape(-1)
    if numbers.dtype.kind not in "iu" and len(numbers):
        raise UnknownCorpus(f"labels in {file.place} are {numbers.dtype} values; expected whole numbers")
    return numbers.astype(np.int64)


def _meta_name(name: str) -> str | None:
    return "meta" if name in _BARE else "batches.meta" if _CIFAR10.fullmatch(name) else None


def _read_names(file: SourceFile) -> tuple[str, ...]:
    found = _unpickle(file)
    names = next((found[key] for key in _NAMES if key in found), None)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise UnknownCorpus(f"no class names in {file.place}; expected a list {_NAMES[0]!r} or {_NAMES[1]!r}")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)
