"""Batches of CIFAR and of the downsampled ImageNet: rows to pixels, names beside them, pickles that are refused."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from curate.corpora import Item, open_corpus
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty, CorpusNotFound, CurateError, UnknownCorpus
from curate.ingest import ingest
from manifests.read import read_manifest
from manifests.schema import SAMPLES

COUNT, SIDE = 5, 8
PIXELS_NHWC = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
ROWS = PIXELS_NHWC.transpose(0, 3, 1, 2).reshape(COUNT, -1)
LABELS = [3, 1, 2, 0, 1]
TEXTS = ["3", "1", "2", "0", "1"]
BATCH: dict[str, Any] = {"data": ROWS, "labels": LABELS, "mean": ROWS.mean(0)}
NAMES = ["cat", "dog", "ship", "truck"]


def write(path: Path, content: Mapping[str, ArrayLike] | object = None, *, protocol: int = 4) -> Path:
    """A batch, as a pickle or by its name as an .npz."""
    content = BATCH if content is None else content
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz" and isinstance(content, Mapping):
        np.savez(path, **{name: np.asarray(values) for name, values in content.items()})  # type: ignore[arg-type]
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    return path


def items_of(option: str | Path) -> list[Item]:
    corpus = open_corpus(str(option))
    return [item for part in corpus.parts() for item in corpus.read(part)]


def pixels(items: list[Item]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(item.data) for item in items])


def as_bytes(content: Mapping[str, object]) -> dict[bytes, object]:
    """With keys as Python 2 wrote them."""
    return {key.encode(): value for key, value in content.items()}


@pytest.mark.parametrize("name", ["train_data_batch_1", "train_data_batch_1.npz", "val_data", "val_data.npz", "other"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_rows_are_planes_and_labels_the_files_own(tmp_path: Path, name: str, protocol: int) -> None:
    path = write(tmp_path / "d" / name, protocol=protocol)
    options = [f"batches:{path}"] if name == "other" else [str(path), f"batches:{path}", str(path.parent)]
    for option in options:
        items = items_of(option)
        assert [item.uri for item in items] == [f"{name}/{row:08d}" for row in range(COUNT)]
        assert np.array_equal(pixels(items), PIXELS_NHWC)
        assert [item.label for item in items] == TEXTS
        assert open_corpus(option).spec.startswith("batches:")
        assert open_corpus(option).classes is None
        assert not np.asarray(items[0].data).flags.writeable


@pytest.mark.parametrize("content", [BATCH | {"data": np.asfortranarray(ROWS)}, BATCH | {"labels": np.array(LABELS)}])
def test_other_ways_to_hold_the_same(tmp_path: Path, content: dict[str, Any]) -> None:
    for name in ("data_batch_1", "train_data_batch_1.npz"):
        items = items_of(write(tmp_path / name, content))
        assert np.array_equal(pixels(items), PIXELS_NHWC)
        assert [item.label for item in items] == TEXTS
        unlabelled = items_of(write(tmp_path / name, {"data": ROWS}))
        assert {item.label for item in unlabelled} == {None}


@pytest.mark.parametrize(
    ("batches", "meta", "names"),
    [
        (("data_batch_1", "data_batch_2", "test_batch"), "batches.meta", "label_names"),
        (("train", "test"), "meta", "fine_label_names"),
    ],
)
def test_cifar(tmp_path: Path, batches: tuple[str, ...], meta: str, names: str) -> None:
    labels = (
        {"fine_labels": [*LABELS[:4], 9], "coarse_labels": LABELS} if meta == "meta" else {"labels": [*LABELS[:4], 9]}
    )
    for name in batches:
        write(tmp_path / name, as_bytes({"data": ROWS, **labels, "filenames": [b"a.png"] * COUNT}), protocol=2)
    spec = f"batches:{tmp_path}/{batches[0].replace('1', '*')}"
    assert {item.label for item in items_of(spec)} >= {"3", "9"}
    alone = open_corpus(spec).identity()
    write(tmp_path / meta, as_bytes({names: [name.encode() for name in NAMES], "num_vis": 3072}), protocol=2)
    (tmp_path / "readme.html").write_text("about")
    corpus = open_corpus(spec)
    assert corpus.classes == tuple(NAMES)
    assert corpus.identity() != alone
    items = items_of(spec)
    assert [item.label for item in items[:COUNT]] == ["truck", "dog", "ship", "cat", None]
    assert len(items) == COUNT * (len(batches) - 1)
    words = f"batches to train and to test on lie in {tmp_path}; say which: {spec} or batches:{tmp_path}/{batches[-1]}$"
    for option in (tmp_path, f"batches:{tmp_path}"):
        with pytest.raises(CorpusAmbiguous, match=words.replace("*", r"\*")):
            open_corpus(str(option))
    assert len(items_of(tmp_path / batches[-1])) == COUNT


def test_many_batches_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        for name in (f"train_data_batch_{number}", f"train_data_batch_{number}.npz"):
            content = BATCH | {"labels": [number] * COUNT}
            write((tmp_path / "npz" if name.endswith("npz") else tmp_path / "pickled") / name, content)
    for folder in ("npz", "pickled"):
        items = items_of(tmp_path / folder)
        assert [item.uri for item in items] == sorted({item.uri for item in items})
        assert [item.label for item in items] == ["1"] * COUNT + ["10"] * COUNT + ["2"] * COUNT
        assert np.array_equal(pixels(items), np.concatenate([PIXELS_NHWC] * 3))
    one = open_corpus(f"{tmp_path}/npz/train_data_batch_{{1,2}}.npz")
    assert one.spec.startswith("batches:")
    assert sum(part.count for part in one.parts()) == 2 * COUNT


def test_which_files_are_meant(tmp_path: Path) -> None:
    with pytest.raises(CorpusNotFound, match="no such file: no/such"):
        open_corpus("batches:no/such")
    (tmp_path / "notes.txt").write_text("no batch")
    with pytest.raises(CorpusEmpty, match=r"no batch \(such as data_batch_1 or train_data_batch_1.npz\) in the folder"):
        open_corpus(f"batches:{tmp_path}")
    write(tmp_path / "train")  # a batch only beside `meta`
    with pytest.raises(CorpusEmpty, match="nothing usable"):
        open_corpus(str(tmp_path))
    write(tmp_path / "data_batch_1", {"data": ROWS[:0], "labels": []})
    with pytest.raises(CorpusEmpty, match=r"no image in batches:.*data_batch_1"):
        open_corpus(f"batches:{tmp_path}/data_batch_1")


def test_batches_of_folders_with_other_names(tmp_path: Path) -> None:
    for number, names in ((1, NAMES), (2, NAMES[::-1])):
        folder = tmp_path / str(number)
        write(folder / "data_batch_1")
        write(folder / "batches.meta", {"label_names": names})
    with pytest.raises(CorpusAmbiguous, match="state different class names; read them one by one"):
        items_of(f"batches:{tmp_path}/*/data_batch_1")
    write(tmp_path / "2" / "batches.meta", {"label_names": "cat"})
    with pytest.raises(UnknownCorpus, match=r"no class names in .*batches.meta; expected a list 'label_names' or"):
        items_of(tmp_path / "2" / "data_batch_1")


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ({"data": ROWS[:, :-3]}, UnknownCorpus, "is uint8 5x189; expected uint8 rows of 3 x S x S bytes, N x 3072 say"),
        ({"data": ROWS / 255}, UnknownCorpus, "is float64 5x192; expected uint8 rows"),
        ({"data": PIXELS_NHWC}, UnknownCorpus, "is uint8 5x8x8x3; expected uint8 rows"),
        ({"data": ROWS[:, :0]}, UnknownCorpus, "is uint8 5x0; expected uint8 rows"),
        ({"images": ROWS}, UnknownCorpus, "'data' in .* is (nothing|NoneType); expected uint8 rows"),
        (BATCH | {"labels": LABELS[:3]}, CorpusDamaged, "5 images in .* but 3 labels; expected one label an image"),
        (BATCH | {"labels": NAMES + NAMES[:1]}, UnknownCorpus, "labels in .* are <U5 values; expected whole numbers"),
        (BATCH | {"labels": [0.5] * 5}, UnknownCorpus, "labels in .* are float64 values; expected whole numbers"),
    ],
)
def test_what_is_no_batch(tmp_path: Path, content: dict[str, Any], error: type[CurateError], words: str) -> None:
    for name in ("data_batch_1", "train_data_batch_1.npz"):
        path = write(tmp_path / name, content)
        with pytest.raises(error, match=words) as caught:
            items_of(path)
        assert "\n" not in str(caught.value)


class Trap:
    """An object whose pickle runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_batch_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "data_batch_1"
    objects = np.array([Trap(marker)] * COUNT, object)
    words = r"data_batch_1 was not loaded: it asks for '(posix|nt).system'; a pickled batch may hold arrays, lists and"
    for content in (
        Trap(marker),
        BATCH | {"labels": Trap(marker)},
        BATCH | {"labels": objects},
        {"data": [Trap(marker)]},
    ):
        write(path, content)
        with pytest.raises(UnknownCorpus, match=words):
            items_of(path)
    write(path)
    write(tmp_path / "batches.meta", {"label_names": [Trap(marker)]})
    with pytest.raises(UnknownCorpus, match=words.replace("data_batch_1", "batches.meta")):
        items_of(path)
    np.savez(tmp_path / "train_data_batch_1.npz", allow_pickle=True, data=ROWS, labels=objects)
    with pytest.raises(UnknownCorpus, match=r"'labels' in .*_1.npz holds pickled objects, which are never loaded"):
        items_of(tmp_path / "train_data_batch_1.npz")
    assert not marker.exists()
    path = write(path, [ROWS])
    with pytest.raises(UnknownCorpus, match=r"data_batch_1 holds a list; expected a dictionary with 'data'"):
        items_of(path)


def test_every_cut_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    for protocol in (2, 5):
        write(path, protocol=protocol)
        whole = path.read_bytes()
        for cut in range(0, len(whole), 5):
            path.write_bytes(whole[:cut])
            with pytest.raises(CorpusDamaged, match=f"damaged batch {path}: .*; fetch or write it again"):
                items_of(path)
        path.write_bytes(whole + b"more")
        with pytest.raises(CorpusDamaged, match=f"damaged batch {path}: there is more after its end"):
            items_of(path)
    path.write_text("<html>not found</html>")
    with pytest.raises(CorpusDamaged, match=f"damaged batch {path}: .*; fetch or write it again"):
        items_of(path)


def test_a_batch_that_changes_after_it_was_opened(tmp_path: Path) -> None:
    for name in ("data_batch_1", "train_data_batch_1.npz"):
        corpus = open_corpus(str(write(tmp_path / name)))
        (part,) = corpus.parts()
        path = write(tmp_path / name, {"data": ROWS[:3], "labels": LABELS[:3]})
        with pytest.raises(CorpusDamaged, match=f"{path} changed while it was read; run the same command again"):
            list(corpus.read(part))


def test_ingest_takes_the_arrays(tmp_path: Path) -> None:
    write(tmp_path / "batches.meta", {"label_names": NAMES})
    store = ingest(open_corpus(f"c={write(tmp_path / 'data_batch_1')}"), size=8, work=tmp_path / "work").store
    samples = read_manifest(store.path, SAMPLES, columns=["uri", "source_label", "status", "width"])
    assert {"uri": "data_batch_1/00000002", "source_label": "ship", "status": "ok", "width": 8} in samples.to_pylist()
    assert store.document["classes"] == NAMES
