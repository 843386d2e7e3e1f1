"""NumPy's files: which arrays are images and labels, read by range and never as a pickle, damage in words."""

import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from curate.corpora import Item, open_corpus
from curate.corpora.base import find_files
from curate.corpora.numpy_files import Header, npy_rows
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty, CorpusNotFound, CurateError, UnknownCorpus
from curate.ingest import ingest
from manifests.read import read_manifest
from manifests.schema import SAMPLES

COUNT, HEIGHT, WIDTH = 5, 9, 10
RGB_NHWC = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
GREY_NHW = RGB_NHWC[..., 0]
LABELS = np.array([7, 0, 10, -1, 255])
TEXTS = ["7", "0", "10", "-1", "255"]


def save(path: Path, values: ArrayLike) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.save(path, values)
    return path


def savez(path: Path, arrays: Mapping[str, ArrayLike], *, packed: bool = False) -> Path:
    write = np.savez_compressed if packed else np.savez
    write(path, **{name: np.asarray(values) for name, values in arrays.items()})  # type: ignore[arg-type]
    return path


def items_of(option: str | Path) -> list[Item]:
    corpus = open_corpus(str(option))
    return [item for part in corpus.parts() for item in corpus.read(part)]


def pixels(items: list[Item]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(item.data) for item in items])


def labels(option: str | Path) -> list[str | None]:
    return [item.label for item in items_of(option)]


# -------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        (GREY_NHW, GREY_NHW),
        (RGB_NHWC, RGB_NHWC),
        (RGB_NHWC[..., :1], GREY_NHW),
        (RGB_NHWC.transpose(0, 3, 1, 2), RGB_NHWC),
        (RGB_NHWC[..., 0][:, None], GREY_NHW),
    ],
)
def test_every_layout(tmp_path: Path, stored: NDArray[np.uint8], seen: NDArray[np.uint8]) -> None:
    paths = [save(tmp_path / "a.npy", np.ascontiguousarray(stored)), savez(tmp_path / "b.npz", {"k": stored})]
    paths += [savez(tmp_path / "c.npz", {"k": np.asfortranarray(stored)}, packed=True)]
    for path in paths:
        for option in (str(path), f"npy:{path}"):
            items = items_of(option)
            assert [item.uri for item in items] == [f"{path.name}/{row:08d}" for row in range(COUNT)]
            assert np.array_equal(pixels(items), seen)
            for item in items:
                assert isinstance(item.data, np.ndarray)
                assert item.data.flags.c_contiguous
                assert not item.data.flags.writeable


def test_a_shape_that_fits_two_layouts_needs_the_option(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", RGB_NHWC[:, :3])  # (5, 3, 10, 3)
    words = r"a.npy is uint8 5x3x10x3: the channels may be second or last; say \?layout=NHWC or NCHW"
    with pytest.raises(CorpusAmbiguous, match=words):
        open_corpus(str(path))
    last, second = items_of(f"npy:{path}?layout=NHWC"), items_of(f"npy:{path}?layout=NCHW")
    assert np.array_equal(pixels(last), RGB_NHWC[:, :3])
    assert np.array_equal(pixels(second), RGB_NHWC[:, :3].transpose(0, 2, 3, 1))
    assert len({open_corpus(f"npy:{path}?layout={layout}").identity() for layout in ("NHWC", "NCHW")}) == 2
    save(path, RGB_NHWC)
    with pytest.raises(UnknownCorpus, match=r"is uint8 5x9x10x3; expected .* for layout=NCHW"):
        open_corpus(f"npy:{path}?layout=NCHW")
    with pytest.raises(UnknownCorpus, match=r"npy: has no layout 'NHCW'; expected one of NHWC, NCHW"):
        open_corpus(f"npy:{path}?layout=NHCW")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (RGB_NHWC / 255, r"is float64 5x9x10x3; expected uint8 .*values in \[0, 1\]: save \(images \* 255\).round"),
        (RGB_NHWC.astype(np.int64), r"is int64 5x9x10x3; expected uint8"),
        (RGB_NHWC.astype(object), r"is object 5x9x10x3; expected uint8"),
        (RGB_NHWC.reshape(COUNT, -1), r"is uint8 5x270; expected uint8 \(N, H, W\), \(N, H, W, 1 or 3\) or"),
        (RGB_NHWC[..., :2], r"is uint8 5x9x10x2; expected"),
        (RGB_NHWC[:, :0], r"is uint8 5x0x10x3; expected"),
        (np.uint8(3), r"is uint8; expected"),
    ],
)
def test_other_arrays_are_no_images(tmp_path: Path, values: ArrayLike, words: str) -> None:
    path = save(tmp_path / "a.npy", values)
    with pytest.raises(UnknownCorpus, match=f"{path} {words}"):
        open_corpus(str(path))
    path = savez(tmp_path / "a.npz", {"images": values})
    with pytest.raises(UnknownCorpus, match=r"expected uint8 \(N, H, W\)"):
        open_corpus(str(path))


def test_no_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", RGB_NHWC[:0])
    with pytest.raises(CorpusEmpty, match=f"corpus 'a': no image in npy:{path}"):
        open_corpus(str(path))


def test_fortran_order_is_refused_where_rows_are_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.asfortranarray(RGB_NHWC))
    with pytest.raises(UnknownCorpus, match=r"a.npy is in Fortran order, .*; save np.ascontiguousarray\(images\)"):
        open_corpus(str(path))


def test_the_arrays_of_an_npz(tmp_path: Path) -> None:
    path = savez(tmp_path / "a.npz", {"images": GREY_NHW, "masks": GREY_NHW + 1, "labels": LABELS})
    assert np.array_equal(pixels(items_of(path)), GREY_NHW)  # the usual name among several
    assert np.array_equal(pixels(items_of(f"{path}?images=masks")), GREY_NHW + 1)
    savez(path, {"x_train": GREY_NHW, "y_train": LABELS, "x_test": GREY_NHW[:3], "y_test": LABELS[:3]})
    with pytest.raises(CorpusAmbiguous, match=r"a.npz could be the images; say which: \?images=x_train or \?images=x_"):
        open_corpus(str(path))
    assert labels(f"{path}?images=x_test") == TEXTS[:3]
    assert labels(f"{path}?images=x_train") == TEXTS
    with pytest.raises(UnknownCorpus, match=r"no array 'x' in .*a.npz, which holds x_train \(uint8 5x9x10\), y_train"):
        open_corpus(f"npy:{path}?images=x")
    with pytest.raises(UnknownCorpus, match=r"'y_test' in .*a.npz is int64 3; expected uint8"):
        open_corpus(f"npy:{path}?images=y_test")
    savez(path, {"a": LABELS, "b": np.zeros((5, 9, 10, 3))})
    words = r"no array of images in .*, which holds a \(int64 5\), b \(float64 5x9x10x3\); expected uint8"
    with pytest.raises(UnknownCorpus, match=words):
        open_corpus(str(path))


# -------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("images", "name"),
    [
        ("images", "labels"),
        ("train_images", "train_labels"),
        ("x", "y"),
        ("X", "Y"),
        ("X_train", "y_train"),
        ("test-x", "test-y"),
        ("arr_0", "arr_1"),
        ("fog", "fog-labels"),
        ("fog", "fog_labels"),
    ],
)
def test_labels_named_for_the_images(tmp_path: Path, images: str, name: str) -> None:
    path = save(tmp_path / f"{images}.npy", GREY_NHW)
    alone = open_corpus(str(path)).identity()
    assert labels(path) == [None] * COUNT
    save(tmp_path / f"{name}.npy", LABELS[:, None])
    assert labels(path) == TEXTS
    assert labels(tmp_path) == TEXTS  # the folder has one file of images
    assert labels(f"npy:{path}?labels=") == [None] * COUNT
    assert len({alone, open_corpus(str(path)).identity(), open_corpus(f"npy:{path}?labels=").identity()}) == 3
    assert labels(savez(tmp_path / "all.npz", {images: GREY_NHW, name: LABELS})) == TEXTS


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (np.array(["cat", "dög"] * 2 + ["x"]), ["cat", "dög", "cat", "dög", "x"]),
        (np.array([b"cat", b"dog"] * 2 + [b"x"]), ["cat", "dog", "cat", "dog", "x"]),
        (np.array([1.0, 2, 3, 4, 5e3]), ["1", "2", "3", "4", "5000"]),
        (np.arange(5, dtype=">u2"), ["0", "1", "2", "3", "4"]),
    ],
)
def test_labels_are_numbers_or_text(tmp_path: Path, values: NDArray[np.generic], texts: list[str]) -> None:
    path = save(tmp_path / "a.npy", GREY_NHW)
    save(tmp_path / "a_labels.npy", values)
    assert labels(path) == texts
    assert labels(savez(tmp_path / "b.npz", {"images": GREY_NHW, "targets": values})) == texts


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (np.eye(5), UnknownCorpus, r"float64 5x5; expected one number or text an image, or labels= to read none"),
        (np.array([None] * 5), UnknownCorpus, r"object 5; expected one number or text an image"),
        (LABELS[:3], CorpusDamaged, r"5 images in .* but 3 labels.*; expected one label an image"),
        (LABELS / 2, UnknownCorpus, r"labels in .* are float64 values; expected whole numbers or text"),
        (LABELS * np.nan, UnknownCorpus, r"labels in .* are float64 values; expected whole numbers or text"),
    ],
)
def test_other_arrays_are_no_labels(
    tmp_path: Path, values: NDArray[np.generic], error: type[CurateError], words: str
) -> None:
    path = save(tmp_path / "a.npy", GREY_NHW)
    save(tmp_path / "a_labels.npy", values)
    with pytest.raises(error, match=words):
        items_of(path)
    path = savez(tmp_path / "b.npz", {"images": GREY_NHW, "hot": values})
    with pytest.raises(error, match=words):
        items_of(f"npy:{path}?labels=hot")
    assert labels(path) == [None] * COUNT


def test_labels_by_option(tmp_path: Path) -> None:
    one, two = save(tmp_path / "fog.npy", GREY_NHW), save(tmp_path / "snow.npy", RGB_NHWC)
    save(tmp_path / "labels.npy", LABELS)  # as CIFAR-10-C has them: one for all
    assert labels(f"{one}?labels=labels.npy") == TEXTS
    assert labels(f"npy:{tmp_path}/*.npy?labels=labels.npy") == TEXTS * 2
    assert [item.uri for item in items_of(f"{one.parent}/{{fog,snow}}.npy")][4:6] == [
        "fog.npy/00000004",
        "snow.npy/00000000",
    ]
    with pytest.raises(UnknownCorpus, match=f"no file of labels 'y.npy' beside {two}"):
        open_corpus(f"npy:{two}?labels=y.npy")
    with pytest.raises(UnknownCorpus, match=f"images=x is for .npz files; {two} is one array"):
        open_corpus(f"npy:{two}?images=x")
    path = savez(tmp_path / "a.npz", {"images": GREY_NHW})
    with pytest.raises(UnknownCorpus, match=r"no array 'y' in .*a.npz; it holds images"):
        open_corpus(f"npy:{path}?labels=y")


def test_which_file_is_meant(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    one = save(folder / "a.npy", GREY_NHW)
    assert len(items_of(folder)) == COUNT
    two = savez(folder / "b.npz", {"x": GREY_NHW})
    for option in (folder, f"npy:{folder}"):
        with pytest.raises(
            CorpusAmbiguous, match=f"2 files of images lie in {folder}; say which: npy:{one} or npy:{two}"
        ):
            open_corpus(str(option))
    for name in "cdef":
        save(folder / f"{name}.npy", GREY_NHW)
    with pytest.raises(CorpusAmbiguous, match=r"6 files of images .*a.npy or npy:\S*b.npz or npy:\S*c.npy or \.\.\.$"):
        open_corpus(str(folder))
    with pytest.raises(CorpusNotFound, match=r"no such file: no.npy"):
        open_corpus("npy:no.npy")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no array")
    with pytest.raises(CorpusEmpty, match=r"no \*.npy or \*.npz file in the folder .*none"):
        open_corpus(f"npy:{tmp_path}/none")


def test_files_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERSET_CACHE", str(tmp_path / "cache"))
    folder = save(tmp_path / "there" / "x.npy", RGB_NHWC).parent
    save(folder / "y.npy", LABELS)
    for option in (f"file://{folder}/x.npy", f"npy:file://{folder}/", f"npy:file://{folder}/*.npy"):
        items = items_of(option)
        assert np.array_equal(pixels(items), RGB_NHWC)
        assert [item.label for item in items] == TEXTS
    assert labels(f"file://{folder}/x.npy?labels=") == [None] * COUNT


# -------------------------------------------------------------------------------------------------------- damage


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (marker,)

    trap = np.array([Trap()] * 5, object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    savez(tmp_path / "b.npz", {"images": trap, "labels": trap, "x": GREY_NHW, "y": trap})
    for option in ("npy:a.npy", "npy:b.npz?images=images", "npy:b.npz?images=x&labels=y"):
        with pytest.raises(UnknownCorpus, match=r"object 5; expected (uint8|one number)"):
            items_of(option.replace("npy:", f"npy:{tmp_path}/"))
    assert labels(tmp_path / "b.npz") == [None] * COUNT
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        CorpusDamaged, match=r"damaged NumPy file .*c.npy: it does not begin with the header of an array"
    ):
        items_of(tmp_path / "c.npy")
    assert not marker.exists()


def test_every_cut_is_told(tmp_path: Path) -> None:
    for path in (save(tmp_path / "a.npy", GREY_NHW), savez(tmp_path / "b.npz", {"x": GREY_NHW, "y": LABELS})):
        whole = path.read_bytes()
        for cut in range(0, len(whole), 3):
            path.write_bytes(whole[:cut])
            with pytest.raises(CorpusDamaged, match=f"damaged NumPy file {path}: .*; fetch or write it again"):
                items_of(path)
        path.unlink()
    path = save(tmp_path / "a.npy", GREY_NHW)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorpusDamaged, match="its header says uint8 5x9x10, that is 578 bytes, but there are only 577;"):
        open_corpus(str(path))
    save(path, GREY_NHW)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorpusDamaged, match="its header says uint8 5x9x10, that is 578 bytes, but there are 579;"):
        open_corpus(str(path))


@pytest.mark.parametrize("packed", [True, False])
def test_changed_bytes_of_an_npz_are_refused_or_harmless(tmp_path: Path, packed: bool) -> None:
    path = savez(tmp_path / "a.npz", {"x": GREY_NHW, "y": LABELS}, packed=packed)
    whole, random, refused = path.read_bytes(), np.random.default_rng(1), 0
    for offset in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[offset] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        try:
            items = items_of(path)
        except CurateError:
            refused += 1
        else:
            assert np.array_equal(pixels(items), GREY_NHW)
    assert refused > len(whole) / 3 * 0.6  # the rest: times, modes and the like in the zip's directories


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.zeros((9000, 40, 40, 3), np.uint8))  # blocks of 8 MiB: 1,747 rows
    corpus = open_corpus(str(path))
    items = corpus.read(corpus.parts()[1])
    assert next(items).uri == "a.npy/00004096"
    with path.open("r+b") as file:
        file.truncate(30_000_000)
    with pytest.raises(CorpusDamaged, match=f"NumPy file {path} changed while it was read; run the same command ag"):
        list(items)
    (source,) = find_files(str(path), "")  # as it is between the look at its size and the read
    header = Header((9000, 40, 40, 3), False, np.dtype("u1"), 128)
    with pytest.raises(CorpusDamaged, match=f"damaged NumPy file {path}: it ends too early: .* of 4,800 bytes; fetch"):
        npy_rows(source, header, 6249, 6250)
    path = savez(tmp_path / "b.npz", {"x": GREY_NHW})
    corpus = open_corpus(str(path))
    savez(path, {"x": GREY_NHW[:3]})
    with pytest.raises(CorpusDamaged, match=f"NumPy file {path} changed while it was read; run the same command ag"):
        list(corpus.read(corpus.parts()[0]))


def test_a_header_that_promises_too_much_costs_no_memory(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"shape": (1 << 31, 28, 28), "fortran_order": False, "descr": "|u1"})
    data = out.getvalue() + bytes(10**6)
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", data)
    tracemalloc.start()
    for name in ("a.npy", "b.npz"):
        with pytest.raises(CorpusDamaged, match=r"2147483648x28x28, that is 1,683,627,180,\d+ bytes.*only 1,000,\d+"):
            items_of(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 10**6


def test_a_part_of_a_large_file_costs_the_memory_of_a_block(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    count, row = 200_000, 32 * 32 * 3
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"shape": (count, 32, 32, 3), "fortran_order": False, "descr": "|u1"}
        )
        start = file.tell()
        file.truncate(start + count * row)  # a hole: 614 MB that take no disk
        file.seek(start + 100_000 * row)
        file.write(b"\7")
    corpus = open_corpus(str(path))
    part = corpus.parts()[100_000 // 4096]
    tracemalloc.start()
    marked = [item.uri for item in corpus.read(part) if np.any(item.data)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert marked == ["a.npy/00100000"]
    assert peak < 40 * 10**6


def test_ingest_takes_the_arrays(tmp_path: Path) -> None:
    path = savez(tmp_path / "a.npz", {"x": GREY_NHW, "y": LABELS})
    store = ingest(open_corpus(f"s={path}"), size=8, work=tmp_path / "work").store
    samples = read_manifest(store.path, SAMPLES, columns=["uri", "source_label", "status", "width", "height"])
    row = {"uri": "a.npz/00000002", "source_label": "10", "status": "ok", "width": WIDTH, "height": HEIGHT}
    assert row in samples.to_pylist()
    assert len(samples) == COUNT
