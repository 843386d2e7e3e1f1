"""Resize rules: each against its definition, by its name, and recorded in words that differ."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shards.decode import RESIZE, Transform, decode
from shards.errors import ShardError
from tests.curate.make import encode, picture


def naive(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Centre square, then each output pixel a triangle-weighted mean over its support, straight from the definition."""
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    rows, columns = (weights(length, size, side) for length in (height, width))
    return np.asarray(np.einsum("yh,xw,hwc->cyx", rows, columns, image_HWC.astype(np.float64)))


def weights(length: int, size: int, side: int) -> NDArray[np.float64]:
    """(size, length): how much of each source pixel lies in each output pixel."""
    start, scale = (length - side) / 2, side / size
    support = max(scale, 1.0)
    table = np.zeros((size, length))
    for i in range(size):
        centre = start + (i + 0.5) * scale
        for j in range(length):
            if int(centre - support + 0.5) <= j < int(centre + support + 0.5):
                table[i, j] = max(0.0, 1 - abs(j + 0.5 - centre) / support)
    return np.asarray(table / table.sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (16, 16), (11, 11), (24, 37), (37, 24), (5, 9), (9, 200), (33, 8)]
)
def test_resize_is_the_rule_that_manifests_record(height: int, width: int) -> None:
    image = picture(7, height=height, width=width)
    transform = Transform(size=8)
    pixels, *size = decode(encode(image), transform)
    assert (pixels.shape, size) == ((3, 8, 8), [width, height])
    assert np.abs(pixels - naive(image, 8)).max() <= 1.01  # Pillow rounds once a direction
    assert transform.spec == "rgb; short side to 8 px (Pillow bilinear, antialiased); centre crop 8x8"
    assert pixels.flags.c_contiguous


def areas(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Centre square in size x size cells, each the mean of its area; sides are multiples of the size."""
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    top, left, cell = (height - side) // 2, (width - side) // 2, side // size
    square = image_HWC[top : top + side, left : left + side].astype(float)
    return np.asarray(square.reshape(size, cell, size, cell, 3).mean((1, 3)).transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 40), (40, 16), (24, 24)])
def test_box_is_the_mean_of_the_area(height: int, width: int) -> None:
    image = picture(8, height=height, width=width)
    pixels = decode(encode(image), Transform(size=8, resize="box"))[0]
    assert np.abs(pixels - areas(image, 8)).max() <= 1.01


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 40), (23, 11), (8, 80)])
def test_plain_squashes_the_whole_picture(height: int, width: int) -> None:
    image = picture(9, height=height, width=width)
    pixels = decode(encode(image), Transform(size=8, resize="plain"))[0]
    rows, columns = (weights(length, 8, length) for length in (height, width))
    assert np.abs(pixels - np.einsum("yh,xw,hwc->cyx", rows, columns, image.astype(float))).max() <= 1.01


@pytest.mark.parametrize(("height", "width"), [(300, 500), (500, 301), (40, 33), (257, 256), (7, 90), (224, 225)])
@pytest.mark.parametrize("size", [8, 32, 224])
def test_imagenet_is_what_torchvision_does(height: int, width: int, size: int) -> None:
    from torchvision import transforms

    image = Image.fromarray(picture(10, height=height, width=width))
    theirs = transforms.Compose([transforms.Resize(round(size / 0.875)), transforms.CenterCrop(size)])(image)
    ours = Transform(size=size, resize="imagenet")(image)
    np.testing.assert_array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


def test_rules_are_named_and_recorded() -> None:
    specs = {name: Transform(size=224, resize=name).spec for name in RESIZE}
    assert specs == {
        "antialias": "rgb; short side to 224 px (Pillow bilinear, antialiased); centre crop 224x224",
        "box": "rgb; short side to 224 px (Pillow box: mean of the area); centre crop 224x224",
        "plain": "rgb; whole image to 224x224 px (Pillow bilinear, antialiased), its shape not kept",
        "imagenet": "rgb; short side to 256 px (Pillow bilinear, antialiased); centre crop 224x224; "
        "what has 224x224 px as it is",
    }
    assert Transform(size=224) == Transform(size=224, resize="antialias")
    with pytest.raises(
        ShardError, match=r"^no resize rule is called 'bicubic'; expected one of antialias, box, plain, im"
    ):
        Transform(size=8, resize="bicubic")


@pytest.mark.parametrize("rule", RESIZE)
def test_what_has_the_size_keeps_every_pixel(rule: str) -> None:
    image = picture(11)
    np.testing.assert_array_equal(decode(image, Transform(size=8, resize=rule))[0], image.transpose(2, 0, 1))
