"""A generator's images as a file: image n is the same however many are made, and from the checkpoint's own networks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.errors import DistillError
from distill.material import Material
from distill.methods.base import Method
from distill.models.teachers import load_classifier
from distill.run import distill
from distill.synthesize import CHUNK, trained_method, write_images
from shards.index import ShardFolder
from tests.distill import toys


@pytest.fixture(scope="module")
def run(weights: Path, transfer_set: ShardFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mosaickd."""
    out = tmp_path_factory.mktemp("run") / "mosaickd"
    config = toys.run_config("mosaickd", updates=4, student_steps=2, z_dim=8)
    distill(Material.of(transfer_set), load_classifier(weights), config, out=out, place=toys.PLACE)
    return out


@pytest.fixture
def method(run: Path, weights: Path) -> Method:
    return trained_method(run, load_classifier(weights), place=toys.PLACE)[0]


def test_images_are_those_of_the_trained_generator(method: Method, run: Path, weights: Path, tmp_path: Path) -> None:
    write_images(method, 3, tmp_path / "three.npy")
    images_NHWC = np.load(tmp_path / "three.npy")
    assert (images_NHWC.shape, images_NHWC.dtype) == ((3, toys.SIZE, toys.SIZE, 3), np.uint8)
    made = method.samples(CHUNK, number=1)
    assert made is not None
    expected = (made[:3] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert np.array_equal(images_NHWC, expected.numpy())
    fresh = trained_method(run, load_classifier(weights), place=toys.PLACE)[0]
    assert all(
        torch.equal(mine, theirs)
        for part in ("generator", "discriminator", "student")
        for mine, theirs in zip(
            method.parts()[part].state_dict().values(), fresh.parts()[part].state_dict().values(), strict=True
        )
    )


def test_more_images_begin_with_the_same(method: Method, tmp_path: Path) -> None:
    told: list[int] = []
    for count in (5, CHUNK + 7):
        write_images(method, count, tmp_path / f"{count}.npy", advance=told.append)
    few, many = (np.load(tmp_path / f"{count}.npy") for count in (5, CHUNK + 7))
    assert len(many) == CHUNK + 7
    assert np.array_equal(many[:5], few)
    assert not np.array_equal(many[CHUNK:], many[:7])  # of a noise of its own
    assert told == [5, CHUNK, 7]


def test_what_has_no_generator_or_is_no_run(transfer_set: ShardFolder, weights: Path, tmp_path: Path) -> None:
    teacher = load_classifier(weights)
    with pytest.raises(DistillError, match=r"is no distillation run with a checkpoint \(checkpoints/last"):
        trained_method(tmp_path, teacher, place=toys.PLACE)
    distill(Material.of(transfer_set), teacher, toys.run_config("kd", updates=1), out=tmp_path / "kd", place=toys.PLACE)
    with pytest.raises(DistillError, match="was trained by kd, which has no generator; mosaickd or mad have one"):
        trained_method(tmp_path / "kd", teacher, place=toys.PLACE)
