"""Our own folders as corpora: stores and transfer sets, their splits and labels, and what is refused in which words."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import shards.pack
from curate.corpora import Item, open_corpus
from curate.corpora import base as corpora_base
from curate.errors import CorpusDamaged, CorpusEmpty, UnknownCorpus
from curate.ingest import ingest
from manifests.errors import IntegrityError
from manifests.keys import pixel_hash
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards.errors import BlockDamaged, NotAShardFolder
from shards.index import ShardFolder
from shards.pack import pack
from shards.read import read_shard
from tests.shards import make

COUNT = 20
PIXELS_NHWC = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
LABELS = [f"label {n % 3}" for n in range(COUNT)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardFolder:
    """A store of 20 images in shards of 8 and 4, of a corpus that states no classes."""
    monkeypatch.setattr(corpora_base, "PART_SIZE", 8)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    np.savez(tmp_path / "a.npz", images=PIXELS_NHWC, labels=np.array(LABELS))
    return ingest(open_corpus(f"source={tmp_path / 'a.npz'}"), size=8, work=tmp_path / "work").store


@pytest.fixture
def packed(store: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardFolder:
    """A transfer set of 15 + 4 of its images, shuffled, in blocks of 3 and shards of 2 blocks."""
    monkeypatch.setattr(shards.pack, "block_rows", lambda size: 3)
    monkeypatch.setattr(shards.pack, "shard_rows", lambda size: 6)
    selection = make.write_selection(tmp_path / "selection", [store], budget=19, holdout=4)
    return pack(selection, {"source": store}, tmp_path / "transfer set").folder


def items_of(option: str | Path) -> list[Item]:
    corpus = open_corpus(str(option))
    parts = corpus.parts()
    assert [part.count for part in parts] == [len(list(corpus.read(part))) for part in parts]
    return [item for part in parts for item in corpus.read(part)]


def label_of(image: object) -> str:
    (row,) = np.flatnonzero((np.asarray(image) == PIXELS_NHWC).all((1, 2, 3)))
    return LABELS[row]


def images(folder: ShardFolder, split: str) -> NDArray[np.uint8]:
    found = [block.images_NCHW for shard in folder.of_split(split) for block in read_shard(folder.path, shard)]
    return np.concatenate(found).transpose(0, 2, 3, 1)


def test_a_store(store: ShardFolder, tmp_path: Path) -> None:
    for option in (store.path, f"shards:{store.path}", f"shards:{store.path}?split=all"):
        items = items_of(option)
        names = [f"{shard:06d}/000000/{row:04d}" for shard, rows in enumerate((8, 8, 4)) for row in range(rows)]
        assert [item.uri for item in items] == names
        assert np.array_equal([np.asarray(item.data) for item in items], PIXELS_NHWC)
        assert [item.label for item in items] == LABELS  # though its blocks have none, for its corpus states no classes
        assert {np.asarray(item.data).flags.writeable for item in items} == {False}
    corpus = open_corpus(str(store.path))
    assert (corpus.classes, corpus.builtin) == (None, False)


@pytest.mark.parametrize("part_size", [1, 4, 5, 100])
def test_parts_may_cross_blocks(store: ShardFolder, monkeypatch: pytest.MonkeyPatch, part_size: int) -> None:
    monkeypatch.setattr(corpora_base, "PART_SIZE", part_size)
    items = items_of(store.path)
    assert np.array_equal([np.asarray(item.data) for item in items], PIXELS_NHWC)
    assert [item.label for item in items] == LABELS


def test_a_transfer_set_and_its_splits(packed: ShardFolder) -> None:
    path, both = packed.path, items_of(packed.path)
    assert len(both) == 19
    assert [item.uri for item in both] == sorted({item.uri for item in both})
    assert (both[0].uri, both[3].uri, both[-1].uri) == (
        "holdout-000000/000000/0000",
        "holdout-000000/000001/0000",
        "train-000002/000001/0002",
    )
    for split, count in (("train", 15), ("holdout", 4)):
        items = items_of(f"{path}?split={split}")
        assert [item.uri for item in items] == [item.uri for item in both if item.uri.startswith(split)]
        assert len(items) == count
        assert np.array_equal([np.asarray(item.data) for item in items], images(packed, split))
    assert [item.label for item in both] == [label_of(item.data) for item in both]
    assert open_corpus(str(path)).classes is None  # its own are the teacher's


def test_uris_are_places_in_the_samples_manifest(packed: ShardFolder) -> None:
    shards_by_name = {Path(shard.name).stem: n for n, shard in enumerate(packed.shards)}
    columns = ["shard", "block", "row", "pixel_hash"]
    rows = read_manifest(packed.path, SAMPLES, columns=columns).to_pylist()
    hashes = {(row["shard"], row["block"], row["row"]): row["pixel_hash"] for row in rows}
    for item in items_of(packed.path):
        shard, block, row = item.uri.split("/")
        image_CHW = np.ascontiguousarray(np.asarray(item.data).transpose(2, 0, 1))
        assert pixel_hash(image_CHW) == hashes[shards_by_name[shard], int(block), int(row)]


def test_classes_and_encoded_blocks(tmp_path: Path) -> None:
    large = np.random.default_rng(1).integers(0, 256, (3, 70, 70, 3), np.uint8)  # above 64 px blocks hold PNG
    np.savez(tmp_path / "data_batch_1.npz", data=large.transpose(0, 3, 1, 2).reshape(3, -1), labels=[1, 0, 1])
    corpus = open_corpus(f"b={tmp_path / 'data_batch_1.npz'}")
    store = ingest(corpus, size=70, work=tmp_path / "work").store
    items = items_of(store.path)
    assert np.array_equal([np.asarray(item.data) for item in items], large)
    assert [item.label for item in items] == ["1", "0", "1"]
    digits = ingest(open_corpus("builtin:digits?n=5"), size=8, work=tmp_path / "work").store
    again = open_corpus(str(digits.path))
    assert (again.classes, again.builtin) == (tuple("0123456789"), True)
    assert [item.label for item in items_of(digits.path)] == ["0", "1", "2", "3", "4"]


def test_ingest_of_a_store_gives_its_pixels(store: ShardFolder, tmp_path: Path) -> None:
    again = ingest(open_corpus(f"again={store.path}"), size=8, work=tmp_path / "more").store
    assert np.array_equal(images(again, "all"), PIXELS_NHWC)


def test_identity_is_that_of_the_folder_and_the_split(packed: ShardFolder, store: ShardFolder, tmp_path: Path) -> None:
    options = (packed.path, store.path, f"{packed.path}?split=train", f"{packed.path}?split=holdout")
    identities = [open_corpus(str(option)).identity() for option in options]
    assert len(set(identities)) == 4
    moved = shutil.copytree(packed.path, tmp_path / "moved")
    assert open_corpus(str(moved)).identity() == identities[0]


def test_our_own_folder_is_no_other_kind_of_corpus(packed: ShardFolder) -> None:
    shutil.copy(packed.path / packed.shards[0].name, packed.path / "more.tar")
    (packed.path / "picture.png").write_bytes(b"png")
    assert (packed.path / "samples.parquet").exists()
    assert open_corpus(str(packed.path)).spec == f"shards:{packed.path}"


def test_what_is_refused(packed: ShardFolder, store: ShardFolder, tmp_path: Path) -> None:
    with pytest.raises(UnknownCorpus, match=r"has no split 'test'; expected one of train, holdout$"):
        open_corpus(f"shards:{packed.path}?split=test")
    with pytest.raises(UnknownCorpus, match=r"shards: has no option 'n' .*expected one of split"):
        open_corpus(f"shards:{packed.path}?n=3")
    with pytest.raises(NotAShardFolder, match=f"{tmp_path} is no transfer set"):
        open_corpus(f"shards:{tmp_path}")
    with pytest.raises(NotAShardFolder, match="no/such is no folder"):
        open_corpus("shards:no/such")
    empty = make.write_store(tmp_path / "empty", [[]])
    with pytest.raises(CorpusEmpty, match=f"corpus 'empty': no image in shards:{empty.path}"):
        open_corpus(str(empty.path))


def test_damage(packed: ShardFolder, store: ShardFolder) -> None:
    tar = packed.path / packed.shards[0].name
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(BlockDamaged, match=f"{tar}: block 0 is damaged"):
        items_of(packed.path)
    tar.unlink()
    with pytest.raises(BlockDamaged, match=f"{tar} is missing"):
        items_of(packed.path)
    shutil.copy(packed.path / "samples.parquet", store.path / "samples.parquet")
    with pytest.raises(CorpusDamaged, match=r"samples.parquet places 19 images, but there are 20; make the folder aga"):
        items_of(store.path)
    document = json.loads((store.path / "store.json").read_text())
    (store.path / "store.json").write_text(json.dumps({"kind": document["kind"]}))
    with pytest.raises(IntegrityError, match=r"store.json is damaged: not the document that was written"):
        open_corpus(str(store.path))
