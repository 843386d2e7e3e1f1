"""IDX: which files an option means, what damage is refused in which words, and that MNIST is read as it is."""

import gzip
import struct
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from curate.corpora import Item, open_corpus
from curate.corpora.base import Part
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty, CorpusNotFound
from curate.ingest import ingest
from manifests.read import read_manifest
from manifests.schema import SAMPLES

COUNT, HEIGHT, WIDTH = 5, 9, 10
PIXELS_NHW = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH), np.uint8)
HEADER = struct.pack(">4I", 0x803, COUNT, HEIGHT, WIDTH)
IMAGES = HEADER + PIXELS_NHW.tobytes()
LABELS = struct.pack(">2I", 0x801, COUNT) + bytes([7, 0, 10, 2, 255])
NAME = "train-images-idx3-ubyte"


def write(root: Path, images: bytes = IMAGES, labels: bytes | None = LABELS, name: str = NAME) -> Path:
    """The images, and the labels beside them, compressed if the name says so."""
    pack = gzip.compress if name.endswith(".gz") else bytes
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(pack(images))
    if labels is not None:
        (root / name.replace("images", "labels").replace("idx3", "idx1")).write_bytes(pack(labels))
    return root / name


def items_of(option: str | Path) -> list[Item]:
    corpus = open_corpus(str(option))
    return [item for part in corpus.parts() for item in corpus.read(part)]


@pytest.mark.parametrize(
    "name", [NAME, f"{NAME}.gz", "train-images.idx3-ubyte", "emnist-letters-test-images-idx3-ubyte.gz"]
)
def test_rows_and_labels_under_every_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "d", name=name)
    for option in (path, path.parent, f"idx:{path}", f"idx:{path.parent}"):
        items = items_of(option)
        assert [item.uri for item in items] == [f"{name}/{row:08d}" for row in range(COUNT)]
        assert [item.label for item in items] == ["7", "0", "10", "2", "255"]
        for item, pixels_HW in zip(items, PIXELS_NHW, strict=True):
            assert isinstance(item.data, np.ndarray)
            assert np.array_equal(item.data, pixels_HW)
            assert not item.data.flags.writeable
    assert open_corpus(f"train={path}").spec == f"idx:{path}"


def test_labels_are_those_beside_the_images_or_none(tmp_path: Path) -> None:
    path = write(tmp_path, labels=None)
    alone = open_corpus(str(path)).identity()
    assert {item.label for item in items_of(path)} == {None}
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(LABELS)  # of other images
    assert {item.label for item in items_of(path)} == {None}
    packed = tmp_path / "train-labels-idx1-ubyte.gz"
    packed.write_bytes(gzip.compress(LABELS))
    assert [item.label for item in items_of(path)][:2] == ["7", "0"]
    assert open_corpus(str(path)).identity() != alone
    packed.with_suffix("").write_bytes(LABELS[:-1] + b"\3")  # unpacked as the images are: preferred
    assert items_of(path)[-1].label == "3"
    other = tmp_path / "other.bin"
    other.write_bytes(IMAGES)
    first = items_of(f"idx:{other}")[0]
    assert (first.uri, first.label) == ("other.bin/00000000", None)


def test_which_file_is_meant(tmp_path: Path) -> None:
    train, test = write(tmp_path / "d"), write(tmp_path / "d", name="t10k-images-idx3-ubyte")
    (tmp_path / "d" / f"._{NAME}").write_bytes(b"Mac")
    for option in (str(tmp_path / "d"), f"idx:{tmp_path / 'd'}", f"idx:{tmp_path / 'd'}/*-images-*"):
        with pytest.raises(CorpusAmbiguous, match=f"2 files of IDX images.*say which: idx:{test} or idx:{train}$"):
            open_corpus(option)
    with pytest.raises(CorpusNotFound, match="no such file: no/such"):
        open_corpus("idx:no/such")
    (tmp_path / "none").mkdir()
    with pytest.raises(CorpusEmpty, match=r"no file of IDX images \(such as train-images-idx3-ubyte.gz\) in the fold"):
        open_corpus(f"idx:{tmp_path / 'none'}")
    empty = write(tmp_path / "e", struct.pack(">4I", 0x803, 0, HEIGHT, WIDTH))
    with pytest.raises(CorpusEmpty, match=f"no image in {empty}"):
        items_of(empty)


@pytest.mark.parametrize("name", [NAME, f"{NAME}.gz"])
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (b"", "it begins with nothing, expected 00000803"),
        (b"\x89PNG\r\n", "it begins with 89504e47, expected 00000803"),
        (b"\0\0\x07\3" + IMAGES[4:], "it begins with 00000703, expected 00000803"),
        (b"\0\0\x0d\3" + IMAGES[4:], "its elements are of type float, expected ubyte"),
        (LABELS, "its number of dimensions is 1, expected 3"),
        (HEADER[:12], "its header ends after 12 bytes"),
        (IMAGES[:-1], "its header says 5x9x10, that is 450 bytes, but there are only 449"),
        (IMAGES + b"\0", "its header says 5x9x10, that is 450 bytes, but there are more"),
        (struct.pack(">4I", 0x803, 2**31, 0, 28), "its images are 0x28, without a pixel"),
    ],
)
def test_damage(tmp_path: Path, name: str, images: bytes, words: str) -> None:
    path = write(tmp_path, images, name=name)
    with pytest.raises(CorpusDamaged, match=f"damaged IDX file {path}: {words}; fetch or write it again"):
        open_corpus(str(path)).parts()


def test_damaged_labels(tmp_path: Path) -> None:
    path = write(tmp_path, labels=struct.pack(">2I", 0x801, 3) + bytes(3))
    with pytest.raises(CorpusDamaged, match=f"5 images in {path} but 3 labels in {tmp_path}/train-labels-idx1-ubyte;"):
        open_corpus(str(path)).parts()
    write(tmp_path, labels=LABELS[:-1])
    with pytest.raises(CorpusDamaged, match=r"train-labels-idx1-ubyte: its header says 5, that is 5 bytes.*only 4"):
        open_corpus(str(path)).parts()


def test_every_cut_and_flipped_byte_of_a_gzip_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, name=f"{NAME}.gz")
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(CorpusDamaged, match=f"damaged IDX file {path}: "):
            open_corpus(str(path)).parts()
    refused = 0
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        try:
            seen = [item.data for item in items_of(path)]
        except CorpusDamaged:
            refused += 1
        else:
            assert np.array_equal(np.array(seen), PIXELS_NHW)
    assert refused > len(whole) - 10  # all but time, system and the like in gzip's header
    path.write_bytes(whole + b"garbage")
    with pytest.raises(CorpusDamaged, match="damaged IDX file"):
        open_corpus(str(path)).parts()


def test_a_header_that_promises_too_much_costs_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path, struct.pack(">4I", 0x803, 2**31, 28, 28) + bytes(10**6), name=f"{NAME}.gz")
    tracemalloc.start()
    with pytest.raises(CorpusDamaged, match=r"says 2147483648x28x28, that is 1,683,627,180,032 bytes.*only 1,000,000"):
        open_corpus(str(path)).parts()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 10**6


def test_ingest_takes_the_arrays(tmp_path: Path) -> None:
    path = write(tmp_path / "d", name=f"{NAME}.gz")
    store = ingest(open_corpus(f"train={path}"), size=8, work=tmp_path / "work").store
    samples = read_manifest(store.path, SAMPLES, columns=["uri", "source_label", "status", "width", "height"])
    assert samples.to_pylist()[2] == {
        "uri": f"{NAME}.gz/00000002",
        "source_label": "10",
        "status": "ok",
        "width": WIDTH,
        "height": HEIGHT,
    }
    assert len(samples) == COUNT


def test_mnist(shared: Path) -> None:
    folder = shared / "data" / "mnist"
    with pytest.raises(CorpusAmbiguous, match=r"idx:\S*t10k-images-idx3-ubyte.gz or idx:\S*train-images-idx3-ubyte.gz"):
        open_corpus(str(folder))
    for name, count, ones in (("t10k", 10_000, 1_135), ("train", 60_000, 6_742)):  # digits 1, as published
        corpus = open_corpus(str(folder / f"{name}-images-idx3-ubyte.gz"))
        parts: list[Part] = corpus.parts()
        assert sum(part.count for part in parts) == count
        labels: Counter[str | None] = Counter()
        ink: Counter[str | None] = Counter()
        for item in (item for part in parts for item in corpus.read(part)):
            assert isinstance(item.data, np.ndarray)
            assert item.data.shape == (28, 28)
            labels[item.label] += 1
            ink[item.label] += int(item.data[14, 14])  # the middle: white in a 1, a hole in a 0
        assert set(labels) == set("0123456789")
        assert labels["1"] == ones
        assert ink["0"] / labels["0"] < 40
        assert ink["1"] / labels["1"] > 180
