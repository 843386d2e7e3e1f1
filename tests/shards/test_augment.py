"""Crop and flip: pixels depend on (seed, key, view) alone, and are those of a crop of the padded image."""

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shards.augment import PAD, crop_and_flip
from tests.shards import make

SIZE = 6
BLOCK = make.block(40, size=SIZE)
IMAGES, KEYS = torch.from_numpy(BLOCK.images_NCHW), BLOCK.keys


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def found_crop(padded: NDArray[np.uint8], augmented: NDArray[np.uint8]) -> list[tuple[int, int, bool]]:
    """All (row, column, mirrored) at which ``augmented`` is a crop of ``padded``, by trying each."""
    return [
        (row, column, mirrored)
        for row in range(2 * PAD + 1)
        for column in range(2 * PAD + 1)
        for mirrored in (False, True)
        if np.array_equal(
            augmented, padded[:, row : row + SIZE, column : column + SIZE][:, :, :: -1 if mirrored else 1]
        )
    ]


def crops(*, view: int, flip: bool = True, seed: int = 0) -> list[tuple[int, int, bool]]:
    """Where each image of the block was cropped."""
    augmented = crop_and_flip(IMAGES, KEYS, seed=seed, view=view, flip=flip).numpy()
    padded = np.pad(BLOCK.images_NCHW, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)))
    return [found_crop(p, a)[0] for p, a in zip(padded, augmented, strict=True)]  # IndexError: no crop at all


def test_each_image_is_a_crop_of_itself_padded_with_zeros() -> None:
    places = crops(view=0)
    assert len(set(places)) > 20
    assert {mirrored for _, _, mirrored in places} == {False, True}


def test_without_flip_nothing_is_mirrored_and_the_crops_stay() -> None:
    with_flip, without = crops(view=1), crops(view=1, flip=False)
    assert not any(mirrored for _, _, mirrored in without)
    assert [place[0] for place in with_flip] == [place[0] for place in without]
    assert [p[:2] for p in with_flip if not p[2]] == [
        w[:2] for p, w in zip(with_flip, without, strict=True) if not p[2]
    ]


def test_pixels_depend_on_seed_key_and_view_only() -> None:
    whole = crop_and_flip(IMAGES, KEYS, seed=0, view=3)
    assert torch.equal(crop_and_flip(IMAGES, KEYS, seed=0, view=3), whole)
    order = torch.randperm(len(KEYS), generator=torch.Generator().manual_seed(0))
    assert torch.equal(crop_and_flip(IMAGES[order], KEYS[order.numpy()], seed=0, view=3), whole[order])
    alone = [crop_and_flip(IMAGES[i : i + 1], KEYS[i : i + 1], seed=0, view=3) for i in range(len(KEYS))]
    assert torch.equal(torch.cat(alone), whole)


@pytest.mark.parametrize(("seed", "view"), [(1, 0), (0, 1)])
def test_another_seed_or_view_is_another_crop(seed: int, view: int) -> None:
    same = sum(a == b for a, b in zip(crops(view=0), crops(view=view, seed=seed), strict=True))
    assert same <= 4  # of 40, where 1 in 162 is expected


def test_another_key_is_another_crop() -> None:
    one = torch.arange(1.0, SIZE * SIZE + 1).view(1, 1, SIZE, SIZE).expand(len(KEYS), 1, SIZE, SIZE)
    augmented = crop_and_flip(one, KEYS, seed=0, view=0)
    assert len({hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in augmented}) > 25


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_dtype_and_input_are_kept(dtype: torch.dtype, channels: int) -> None:
    images = IMAGES[:, :channels].to(dtype)
    before = images.clone()
    augmented = crop_and_flip(images, KEYS, seed=0, view=0)
    assert (augmented.shape, augmented.dtype, augmented.device) == (images.shape, dtype, images.device)
    assert torch.equal(images, before)
    assert torch.equal(augmented, crop_and_flip(IMAGES, KEYS, seed=0, view=0)[:, :channels].to(dtype))


def test_an_empty_batch_is_an_empty_batch() -> None:
    assert crop_and_flip(IMAGES[:0], KEYS[:0], seed=0, view=0).shape == (0, 3, SIZE, SIZE)


def test_offsets_and_flips_are_uniform() -> None:
    count, side = 20_000, 2 * PAD + 1
    keys = np.array([f"{i:016x}{0:016x}" for i in range(count)], "S32")  # counted: as unlike hashes as can be
    row, column = torch.meshgrid(*[torch.arange(1, side + 1, dtype=torch.uint8)] * 2, indexing="ij")
    images = torch.stack([row, column]).expand(count, 2, side, side)  # a pixel says where it was
    seen = crop_and_flip(images, keys, seed=0, view=0).numpy().astype(int)
    down, across = seen[:, 0, PAD, PAD] - 1, seen[:, 1, PAD, PAD] - 1  # the centre is never padding
    mirrored = seen[:, 1, PAD, PAD + 1] == across
    cells = np.bincount((down * side + across) * 2 + mirrored, minlength=2 * side**2)
    assert len(cells) == 2 * side**2
    expected = count / len(cells)
    assert ((cells - expected) ** 2 / expected).sum() < 260  # chi-squared, 161 degrees of freedom: p < 1e-6
