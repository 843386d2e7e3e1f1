"""MATLAB files: SVHN's layout and labels, which variables are meant, and that no damage ends the process."""

import os
import struct
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from curate.corpora import Item, open_corpus
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty, CorpusNotFound, CurateError, UnknownCorpus
from curate.ingest import ingest
from manifests.read import read_manifest
from manifests.schema import SAMPLES

COUNT, HEIGHT, WIDTH = 5, 9, 10
PIXELS_NHWC = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
X = PIXELS_NHWC.transpose(1, 2, 3, 0)
Y = np.array([[7], [10], [1], [2], [10]], np.uint8)
DIGITS = tuple("0123456789")


def write(path: Path, variables: Mapping[str, object] | None = None, *, packed: bool = True) -> Path:
    savemat(path, variables or {"X": X, "y": Y}, do_compression=packed)
    return path


def items_of(option: str | Path) -> list[Item]:
    corpus = open_corpus(str(option))
    return [item for part in corpus.parts() for item in corpus.read(part)]


def pixels(items: list[Item]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(item.data) for item in items])


def element(order: str, kind: int, data: bytes) -> bytes:
    return struct.pack(f"{order}2I", kind, len(data)) + data + bytes(-len(data) % 8)


def variable(order: str, name: str, values: NDArray[np.generic], *, kind: int, number: int) -> bytes:
    """A matrix by the book: ``number`` is MATLAB's class, ``kind`` the type of the values."""
    flags = element(order, 6, struct.pack(f"{order}2I", number, 0))
    shape = element(order, 5, struct.pack(f"{order}{values.ndim}i", *values.shape))
    stored = values.astype(values.dtype.newbyteorder("<" if order == "<" else ">")).tobytes(order="F")
    return element(order, 14, flags + shape + element(order, 1, name.encode()) + element(order, kind, stored))


def header(order: str) -> bytes:
    return b"MATLAB 5.0".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI")


@pytest.mark.parametrize("packed", [True, False])
def test_images_and_labels(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "train_32x32.mat", packed=packed)
    for option in (path, tmp_path, f"mat:{path}", f"mat:{tmp_path}"):
        items = items_of(option)
        assert [item.uri for item in items] == [f"train_32x32.mat/{row:08d}" for row in range(COUNT)]
        assert [item.label for item in items] == ["7", "0", "1", "2", "0"]
        assert open_corpus(str(option)).classes == DIGITS
        for item, pixels_HWC in zip(items, PIXELS_NHWC, strict=True):
            assert isinstance(item.data, np.ndarray)
            assert np.array_equal(item.data, pixels_HWC)
            assert item.data.flags.c_contiguous
            assert not item.data.flags.writeable


@pytest.mark.parametrize(
    ("y", "labels", "classes"),
    [
        ([1, 2, 3, 4, 10], ["1", "2", "3", "4", "0"], DIGITS),
        ([1.0, 2.0, 3.0, 4.0, 10.0], ["1", "2", "3", "4", "0"], DIGITS),  # MATLAB's numbers are doubles
        ([1, 2, 3, 4, 9], ["1", "2", "3", "4", "9"], None),
        ([0, 2, 3, 4, 10], ["0", "2", "3", "4", "10"], None),  # with a 0 of its own, 10 is 10
        ([1, 2, 3, 11, 10], ["1", "2", "3", "11", "10"], None),
        ([-1, 2, 3, 4, 10], ["-1", "2", "3", "4", "10"], None),
    ],
)
def test_ten_is_zero_among_labels_from_one_to_ten(
    tmp_path: Path, y: list[float], labels: list[str], classes: tuple[str, ...] | None
) -> None:
    for shape in ((-1,), (-1, 1)):  # a row and a column of MATLAB's
        path = write(tmp_path / "a.mat", {"X": X, "y": np.array(y).reshape(shape)})
        assert [item.label for item in items_of(path)] == labels
        assert open_corpus(str(path)).classes == classes


def test_other_variables_by_name(tmp_path: Path) -> None:
    others = {"about": {"a": 1}, "cells": np.array([1, "b"], object), "text": "hello", "sure": np.array([True])}
    path = write(tmp_path / "a.mat", {**others, "pictures": X, "digits": Y, "X": np.zeros(3), "z": 1j})
    items = items_of(f"mat:{path}?images=pictures&labels=digits")
    assert [item.label for item in items] == ["7", "0", "1", "2", "0"]
    assert np.array_equal(pixels(items), PIXELS_NHWC)
    assert {item.label for item in items_of(f"mat:{path}?images=pictures")} == {None}
    write(path)
    assert {item.label for item in items_of(f"mat:{path}?labels=")} == {None}
    assert open_corpus(f"mat:{path}?labels=").identity() != open_corpus(f"mat:{path}").identity()


@pytest.mark.parametrize("images", [X[..., :1], X[..., 0]])
def test_one_image_has_no_fourth_dimension(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    (item,) = items_of(write(tmp_path / "a.mat", {"X": images, "y": [[10]]}))
    assert np.array_equal(np.asarray(item.data), PIXELS_NHWC[0])
    assert item.label == "0"


def test_grey_images_are_two_dimensional(tmp_path: Path) -> None:
    items = items_of(write(tmp_path / "a.mat", {"X": X[:, :, 1:2]}))
    assert np.array_equal(pixels(items), PIXELS_NHWC[..., 1])


def test_both_orders_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    for order in ("<", ">"):
        x = variable(order, "X", X, kind=2, number=9)
        y = variable(order, "y", Y.astype(np.int16), kind=3, number=6)  # whole doubles are stored as short numbers
        path.write_bytes(header(order) + x + element(order, 15, zlib.compress(y)).rstrip(b"\0"))
        items = items_of(path)
        assert np.array_equal(pixels(items), PIXELS_NHWC)
        assert [item.label for item in items] == ["7", "0", "1", "2", "0"]


def test_which_file_is_meant(tmp_path: Path) -> None:
    folder = tmp_path / "svhn"
    folder.mkdir()
    with pytest.raises(CorpusEmpty, match=f"no \\*.mat file in the folder {folder}"):
        open_corpus(f"mat:{folder}")
    train, test = write(folder / "train.mat"), write(folder / "test.mat", {"X": X, "y": np.arange(1, 6)})
    for option in (folder, f"mat:{folder}/"):
        words = f"2 files of images lie in .*say which: mat:{test} or mat:{train}, or all by a pattern such as mat:"
        with pytest.raises(CorpusAmbiguous, match=words):
            open_corpus(str(option))
    items = items_of(f"{folder}/t*.mat")
    assert [item.uri.split("/")[0] for item in items] == ["test.mat"] * 5 + ["train.mat"] * 5
    assert [item.label for item in items] == ["1", "2", "3", "4", "5", "7", "0", "1", "2", "0"]
    assert open_corpus(f"{folder}/{{train,test}}.mat").identity() == open_corpus(f"{folder}/t*.mat").identity()
    with pytest.raises(CorpusNotFound, match=r"no such file: no.mat"):
        open_corpus("mat:no.mat")


def test_identity_changes_when_the_file_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat")
    before = open_corpus(str(path)).identity()
    write(path, {"X": X[..., :3], "y": Y[:3]})
    assert open_corpus(str(path)).identity() != before


@pytest.mark.parametrize(
    ("variables", "options", "words"),
    [
        ({"Z": X}, "", r"no variable 'X' in .*a.mat, which holds Z \(uint8 9x10x3x5\); say which: \?images=NAME"),
        ({"X": X}, "?labels=z", r"no variable 'z' in .*a.mat, which holds X$"),
        ({"X": X / 255}, "", r"X in .*a.mat is double 9x10x3x5; expected uint8, height x width x 3 x number"),
        ({"X": X * 1j}, "", r"X in .* is complex double 9x10x3x5; expected uint8"),
        ({"X": PIXELS_NHWC}, "", r"X in .* is uint8 5x9x10x3; expected uint8, height x width x 3 x number"),
        ({"X": X.reshape(-1, 5)}, "", r"X in .* is uint8 270x5; expected"),
        ({"X": X[:0]}, "", r"X in .* is uint8 0x10x3x5; expected"),
        ({"X": "text"}, "", r"X in .* is char 1x4; expected"),
        ({"X": {"a": X}}, "", r"X in .* is struct 1x1; expected"),
        ({"X": X, "y": np.eye(5)}, "", r"labels y in .* are double 5x5; expected one number an image"),
        ({"X": X, "y": Y * 1j}, "", r"labels y in .* are complex double 5x1; expected one number an image"),
        ({"X": X, "y": "abcde"}, "", r"labels y in .* are char 1x5; expected one number an image"),
        ({"X": X, "y": Y / 3}, "", r"labels in .*a.mat are float64 values; expected whole numbers or text"),
        ({"X": X}, "?image=X", r"mat: has no option 'image' .*expected one of images, labels"),
    ],
)
def test_what_is_not_of_the_layout(tmp_path: Path, variables: dict[str, object], options: str, words: str) -> None:
    path = write(tmp_path / "a.mat", variables)
    with pytest.raises(UnknownCorpus, match=words) as caught:
        items_of(f"mat:{path}{options}")
    assert "\n" not in str(caught.value)


def test_labels_in_another_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", {"X": X, "y": Y[:4]})
    with pytest.raises(CorpusDamaged, match=f"5 images in {path} but 4 labels; expected one label an image"):
        open_corpus(str(path))


def test_files_of_other_versions(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    for head in (
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(384) + b"\x89HDF\r\n\x1a\n",
        b"\x89HDF\r\n\x1a\n",
    ):
        path.write_bytes(head + bytes(1000))
        words = r"a.mat is a MATLAB 7.3 \(HDF5\) file, which is not read; in MATLAB, save it with save\(.*'-v7'\)"
        with pytest.raises(UnknownCorpus, match=words):
            open_corpus(str(path))
    savemat(path, {"X": np.eye(3)}, format="4")
    with pytest.raises(CorpusDamaged, match=r"damaged MATLAB file .*a.mat: it does not begin as a MATLAB file of vers"):
        open_corpus(str(path))


def test_a_flipped_type_that_ends_scipy(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.mat", packed=False).read_bytes()
    at = plain.index(PIXELS_NHWC.transpose(0, 3, 2, 1).tobytes()[:16]) - 8
    assert plain[at : at + 8] == struct.pack("<2I", 2, X.size)
    (tmp_path / "a.mat").write_bytes(plain[:at] + b"\x77" + plain[at + 1 :])
    with pytest.raises(CorpusDamaged, match=r"X is uint8 9x10x3x5, but has 1,350 bytes of type 119; fetch or write it"):
        items_of(tmp_path / "a.mat")
    (tmp_path / "a.mat").write_bytes(plain[:at] + b"\1" + plain[at + 1 :])
    with pytest.raises(CorpusDamaged, match=r"X is uint8 9x10x3x5, but its values lie there as int8"):
        items_of(tmp_path / "a.mat")


@pytest.mark.parametrize("packed", [True, False])
def test_every_cut_is_told(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "a.mat", packed=packed)
    whole = path.read_bytes()
    without_y = write(tmp_path / "b.mat", {"X": X}, packed=packed).stat().st_size
    for cut in (*range(0, len(whole), 3), without_y):
        path.write_bytes(whole[:cut])
        if cut == without_y:  # nothing tells that a variable is gone
            assert {item.label for item in items_of(path)} == {None}
        else:
            with pytest.raises((CorpusDamaged, UnknownCorpus), match=f"{path}"):
                items_of(path)


def test_changed_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat")
    whole, random = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for offset in (*range(124, 240), *random.integers(240, len(whole), 300)):
        changed = bytearray(whole)
        changed[offset] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        try:
            items = items_of(path)
        except CurateError:
            refused += 1
        else:  # what is left has the right checksum
            assert np.array_equal(pixels(items), PIXELS_NHWC)
    assert refused > 400


def test_a_file_that_changes_after_it_was_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", packed=False)
    corpus = open_corpus(f"mat:{path}?labels=")
    (part,) = corpus.parts()
    for change in (lambda: os.truncate(path, 700), lambda: os.utime(path, (1, 1)), lambda: write(path, {"X": X[:4]})):
        change()
        with pytest.raises(
            CorpusDamaged, match=f"MATLAB file {path} changed while it was read; run the same command ag"
        ):
            list(corpus.read(part))
    path.unlink()
    with pytest.raises(CorpusDamaged, match=f"cannot read MATLAB file {path}: No such file or directory$"):
        list(corpus.read(part))


def test_a_header_that_promises_too_much_costs_no_memory(tmp_path: Path) -> None:
    shape = (1 << 15, 1 << 15, 3, 1)
    flags = (
        element("<", 6, struct.pack("<2I", 9, 0)) + element("<", 5, struct.pack("<4i", *shape)) + element("<", 1, b"X")
    )
    inner = struct.pack("<2I", 14, 0) + flags + struct.pack("<2I", 2, 3 << 30) + bytes(10**6)
    (tmp_path / "a.mat").write_bytes(header("<") + element("<", 15, zlib.compress(inner)).rstrip(b"\0"))
    tracemalloc.start()
    with pytest.raises(CorpusDamaged, match=r"it ends too early: 1,000,000 of 3,221,225,472 bytes"):
        items_of(tmp_path / "a.mat")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 10**6


def test_ingest_takes_the_arrays(tmp_path: Path) -> None:
    store = ingest(open_corpus(f"s={write(tmp_path / 'a.mat')}"), size=8, work=tmp_path / "work").store
    samples = read_manifest(store.path, SAMPLES, columns=["uri", "source_label", "status", "width", "height"])
    assert {"uri": "a.mat/00000001", "source_label": "0", "status": "ok", "width": WIDTH, "height": HEIGHT} in (
        samples.to_pylist()
    )
    assert store.document["classes"] == list(DIGITS)


def test_svhn(shared: Path) -> None:
    folder = shared / "data" / "svhn_crops"
    with pytest.raises(CorpusAmbiguous, match=r"mat:\S*test_32x32.mat or mat:\S*train_32x32.mat"):
        open_corpus(str(folder))
    for name, count, zeros in (("train", 554, 32), ("test", 486, None)):
        corpus = open_corpus(str(folder / f"{name}_32x32.mat"))
        assert corpus.classes == DIGITS
        items = items_of(corpus.spec)
        assert len(items) == count
        assert {np.asarray(item.data).shape for item in items} == {(32, 32, 3)}
        labels = Counter(item.label for item in items)
        assert set(labels) == set(DIGITS)
        assert zeros in (None, labels["0"])
        rows = np.stack([np.asarray(item.data, np.int64) for item in items])
        along, across = (np.abs(np.diff(rows, axis=axis)).mean() for axis in (1, 2))
        assert max(along, across) < 0.5 * np.abs(rows - rows[::-1]).mean()  # photographs: neighbours are alike
