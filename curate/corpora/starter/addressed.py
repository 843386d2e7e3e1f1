"""What the families share: random numbers addressed by (family, index), and a reduction that is exact everywhere."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import CorpusNotFound

SIDE = 32  # pixels, of every drawn image


def generator_at(family: str, index: int) -> np.random.Generator:
    """The generator that belongs to one image, whatever was drawn before."""
    digest = hashlib.sha256(f"{family}/{index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def box_reduce(image_HWC: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Mean over factor x factor boxes, rounded half up, in integers; both sides are multiples of factor."""
    height, width, channels = image_HWC.shape
    boxes = image_HWC.reshape(height // factor, factor, width // factor, factor, channels)
    sums_HWC = boxes.sum(axis=1, dtype=np.uint32).sum(axis=2, dtype=np.uint32)
    area = factor * factor
    means_HWC: NDArray[np.uint8] = ((2 * sums_HWC + area) // (2 * area)).astype(np.uint8)
    return means_HWC


def package_folder(module: str, distribution: str) -> Path:
    """Where an installed package lies, without importing it; CorpusNotFound names the distribution to install."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise missing(distribution)
    return Path(next(iter(spec.submodule_search_locations)))


def missing(distribution: str) -> CorpusNotFound:
    """The error for a package that a family needs and that is not installed."""
    return CorpusNotFound(
        f"this builtin corpus needs {distribution}, which is not installed: pip install {distribution}"
    )
