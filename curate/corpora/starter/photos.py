"""Windows cut at several scales from the photographs inside the scikit-learn and scikit-image wheels.

china and flower are CC BY 2.0 (danielbuechele and vultilion on Flickr); scikit-image states origin and terms of the
others in the documentation of `skimage.data`. Only files inside the wheels are read, never scikit-image's downloads.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.corpora.starter.addressed import SIDE, box_reduce, generator_at, missing, package_folder
from curate.errors import CorpusNotFound

COUNT = 4000
_SKLEARN = ("china.jpg", "flower.jpg")
_SKIMAGE = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
_TRIES = 8  # windows drawn before a flat one is taken
_MIN_CONTRAST = 10.0  # grey levels, spatial standard deviation: below it lie sky, margins, the black around the retina


@cache
def files() -> tuple[Path, ...]:
    """The photographs, in a fixed order; CorpusNotFound names the package or file that is missing."""
    sklearn = package_folder("sklearn", "scikit-learn") / "datasets" / "images"
    skimage = package_folder("skimage", "scikit-image") / "data"
    paths = [sklearn / name for name in _SKLEARN] + [skimage / name for name in _SKIMAGE]
    for path in paths:
        if not path.is_file():
            raise CorpusNotFound(f"builtin:photos needs {path}, which this release of the package does not carry")
    return tuple(paths)


def draw(index: int) -> tuple[NDArray[np.uint8], str | None]:
    """A 32x32x3 window of a random photograph, reduced 1 to min(sides)/32 times, and the photograph's name."""
    rng = generator_at("photos", index)
    window_HWC, name = _window(rng)
    for _ in range(_TRIES - 1):
        if window_HWC.std(axis=(0, 1)).max() >= _MIN_CONTRAST:
            break
        window_HWC, name = _window(rng)
    return window_HWC, name


def _window(rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
    path = files()[rng.integers(len(files()))]
    photo_HWC = _photo(path)
    height, width, _ = photo_HWC.shape
    factor = int((min(height, width) // SIDE + 1) ** rng.random())  # log-uniform over the scales that fit
    side = factor * SIDE
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return box_reduce(photo_HWC[top : top + side, left : left + side], factor), path.stem


@cache
def _photo(path: Path) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError:
        raise missing("Pillow") from None
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
