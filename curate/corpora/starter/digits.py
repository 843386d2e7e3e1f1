"""Handwritten digits, 8x8 grey: the 1,797 images that scikit-learn carries (UCI optical recognition of digits)."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from curate.corpora.starter.addressed import generator_at, missing

COUNT = 1797
CLASSES = tuple("0123456789")
SPLITS = {"all": COUNT, "train": 1437, "test": 360}  # images in each: a fifth tests
_INK = 16  # full ink in the source, whose values are 0..16


@lru_cache(maxsize=1)
def _dataset() -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise missing("scikit-learn") from None
    images_NHW, labels_N = load_digits(return_X_y=True)
    grey_NHW = np.rint(images_NHW.reshape(-1, 8, 8) * (255 / _INK)).astype(np.uint8)
    return grey_NHW, tuple(str(label) for label in labels_N)


def draw(index: int) -> tuple[NDArray[np.uint8], str | None]:
    """The index-th image of the source (8x8 uint8, 0 is paper) and its digit."""
    images_NHW, labels = _dataset()
    return images_NHW[index], labels[index]


def members(split: str) -> list[int]:
    """Indices of a split, ascending. The split is fixed and stratified: a fifth of each class, to within one image."""
    if split == "all":
        return list(range(COUNT))
    labels = _dataset()[1]
    order = [int(index) for index in generator_at("digits/split", 0).permutation(COUNT)]
    places: list[tuple[float, int]] = []
    for digit in CLASSES:
        of_class = [index for index in order if labels[index] == digit]
        places += [((rank + 0.5) / len(of_class), index) for rank, index in enumerate(of_class)]
    test = {index for _, index in sorted(places)[: SPLITS["test"]]}
    return [index for index in range(COUNT) if (index in test) == (split == "test")]
