"""Every reader of corpora goes through one suite: order, counts, independence of parts, identity."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.corpora import CORPORA, PART_SIZE, STARTER_CORPORA, Corpus, Item, open_corpus
from curate.corpora import base as corpora_base
from curate.corpora.builtin import BUILTINS

SMALL_PART = 3  # items a part, so that small corpora have several


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def make_folder(root: Path) -> str:
    for n in range(8):
        path = root / f"class-{n % 2}" / f"image {n}.PNG"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(n))
    return f"folder:{root}"


def make_wds(root: Path) -> str:
    for shard in range(2):
        with tarfile.open(root / f"train-{shard}.tar", "w") as tar:
            for n in (3, 1, 0, 2):
                for name, content in ((f"k{n}.png", png(4 * shard + n)), (f"k{n}.cls", str(n % 2).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return f"wds:{root}/train-{{0..1}}.tar"


def make_parquet(root: Path) -> str:
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    for shard in range(2):
        images = [{"bytes": png(4 * shard + n), "path": None} for n in range(4)]
        table = pa.table({"image": images, "label": [n % 2 for n in range(4)]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
        pq.write_table(table, root / f"train-{shard}.parquet", row_group_size=3)
    return f"parquet:{root}"


def make_idx(root: Path) -> str:
    images, labels = bytes(n for n in range(8) for _ in range(8 * 8)), bytes(n % 2 for n in range(8))
    packed = gzip.compress(struct.pack(">4I", 0x803, 8, 8, 8) + images)
    (root / "train-images-idx3-ubyte.gz").write_bytes(packed)
    (root / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 8) + labels)
    return f"idx:{root}"


MAKERS: dict[str, Callable[[Path], str]] = {
    "folder": make_folder,
    "wds": make_wds,
    "parquet": make_parquet,
    "idx": make_idx,
}
FILES = list(MAKERS)
BUILTIN = [f"builtin:{name}?n=8" for name in BUILTINS]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("base", "parquet"):
        monkeypatch.setattr(f"curate.corpora.{module}.PART_SIZE", SMALL_PART)


@pytest.fixture(params=FILES + BUILTIN)
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    make = MAKERS.get(request.param)
    return make(tmp_path) if make else str(request.param)


def items_of(corpus: Corpus) -> list[Item]:
    return [item for part in corpus.parts() for item in corpus.read(part)]


def plain(item: Item) -> tuple[object, ...]:
    data = (item.data.shape, item.data.tobytes()) if isinstance(item.data, np.ndarray) else item.data
    return item.uri, data, item.label, item.error


def test_every_reader_is_in_this_suite() -> None:
    assert set(CORPORA) == {*MAKERS, "builtin"}
    assert set(STARTER_CORPORA) < set(BUILTINS)
    assert PART_SIZE == 4096
    assert corpora_base.PART_SIZE == SMALL_PART


def test_uris_are_unique_and_ascend_over_the_whole_corpus(spec: str) -> None:
    uris = [item.uri for item in items_of(open_corpus(spec))]
    assert len(uris) == 8
    assert uris == sorted(set(uris))


def test_parts_count_their_items(spec: str) -> None:
    corpus = open_corpus(spec)
    parts = corpus.parts()
    assert [part.count for part in parts] == [3, 3, 2]
    assert [len(list(corpus.read(part))) for part in parts] == [3, 3, 2]
    assert [part.name for part in parts] == sorted({part.name for part in parts})


def test_items_hold_images(spec: str) -> None:
    for item in items_of(open_corpus(spec)):
        assert item.error is None
        assert item.data is not None
        if isinstance(item.data, np.ndarray):
            assert item.data.dtype == np.uint8
            assert item.data.shape in {(8, 8), (32, 32, 3)}
        else:
            assert Image.open(io.BytesIO(item.data)).size == (4, 4)


def test_a_part_reads_the_same_alone_in_any_order_and_in_another_process(spec: str) -> None:
    first, second = open_corpus(spec), open_corpus(spec)
    parts = first.parts()
    in_order = {part.name: [plain(item) for item in first.read(part)] for part in parts}
    travelled = pickle.loads(pickle.dumps(parts[::-1]))
    for part in travelled:
        assert [plain(item) for item in second.read(part)] == in_order[part.name]


def test_parts_can_be_read_in_turns(spec: str) -> None:
    corpus = open_corpus(spec)
    one, two, _ = corpus.parts()
    pairs = [(plain(a), plain(b)) for a, b in zip(corpus.read(one), corpus.read(two), strict=True)]
    assert [a for a, _ in pairs] == [plain(item) for item in corpus.read(one)]
    assert [b for _, b in pairs] == [plain(item) for item in corpus.read(two)]


def test_identity_is_stable_and_free_of_the_name(spec: str) -> None:
    identity = open_corpus(spec).identity()
    assert len(identity) == 64
    assert int(identity, 16) >= 0
    assert open_corpus(f"other={spec}").identity() == identity


def test_name_spec_and_builtin(spec: str) -> None:
    corpus = open_corpus(f"My_name-1.0={spec}")
    assert corpus.name == "My_name-1.0"
    assert corpus.builtin == spec.startswith("builtin:")
    assert open_corpus(corpus.spec).identity() == corpus.identity()
    assert open_corpus(corpus.spec).spec == corpus.spec


@pytest.mark.parametrize("scheme", FILES)
def test_labels_are_the_corpus_own(scheme: str, tmp_path: Path) -> None:
    corpus = open_corpus(MAKERS[scheme](tmp_path))
    labels = sorted({item.label for item in items_of(corpus)}, key=str)
    stated = {"folder": ["class-0", "class-1"], "wds": ["0", "1"], "parquet": ["cat", "dog"], "idx": ["0", "1"]}
    assert labels == stated[scheme]
    assert corpus.classes == (("cat", "dog") if scheme == "parquet" else None)


@pytest.mark.parametrize("scheme", FILES)
def test_identity_changes_when_a_file_does(scheme: str, tmp_path: Path) -> None:
    spec = MAKERS[scheme](tmp_path)
    seen = [open_corpus(spec).identity()]
    victim = max(path for path in tmp_path.rglob("*") if path.is_file())
    os.utime(victim, ns=(1, 1))
    seen.append(open_corpus(spec).identity())
    spec = spec.replace("{0..1}", "{0..0}")
    victim.unlink()
    seen.append(open_corpus(spec).identity())
    assert len(set(seen)) == 3


@pytest.mark.parametrize("scheme", FILES)
def test_a_bare_path_finds_its_reader(scheme: str, tmp_path: Path) -> None:
    root = tmp_path / "some data"
    root.mkdir()
    spec = MAKERS[scheme](root)
    corpus = open_corpus(str(root))
    assert corpus.spec == f"{scheme}:{root}"
    assert corpus.name == "some-data"
    assert [plain(item) for item in items_of(corpus)] == [plain(item) for item in items_of(open_corpus(spec))]
