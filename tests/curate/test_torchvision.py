"""Torchvision's sets: laid out as torchvision lays them out, read without a network; options, labels, downloads."""

import bz2
import gzip
import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from curate.corpora import Item, open_corpus
from curate.corpora.torchvision_sets import SETS, _class, _words
from curate.errors import CorpusDamaged, CorpusEmpty, CorpusNotFound, CorpusUnreachable, UnknownCorpus
from curate.ingest import ingest
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from tests.curate.make import encode, picture, write_folder


def items_of(option: str) -> list[Item]:
    corpus = open_corpus(option)
    return [item for part in corpus.parts() for item in corpus.read(part)]


def jpeg(seed: int) -> bytes:
    return encode(picture(seed), "JPEG")


def food101(root: Path) -> Path:
    files = {f"food-101/images/{kind}/{n}.jpg": jpeg(n) for n, kind in enumerate(["waffles", "sushi", "waffles"])}
    lists = {"train": {"waffles": ["waffles/0", "waffles/2"], "sushi": ["sushi/1"]}, "test": {"sushi": ["sushi/1"]}}
    files |= {f"food-101/meta/{split}.json": json.dumps(names).encode() for split, names in lists.items()}
    return write_folder(root, files)


def mnist(root: Path, *splits: str) -> Path:
    files = {}
    for split in splits:
        count = 3 if split == "train" else 2
        pixels = bytes(n + len(split) for n in range(count) for _ in range(64))
        files[f"MNIST/raw/{split}-images-idx3-ubyte"] = struct.pack(">4I", 0x803, count, 8, 8) + pixels
        files[f"MNIST/raw/{split}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, count) + bytes(range(count))
    return write_folder(root, files)


def usps(rows: int) -> bytes:
    pixels = " ".join(f"{n + 1}:{n / 128 - 1:.3f}" for n in range(256))
    return bz2.compress("".join(f"{row % 10 + 1} {pixels}\n" for row in range(rows)).encode())


# ---------------------------------------------------------------------------------------------- what is in the table


def test_every_set_of_the_table_is_torchvisions_and_says_where_it_lies(tmp_path: Path) -> None:
    for name, places in SETS.items():
        words = _words(_class(name))
        assert "root" in words
        assert all(word.strip("{}") in words for place in places for word in [place.partition("_")[0]] if "{" in word)
        required = "?split=digits&" if name == "EMNIST" else "?"
        missing = rf"finds no whole {name} in {tmp_path} \(.*\); say where it lies with &root=DIR; .*download"
        with pytest.raises((CorpusNotFound, CorpusUnreachable), match=f"{missing}|cannot read PCAM: h5py is not found"):
            open_corpus(f"torchvision:{name}{required}root={tmp_path}")


# ------------------------------------------------------------------------------------------- sets that are image files


def test_image_files_are_handed_out_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    food101(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus("torchvision:Food101")
    assert (corpus.name, corpus.spec, corpus.classes) == ("Food101", "torchvision:Food101", ("sushi", "waffles"))
    assert [(item.uri, item.data, item.label) for item in items_of("torchvision:Food101")] == [
        ("food-101/images/sushi/1.jpg", jpeg(1), "sushi"),
        ("food-101/images/waffles/0.jpg", jpeg(0), "waffles"),
        ("food-101/images/waffles/2.jpg", jpeg(2), "waffles"),
    ]
    assert [item.label for item in items_of("torchvision:Food101?split=test")] == ["sushi"]
    Path("data/food-101/images/waffles/0.jpg").unlink()
    missing = items_of("torchvision:Food101")[1]
    assert (missing.data, missing.error, missing.unreadable) == (None, "unreadable: No such file or directory", True)


def test_image_folders_and_lists(tmp_path: Path) -> None:
    files = {f"eurosat/2750/{kind}/{kind}_{n}.jpg": jpeg(n) for kind in ("Forest", "River") for n in range(2)}
    files |= {f"dtd/dtd/images/{kind}/{kind}_1.jpg": jpeg(9) for kind in ("dotted", "woven")}
    files["dtd/dtd/labels/train1.txt"] = b"dotted/dotted_1.jpg\nwoven/woven_1.jpg\n"
    files["dtd/dtd/labels/val3.txt"] = b"woven/woven_1.jpg\n"
    root = write_folder(tmp_path, files)
    corpus = open_corpus(f"torchvision:EuroSAT?root={root}")
    assert corpus.classes == ("Forest", "River")
    assert [item.label for item in items_of(corpus.spec)] == ["Forest", "Forest", "River", "River"]
    assert len(items_of(f"torchvision:DTD?root={root}")) == 2
    (item,) = items_of(f"torchvision:DTD?root={root}&split=val&partition=3")
    assert (item.uri, item.label) == ("dtd/dtd/images/woven/woven_1.jpg", "woven")


def test_imagenet_names_are_synonyms_and_made_unique(tmp_path: Path) -> None:
    wnids = {"n01": ("crane",), "n02": ("tench", "Tinca tinca"), "n03": ("crane",)}
    root = write_folder(tmp_path, {f"val/{wnid}/{wnid}_1.JPEG": jpeg(n) for n, wnid in enumerate(wnids)})
    torch.save((wnids, []), root / "meta.bin")
    corpus = open_corpus(f"torchvision:ImageNet?split=val&root={root}")
    assert corpus.classes == ("crane (0)", "tench, Tinca tinca", "crane (2)")
    assert [(item.uri, item.label) for item in items_of(corpus.spec)] == [
        ("val/n01/n01_1.JPEG", "crane (0)"),
        ("val/n02/n02_1.JPEG", "tench, Tinca tinca"),
        ("val/n03/n03_1.JPEG", "crane (2)"),
    ]


KINDS = ("abbey", "airfield", "beach")


def test_unsorted_listings_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path, {f"SUN397/{kind[0]}/{kind}/sun_{n}.jpg": jpeg(n) for kind in KINDS for n in range(3)})
    (root / "SUN397" / "ClassName.txt").write_text("".join(f"/{kind[0]}/{kind}\n" for kind in KINDS))
    first = items_of(f"torchvision:SUN397?root={root}")
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(rglob(self, pattern))))
    assert items_of(f"torchvision:SUN397?root={root}") == first
    assert [item.label for item in first] == [kind for kind in KINDS for _ in range(3)]


# ---------------------------------------------------------------------------------------------- sets that are arrays


def test_arrays_and_their_options(tmp_path: Path) -> None:
    root = mnist(tmp_path, "train", "t10k")
    train, test = (items_of(f"torchvision:MNIST?root={root}{option}") for option in ("", "&train=0"))
    assert [(item.uri, item.label) for item in train] == [
        ("MNIST/00000000", "0 - zero"),
        ("MNIST/00000001", "1 - one"),
        ("MNIST/00000002", "2 - two"),
    ]
    assert [item.data.tolist() for item in test if isinstance(item.data, np.ndarray)] == [[[n] * 8] * 8 for n in (4, 5)]
    spec = f"torchvision:MNIST?root={root}"
    assert open_corpus(spec).identity() == open_corpus(f"{spec}&train=1").identity()  # what is the default anyway
    assert open_corpus(spec).identity() != open_corpus(f"{spec}&train=false").identity()


def test_images_that_torchvision_opens_itself(tmp_path: Path) -> None:
    files = {f"oxford-iiit-pet/images/{name}_1.jpg": jpeg(n) for n, name in enumerate(("Bengal", "pug", "boxer"))}
    files["oxford-iiit-pet/images/boxer_1.jpg"] = b"damaged"
    files["oxford-iiit-pet/annotations/trainval.txt"] = b"Bengal_1 1 1 1\nboxer_1 2 2 1\npug_1 3 2 2\n"
    root = write_folder(tmp_path, files)
    cat, damaged, dog = items_of(f"torchvision:OxfordIIITPet?root={root}")
    assert (cat.label, dog.label) == ("Bengal", "Pug")
    assert isinstance(cat.data, np.ndarray)
    assert cat.data.shape == (8, 8, 3)
    assert (damaged.data, damaged.unreadable) == (None, False)
    assert str(damaged.error).startswith("unreadable: cannot identify image file")


def test_an_unlabelled_image_has_no_label(tmp_path: Path) -> None:
    (tmp_path / "usps.bz2").write_bytes(usps(12))
    items = items_of(f"torchvision:USPS?root={tmp_path}")
    assert [item.label for item in items] == [*map(str, range(10)), "0", "1"]  # no names: numbers
    (tmp_path / "usps.t.bz2").write_bytes(bz2.compress(b""))
    with pytest.raises(CorpusEmpty, match=r"no image in torchvision:USPS\?root=.*&train=0"):
        items_of(f"torchvision:USPS?root={tmp_path}&train=0")
    corpus: Any = open_corpus(f"torchvision:USPS?root={tmp_path}")
    assert [corpus._label(target) for target in (3, np.int64(4), -1, None, torch.zeros(40))] == ["3", "4", *[None] * 3]


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("option", "error", "words"),
    [
        (
            "VOCSegmentation",
            UnknownCorpus,
            "no set of classified images 'VOCSegmentation'; known: Caltech101, Caltech25",
        ),
        ("SVHN?split=all", UnknownCorpus, r"torchvision:SVHN: Unknown value 'all' for argument split.*'extra'"),
        (
            "SVHN?train=1",
            UnknownCorpus,
            "torchvision:SVHN: has no option 'train'.*expected one of split, root, download",
        ),
        ("EMNIST", UnknownCorpus, r"torchvision:EMNIST needs split=\.\.\., as in \?split=VALUE"),
        ("MNIST?train=maybe", UnknownCorpus, "torchvision:MNIST: train=maybe is neither 1 nor 0"),
        ("MNIST?download=", UnknownCorpus, "download= is neither 1 nor 0"),
        ("STL10?folds=first", UnknownCorpus, "torchvision:STL10: folds=first is no whole number"),
        ("STL10?folds=11", UnknownCorpus, r"folds should be in the range \[0, 10\), but got 11"),
        (
            "SVHN?split=extra",
            CorpusNotFound,
            r"finds no whole SVHN in data \(no such folder\); say where.*&download=1$",
        ),
        ("FER2013?download=1", UnknownCorpus, "FER2013: has no option 'download'.*expected one of split, root$"),
    ],
)
def test_refusals(
    option: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words) as caught:
        open_corpus(f"torchvision:{option}")
    assert str(caught.value).count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_damage_and_missing_libraries_are_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mnist(tmp_path, "train", "t10k")
    spec = f"torchvision:MNIST?root={root}"
    corpus = open_corpus(spec)
    raw = root / "MNIST" / "raw"
    (raw / "train-images-idx3-ubyte").write_bytes(b"nothing that MNIST would have in it")
    with pytest.raises(CorpusDamaged, match=f"torchvision cannot read MNIST in {root}: ") as caught:
        corpus.parts()
    assert str(caught.value).count("\n") == 0
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(CorpusNotFound, match=rf"finds no whole MNIST in {root} \(Dataset not found\); .*&download=1$"):
        open_corpus(spec).parts()

    def needs_scipy(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'scipy'")

    monkeypatch.setattr(datasets, "SVHN", needs_scipy)
    monkeypatch.setattr("curate.corpora.torchvision_sets._words", lambda _: _words(datasets.MNIST))
    monkeypatch.setitem(SETS, "SVHN", ("MNIST",))
    with pytest.raises(CorpusUnreachable, match="torchvision cannot read SVHN: No module named 'scipy'"):
        open_corpus(f"torchvision:SVHN?root={root}").parts()


# -------------------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where MNIST was downloaded to; it comes with a file that torchvision would print about."""
    calls = []

    def download(self: Any) -> None:
        if self._check_exists():
            return
        print("Downloading ...")
        calls.append(Path(self.root))
        mnist(Path(self.root), "train", "t10k")

    monkeypatch.setattr(datasets.MNIST, "download", download)
    return calls


def test_only_what_is_asked_for_and_missing_is_downloaded(
    tmp_path: Path, downloads: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new"
    for option in ("", "&download=0"):
        with pytest.raises(CorpusNotFound, match="or download it with &download=1"):
            open_corpus(f"torchvision:MNIST?root={root}{option}")
    assert downloads == []
    corpus = open_corpus(f"torchvision:MNIST?root={root}&download=1&train=0")
    assert corpus.spec == f"torchvision:MNIST?root={root}&train=0"
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    assert len(items_of(corpus.spec)) == 2
    again = open_corpus(f"torchvision:MNIST?root={root}&download=1&train=0")
    assert again.identity() == corpus.identity() == open_corpus(corpus.spec).identity()
    assert len(downloads) == 1
    assert downloads[0].is_relative_to(root / ".MNIST.part")
    assert capsys.readouterr().out == ""


def test_a_download_joins_what_is_there_and_replaces_what_a_killed_one_left(
    tmp_path: Path, downloads: list[Path]
) -> None:
    mnist(tmp_path, "train")
    (tmp_path / "MNIST" / "raw" / "mine.txt").write_text("kept")
    mnist(tmp_path / ".MNIST.part" / "root", "train", "t10k")
    half = tmp_path / ".MNIST.part" / "root" / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    half.write_bytes(b"half")
    with pytest.raises(CorpusNotFound, match="Dataset not found"):
        items_of(f"torchvision:MNIST?root={tmp_path}")
    assert len(items_of(f"torchvision:MNIST?root={tmp_path}&download=1&train=0")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST"]
    assert (tmp_path / "MNIST" / "raw" / "mine.txt").read_text() == "kept"


def failing(error: Exception) -> Callable[[Any], None]:
    def download(self: Any) -> None:
        Path(self.root, "MNIST").mkdir()
        raise error

    return download


def test_a_download_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, words in [
        (OSError("<urlopen error no route>"), "could not download MNIST: <urlopen error no route>$"),
        (
            RuntimeError("Error downloading train.gz:\nmirror a\n"),
            "could not download MNIST: Error downloading train.gz: m",
        ),
    ]:
        monkeypatch.setattr(datasets.MNIST, "download", failing(error))
        with pytest.raises(CorpusUnreachable, match=words) as caught:
            open_corpus(f"torchvision:MNIST?root={tmp_path}&download=1")
        assert str(caught.value).count("\n") == 0
        assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ real images


def test_mnist(shared: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (shared / "data" / "mnist").glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    ours = items_of(str(shared / "data" / "mnist" / "t10k-images-idx3-ubyte.gz"))
    theirs = items_of(f"torchvision:MNIST?train=0&root={tmp_path}")
    assert [item.label for item in theirs] == [f"{item.label} - {names[int(str(item.label))]}" for item in ours]
    assert all(np.array_equal(np.asarray(a.data), np.asarray(b.data)) for a, b in zip(ours, theirs, strict=True))


names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def test_svhn(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.copy(shared / "data" / "svhn_crops" / "test_32x32.mat", tmp_path)
    digest = hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(datasets.SVHN.split_list, "test", ["", "test_32x32.mat", digest])  # crops of our own
    corpus = open_corpus(f"torchvision:SVHN?split=test&root={tmp_path}")
    assert corpus.classes is None
    store = ingest(corpus, size=32, work=tmp_path / "work").store
    samples = read_manifest(store.path, SAMPLES, columns=["status", "source_label"]).to_pylist()
    assert len(samples) == 486
    assert {row["source_label"] for row in samples} == set("0123456789")
    assert {row["status"] for row in samples} <= {"ok", "duplicate"}
