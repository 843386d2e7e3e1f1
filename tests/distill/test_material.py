"""What `--shards` may name, and which teacher may teach on it."""

from pathlib import Path

import pytest

from distill.errors import DistillError
from distill.material import Material, Views, names_a_set, open_material
from distill.models.teachers import load_classifier
from shards.errors import ShardError
from shards.index import ShardFolder
from shards.sources import LocalBlocks
from tests.distill import toys
from tests.shards import make


def test_a_set_knows_its_teacher_and_tars_do_not(transfer_set: ShardFolder, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").touch()
    (tmp_path / "empty").mkdir()
    sets = [str(transfer_set.path), "https://host/sets/one", "s3://bucket/one", str(tmp_path / "empty")]
    others = ["data-{0..3}.tar", "data-*.tar", str(tmp_path / "tars"), str(tmp_path / "tars" / "a.tar")]
    others += ["missing.tar", "pipe:cat a.tar", "https://host/a.tar", "https://host/a.tar?token=x"]
    assert [names_a_set(address) for address in sets] == [True] * len(sets)
    assert [names_a_set(address) for address in others] == [False] * len(others)


def test_a_transfer_set_is_what_lies_in_its_folder(transfer_set: ShardFolder) -> None:
    found = open_material(str(transfer_set.path), size=None)
    assert (found.id, found.place) == (transfer_set.id, str(transfer_set.path.absolute()))
    assert isinstance(found.train, LocalBlocks)
    assert found.train.counts.sum() == 40
    assert found.holdout is not None
    assert found.holdout.counts.sum() == 10


def test_nothing_has_no_id() -> None:
    assert (Material().id, Material().place) == (None, None)


def test_a_store_is_no_transfer_set(tmp_path: Path) -> None:
    store = make.write_store(tmp_path / "store", [[4]], size=toys.SIZE)
    with pytest.raises(DistillError, match="is a corpus store, not a transfer set; make one with `curate select`"):
        Material.of(store)


def test_a_set_that_is_all_held_out(weights: Path, tmp_path: Path) -> None:
    folder = toys.write_transfer_set(tmp_path, weights, train=0, holdout=4)
    with pytest.raises(DistillError, match="has no images to train on; make it again with a larger --budget"):
        Material.of(folder)


def test_tars_of_a_url_are_refused_with_a_way_out() -> None:
    with pytest.raises(ShardError, match="tars of samples are streamed from this machine; fetch them"):
        open_material("https://host/a.tar", size=8)


def test_views_are_those_of_their_teacher_alone(weights: Path, transfer_set: ShardFolder, tmp_path: Path) -> None:
    own, other = load_classifier(weights), load_classifier(toys.write_teacher(tmp_path / "o.safetensors", seed=1))
    viewed = Material.of(toys.write_transfer_set(tmp_path, weights, views=3, views_seed=7))
    assert viewed.views_for(own) == Views(count=3, seed=7, flip=True, pad=4)
    assert viewed.views_for(other) is None
    assert Material.of(transfer_set).views_for(own) is None
    assert Material().views_for(own) is None
    viewed.check(other)  # another teacher may teach on it, it is but asked
