"""Every reader of corpora goes through one suite: order, counts, independence of parts, identity."""

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from curate.corpora import CORPORA, PART_SIZE, STARTER_CORPORA, Corpus, Item, open_corpus
from curate.corpora import base as corpora_base
from curate.corpora.builtin import BUILTINS
from curate.corpora.noise import NoiseCorpus
from curate.ingest import ingest

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


def make_npy(root: Path) -> str:
    images_NHW = np.repeat(np.arange(8, dtype=np.uint8), 8 * 8).reshape(8, 8, 8)
    np.save(root / "images.npy", images_NHW)
    np.save(root / "images_labels.npy", np.arange(8) % 2)
    return f"npy:{root}"


def make_batches(root: Path) -> str:
    for batch in range(2):
        rows = np.repeat(np.arange(4, dtype=np.uint8) + 4 * batch, 3 * 32 * 32).reshape(4, 3 * 32 * 32)
        np.savez(root / f"train_data_batch_{batch}.npz", data=rows, labels=np.arange(4) % 2)
    return f"batches:{root}"


def make_mat(root: Path) -> str:
    images_HWCN = np.broadcast_to(np.arange(8, dtype=np.uint8), (32, 32, 3, 8))
    savemat(root / "train_32x32.mat", {"X": images_HWCN, "y": np.arange(8)[:, None] % 2 + 9})
    return f"mat:{root}"


def make_shards(root: Path) -> str:
    with tempfile.TemporaryDirectory() as work:
        store = ingest(open_corpus(make_folder(Path(work))), size=32, work=Path(work)).store
        shutil.copytree(store.path, root, dirs_exist_ok=True)
    return f"shards:{root}"


def make_torchvision(root: Path) -> str:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = bytes(n for n in range(8) for _ in range(8 * 8)), bytes(n % 2 for n in range(8))
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 8, 8, 8) + images)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 8) + labels)
    return f"torchvision:MNIST?root={root}"


def make_hf(root: Path) -> str:
    import datasets

    rows = {"image": [{"bytes": png(n), "path": None} for n in range(8)], "label": [n % 2 for n in range(8)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root / "saved")
    return f"hf:{root / 'saved'}"


def make_remote(root: Path) -> str:
    return make_wds(root).replace("wds:", "wds:file://")


MAKERS: dict[str, Callable[[Path], str]] = {
    "folder": make_folder,
    "wds": make_wds,
    "parquet": make_parquet,
    "idx": make_idx,
    "npy": make_npy,
    "batches": make_batches,
}
FILES = list(MAKERS)
WHOLE = {"mat": make_mat, "shards": make_shards}  # nothing is left of them without a file
ELSEWHERE: dict[str, Callable[[Path], str]] = {
    "torchvision": make_torchvision,
    "hf": make_hf,
    "remote": make_remote,
}
BUILTIN = [f"builtin:{name}?n=8" for name in BUILTINS]
GENERATED = [*(f"noise:{name}?n=8" for name in NoiseCorpus.families), "synthetic:shapes?n=8", "synthetic:aerial?n=8"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("base", "parquet"):
        monkeypatch.setattr(f"curate.corpora.{module}.PART_SIZE", SMALL_PART)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERSET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(params=[*FILES, *WHOLE, *ELSEWHERE, *BUILTIN, *GENERATED])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    make = (MAKERS | WHOLE | ELSEWHERE).get(request.param)
    return make(tmp_path) if make else str(request.param)


def items_of(corpus: Corpus) -> list[Item]:
    return [item for part in corpus.parts() for item in corpus.read(part)]


def plain(item: Item) -> tuple[object, ...]:
    data = (item.data.shape, item.data.tobytes()) if isinstance(item.data, np.ndarray) else item.data
    return item.uri, data, item.label, item.error


def test_every_reader_is_in_this_suite() -> None:
    assert {*CORPORA, "remote"} == {*MAKERS, *WHOLE, *ELSEWHERE, "noise", "synthetic", "builtin"}
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
    stated |= {"npy": ["0", "1"], "batches": ["0", "1"]}
    assert labels == stated[scheme]
    assert corpus.classes == (("cat", "dog") if scheme == "parquet" else None)


@pytest.mark.parametrize("scheme", [*FILES, *ELSEWHERE])
def test_identity_changes_when_a_file_does(scheme: str, tmp_path: Path) -> None:
    spec = (MAKERS | ELSEWHERE)[scheme](tmp_path)
    seen = [open_corpus(spec).identity()]
    victim = max(path for path in tmp_path.rglob("*") if path.is_file())
    os.utime(victim, ns=(1, 1))
    seen.append(open_corpus(spec).identity())
    spec = spec.replace("{0..1}", "{0..0}")
    victim.unlink()
    seen.append(open_corpus(spec).identity())
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("scheme", "labels", "named"),
    [("torchvision", ["0 - zero", "1 - one"], True), ("hf", ["cat", "dog"], True), ("remote", ["0", "1"], False)],
)
def test_labels_from_elsewhere(scheme: str, labels: list[str], named: bool, tmp_path: Path) -> None:
    corpus = open_corpus(ELSEWHERE[scheme](tmp_path))
    assert sorted({str(item.label) for item in items_of(corpus)}) == labels
    assert list(corpus.classes or ())[:2] == (labels if named else [])


@pytest.mark.parametrize("scheme", [*FILES, *WHOLE])
def test_a_bare_path_finds_its_reader(scheme: str, tmp_path: Path) -> None:
    root = tmp_path / "some data"
    root.mkdir()
    spec = (MAKERS | WHOLE)[scheme](root)
    corpus = open_corpus(str(root))
    assert corpus.spec == f"{scheme}:{root}"
    assert corpus.name == "some-data"
    assert [plain(item) for item in items_of(corpus)] == [plain(item) for item in items_of(open_corpus(spec))]
