"""Evaluate: accuracy against labels, and agreement with a teacher. Only `distill eval` ever sees test labels."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.errors import BadLabels
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards.index import ShardFolder
from shards.layout import KEY_DTYPE
from shards.sources import Source
from shards.stream import Batch, Stream

BATCH = 256

Predictor = Callable[[Tensor], Tensor]
"""uint8 images (B, C, H, W) on the device -> logits (B, K)"""


def predictions(
    predict: Predictor,
    source: Source,
    *,
    device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[bytes, int]:
    """Predicted class number of every image, by key."""
    stream = Stream(source, batch_size=BATCH, shuffle=False, tail="short")
    keys, found = [], []
    with torch.inference_mode():
        for batch in stream.one_epoch():
            found.append(predict(torch.from_numpy(batch.images_BCHW).to(device)).argmax(1))
            keys += batch.keys.tolist()
            advance(len(batch.keys))
    return dict(zip(keys, torch.cat(found).tolist(), strict=True))


def agreement(mine: Mapping[bytes, int], theirs: Mapping[bytes, int]) -> float:
    """Fraction of images on which two predictors name the same class."""
    return sum(theirs[key] == number for key, number in mine.items()) / len(mine)


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """Class numbers of a labelled store's images, in the order of a given list of classes."""

    keys: NDArray[np.bytes_]
    """sorted"""
    numbers: NDArray[np.int64]
    matched_by: Literal["name", "position"]
    """how the labels were found in that list"""

    def __call__(self, batch: Batch) -> Tensor:
        """Labels (B,) int64 of a batch."""
        at = np.minimum(np.searchsorted(self.keys, batch.keys), len(self.keys) - 1)
        if (self.keys[at] != batch.keys).any():
            raise BadLabels("a batch holds images that the labels do not know; they are of another store")
        return torch.from_numpy(self.numbers[at])

    def as_dict(self) -> dict[bytes, int]:
        """Key -> class number."""
        return dict(zip(self.keys.tolist(), self.numbers.tolist(), strict=True))


def class_names(store: ShardFolder) -> tuple[str, ...]:
    """The classes of a labelled store: the order that the corpus states, else sorted (numbers as numbers)."""
    if stated := store.document.get("classes"):
        return tuple(stated)
    labels = read_manifest(store.path, SAMPLES, columns=["source_label"])["source_label"]
    names = {name for name in labels.to_pylist() if name is not None}
    numeric = all(re.fullmatch(r"-?\d+", name) for name in names)
    return tuple(sorted(names, key=int if numeric else str))


def read_labels(store: ShardFolder, classes: Sequence[str]) -> LabelTable:
    """Labels of a store as numbers in ``classes``; duplicates are kept, as in any test set.

    Labels are matched by name; where no name matches but the count does, by position. Raises `BadLabels` for a store
    without labels or with classes that ``classes`` lacks.
    """
    samples = read_manifest(store.path, SAMPLES, columns=["key", "source_label", "shard"])
    rows = [(k, n) for k, n, s in zip(*(c.to_pylist() for c in samples.columns), strict=True) if s is not None]
    unlabelled = sum(name is None for _, name in rows)
    where = f"corpus {store.document['corpus']!r}"
    if unlabelled:
        raise BadLabels(f"{unlabelled:,} of {len(rows):,} images in {where} have no label; labelled data is needed")
    names = class_names(store)
    unknown = sorted(set(names) - set(classes))
    by_position = len(unknown) == len(names) == len(classes)
    if unknown and not by_position:
        raise BadLabels(
            f"{where} has classes that the network lacks, such as {', '.join(unknown[:3])}; it knows {len(classes)}: "
            f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
        )
    number = {name: i for i, name in enumerate(names if by_position else classes)}
    rows.sort()
    return LabelTable(
        keys=np.array([key for key, _ in rows], KEY_DTYPE),
        numbers=np.array([number[name] for _, name in rows], np.int64),
        matched_by="position" if by_position else "name",
    )
