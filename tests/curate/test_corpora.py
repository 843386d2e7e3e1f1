"""Corpora: what an option means, what each reader makes of odd and damaged sources, what the builtin images are."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.corpora import Corpus, Item, open_corpus
from curate.corpora.starter import addressed, digits, glyphs, textures
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty, CorpusNotFound, UnknownCorpus

ROOT = Path(__file__).resolve().parents[2]


def items_of(corpus: Corpus | str) -> list[Item]:
    opened = open_corpus(corpus) if isinstance(corpus, str) else corpus
    return [item for part in opened.parts() for item in opened.read(part)]


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], *, format_: int = tarfile.PAX_FORMAT) -> bytes:
    with tarfile.open(path, "w", format=format_) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def write_parquet(path: Path, names: list[str] | None = None, **columns: object) -> str:
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)
    return f"parquet:{path}"


# ------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "name", "spec"),
    [
        ("tiny=folder:{root}", "tiny", "folder:{root}"),
        ("tiny={root}", "tiny", "folder:{root}"),
        ("{root}", "a-b", "folder:{root}"),
        ("folder:{root}/", "a-b", "folder:{root}/"),
        ("folder:{root}/split=train", "split-train", "folder:{root}/split=train"),
        ("builtin:digits?split=test", "digits", "builtin:digits?split=test&n=360"),
        ("d=builtin:digits?n=5", "d", "builtin:digits?split=all&n=5"),
        ("glyphs=builtin:glyphs", "glyphs", "builtin:glyphs?n=2000"),
    ],
)
def test_options(tmp_path: Path, option: str, name: str, spec: str) -> None:
    root = tmp_path / "a b"
    (root / "split=train").mkdir(parents=True)
    (root / "split=train" / "x.jpg").write_bytes(b"x")
    corpus = open_corpus(option.format(root=root))
    assert (corpus.name, corpus.spec) == (name, spec.format(root=root))


def test_a_name_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "photos.d"
    root.mkdir()
    (root / "x.jpg").write_bytes(b"x")
    monkeypatch.chdir(root)
    assert open_corpus(".").name == "photos"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [item.uri for item in items_of("home=~/photos.d")] == ["x.jpg"]


@pytest.mark.parametrize(
    ("option", "error", "words"),
    [
        ("no/such", CorpusNotFound, r"no such file or folder: no/such"),
        ("x=folder:no/such", CorpusNotFound, r"no such folder: no/such"),
        ("x=wds:no-{0..3}.tar", CorpusNotFound, r"no such file: no-0.tar \(from the pattern no-\{0..3\}.tar\)"),
        ("x=no/*.tar", CorpusNotFound, r"no such file: no/\*.tar"),
        ("parquet:no.parquet", CorpusNotFound, r"no such file: no.parquet"),
        ("digits", CorpusNotFound, r"did you mean builtin:digits\?"),
        ("x=ftp:bucket/a.tar", UnknownCorpus, r"corpus scheme 'ftp'.*known: folder:, wds:, parquet:,.* builtin:"),
        ("x=no-such://bucket/a.tar", UnknownCorpus, r"cannot open no-such://bucket/a.tar: Protocol not known: no-such"),
        ("https://host/a.zip", UnknownCorpus, r"a.zip does not say what it is; expected \*-ubyte.gz, .* or .*wds:URL"),
        ("wds:@no.txt", CorpusNotFound, r"no such list of files: no.txt"),
        ("my data=photos", UnknownCorpus, r"corpus name 'my data'.*letters, digits"),
        ("=photos", UnknownCorpus, r"corpus name ''"),
        ("x=", UnknownCorpus, r"empty corpus in 'x='.*NAME=SPEC"),
        ("x=folder:", UnknownCorpus, r"nothing after folder:"),
        ("", UnknownCorpus, r"empty corpus"),
        ("wds:a-{0..3.tar", UnknownCorpus, r"unbalanced braces"),
        ("builtin:cats", UnknownCorpus, r"no builtin corpus 'cats'; known: digits, photos, glyphs, textures"),
        ("builtin:photos?split=test", UnknownCorpus, r"no option 'split'; expected one of n"),
        ("builtin:digits?split=val", UnknownCorpus, r"no split 'val'; expected one of all, train, test"),
        ("builtin:digits?split=test&n=361", UnknownCorpus, r"n=361 is not a number of images from 1 to 360"),
        ("builtin:photos?n=0", UnknownCorpus, r"n=0 is not a number of images from 1 to 1,000,000"),
        ("builtin:photos?n=many", UnknownCorpus, r"n=many"),
    ],
)
def test_refused_options(
    option: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words) as caught:
        open_corpus(option)
    assert str(caught.value).count("\n") == 0


def test_two_kinds_in_one_folder_are_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    write_tar(tmp_path / "a.tar", [("k.jpg", b"k")])
    with pytest.raises(CorpusAmbiguous, match=f"folder:{tmp_path} or wds:{tmp_path}"):
        open_corpus(str(tmp_path))
    assert [item.uri for item in items_of(f"wds:{tmp_path}")] == ["a.tar/k.jpg"]
    assert [item.uri for item in items_of(f"folder:{tmp_path}")] == ["x.jpg"]


def test_empty_places(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    for option, words in [
        (str(tmp_path), "no image file, no .tar, no .parquet, no IDX"),
        (str(tmp_path / "notes.txt"), "nothing usable"),
        (f"folder:{tmp_path}", "no image file"),
        (f"wds:{tmp_path}", r"no \*.tar file in the folder"),
        (f"parquet:{tmp_path}", r"no \*.parquet file in the folder"),
    ]:
        with pytest.raises(CorpusEmpty, match=words):
            open_corpus(option)
    with pytest.raises(UnknownCorpus, match="is a file, and folder: reads a folder"):
        open_corpus(f"folder:{tmp_path / 'notes.txt'}")


def test_a_folder_whose_images_lie_one_further_down_says_where(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_tar(tmp_path / "data" / "train-0.tar", [("k.jpg", b"k")])
    (tmp_path / "other").mkdir()
    with pytest.raises(CorpusEmpty, match=f"; or pass {tmp_path}/data$"):
        open_corpus(f"{tmp_path}/")
    write_tar(tmp_path / "labels.tar", [("k.cls", b"1")])
    with pytest.raises(CorpusEmpty, match="no image member"):
        items_of(f"wds:{tmp_path / 'labels.tar'}")
    images = pa.array([], pa.binary())
    with pytest.raises(CorpusEmpty, match="no row in parquet:"):
        open_corpus(write_parquet(tmp_path / "none.parquet", image=images))


def test_exit_codes() -> None:
    assert CorpusDamaged.exit_code == 4
    assert {error.exit_code for error in (CorpusNotFound, CorpusEmpty, CorpusAmbiguous, UnknownCorpus)} == {2}


def test_importing_the_readers_is_cheap() -> None:
    heavy = "{'torch', 'PIL', 'sklearn', 'skimage', 'webdataset'}"
    code = f"import sys, curate.corpora; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# -------------------------------------------------------------------------------------------------------- folder


def test_folder_labels_order_and_what_is_skipped(tmp_path: Path) -> None:
    for name in ("root.JPG", "b/deep/er.webp", "b/x.Tiff", "a-z/y.png", "a/y.gif", "a/.y.png", ".git/z.png", "a/t.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    items = items_of(f"folder:{tmp_path}")
    assert [(item.uri, item.label) for item in items] == [
        ("a-z/y.png", "a-z"),
        ("a/y.gif", "a"),
        ("b/deep/er.webp", "b"),
        ("b/x.Tiff", "b"),
        ("root.JPG", None),
    ]
    assert [item.data for item in items] == [item.uri.encode() for item in items]


def test_folder_links_and_odd_files(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "real", outside):
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(b"x")
    (root / "loop").symlink_to(root)
    (root / "inside.png").symlink_to(root / "real" / "x.png")
    (root / "out.png").symlink_to(outside / "x.png")
    (root / "out").symlink_to(outside)
    (root / "gone.png").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe.png")
    os.close(os.open(os.fsencode(root) + b"/\xff.png", os.O_CREAT))
    found = {item.uri: item.error or item.data for item in items_of(f"folder:{root}")}
    assert found == {
        "\\xff.png": b"",
        "gone.png": "unreadable: No such file or directory",
        "inside.png": b"x",
        "out": "a symbolic link out of the corpus, not followed",
        "out.png": "a symbolic link out of the corpus, not followed",
        "pipe.png": "not a regular file",
        "real/x.png": b"x",
    }
    followed = {item.uri: item.error or item.data for item in items_of(f"folder:{root}?links=follow")}
    assert followed == found | {"out.png": b"x"}
    with pytest.raises(UnknownCorpus, match="links=yes; expected links=follow, or nothing"):
        open_corpus(f"folder:{root}?links=yes")


def test_a_file_or_folder_that_cannot_be_read_is_an_item_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.png", "b/y.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    corpus = open_corpus(f"folder:{tmp_path}")
    (tmp_path / "b" / "y.png").unlink()
    last = items_of(corpus)[-1]
    assert (last.uri, last.data, last.label, last.error) == (
        "b/y.png",
        None,
        "b",
        "unreadable: No such file or directory",
    )

    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [(item.uri, item.error) for item in items_of(f"folder:{tmp_path}")] == [
        ("a/x.png", None),
        ("b", "unreadable: Permission denied"),
    ]


# ----------------------------------------------------------------------------------------------------------- wds

SAMPLES = [("n1/b.jpg", b"B" * 700), ("n1/b.cls", b"3"), ("a.jpg", b"A" * 512), ("a.cls", b"1"), ("c.jpg", b"C")]


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_wds_samples(tmp_path: Path, format_: int) -> None:
    long_name = "deep/" * 40 + "é.jpg"
    members = [*SAMPLES, ("__meta__", b"{}"), ("._a.jpg", b"Mac"), ("README", b"text"), ("z.txt", b"text")]
    if format_ != tarfile.USTAR_FORMAT:
        members.append((long_name, b"L"))
    write_tar(tmp_path / "t.tar", members, format_=format_)
    items = items_of(str(tmp_path / "t.tar"))
    expected = [("t.tar/a.jpg", b"A" * 512, "1"), ("t.tar/c.jpg", b"C", None), ("t.tar/n1/b.jpg", b"B" * 700, "3")]
    if format_ != tarfile.USTAR_FORMAT:
        expected.insert(2, (f"t.tar/{long_name}", b"L", None))
    assert [(item.uri, item.data, item.label) for item in items] == expected


def test_wds_keys_labels_and_repeats(tmp_path: Path) -> None:
    members = [
        ("./one.seg.png", b"second"),
        ("./one.jpg", b"first in the order of extensions"),
        ("./one.json", b'{"label": 7}'),
        ("two.JPEG", b"2"),
        ("two.json", b'{"cls": "cat", "caption": "x"}'),
        ("two.cls", b" dog\n"),
        ("two.JPEG", b"again"),
        ("two.cls", b""),
        ("three.png", b"3"),
        ("three.json", b"{broken"),
        ("four.png", b"4"),
        ("four.json", b"[1]"),
    ]
    write_tar(tmp_path / "t.tar", members)
    found = [(item.uri.removeprefix("t.tar/"), item.data, item.label) for item in items_of(f"wds:{tmp_path}/*.tar")]
    assert found == [
        ("four.png", b"4", None),
        ("one.jpg", b"first in the order of extensions", "7"),
        ("one.seg.png", b"second", "7"),  # nothing is passed over: a sample of two images gives both
        ("three.png", b"3", None),
        ("two.JPEG", b"2", "dog"),
        ("two.JPEG#2", b"again", None),
    ]


def test_wds_tars_of_several_folders_keep_the_order_of_uris(tmp_path: Path) -> None:
    for name in ("a/0.tar", "a-1/0.tar", "b.tar", "b.tar-1.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, [("k.jpg", name.encode())])
    items = items_of(f"wds:{tmp_path}/{{*,a/0,a-1/0}}.tar")
    uris = [item.uri for item in items]
    assert uris == sorted(uris)
    assert [item.data for item in items] == [uri.removesuffix("/k.jpg").encode() for uri in uris]


def test_wds_links_are_items_with_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        link = tarfile.TarInfo("k.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (item,) = items_of(f"wds:{tmp_path}")
    assert (item.data, item.error) == (None, "a link in the tar, not plain content")


def outcome(path: Path) -> list[tuple[str, object, str | None]] | None:
    """What is read, or None when the tar is refused as damaged."""
    try:
        return [(item.uri, item.data, item.label) for item in items_of(f"wds:{path}")]
    except CorpusDamaged:
        return None


def test_wds_no_cut_is_silently_shorter(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    whole = write_tar(path, SAMPLES)
    intact = outcome(path)
    content_end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # the last member's last block
    for cut in [*range(0, len(whole), 512), *range(1, content_end, 101)]:
        path.write_bytes(whole[:cut])
        assert outcome(path) == (intact if cut >= content_end + 1024 else None), cut


def test_wds_no_flipped_header_bit_is_silently_shorter(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    whole = write_tar(path, SAMPLES)
    intact = outcome(path)
    assert intact is not None
    header = whole.index(b"a.jpg")
    refused = 0
    for offset in range(header, header + 512):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        path.write_bytes(damaged)
        seen = outcome(path)
        refused += seen is None
        assert seen in (None, intact), offset
    assert refused > 500  # all but a bit or two in the padding of the checksum itself


def test_wds_damage_names_the_tar_and_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    whole = write_tar(path, SAMPLES)
    header = whole.index(b"a.jpg")
    path.write_bytes(whole[:header] + b"\xff" + whole[header + 1 :])
    with pytest.raises(CorpusDamaged, match=rf"damaged tar {path} at byte {header}: expected a member or the end"):
        items_of(f"wds:{path}")
    path.write_bytes(whole[:header])
    with pytest.raises(CorpusDamaged, match=rf"at byte {header}: the file ends without the end marker"):
        items_of(f"wds:{path}")
    path.write_bytes(whole + whole)  # tars joined by `cat`: the second would never be seen
    with pytest.raises(CorpusDamaged, match="images may be missing"):
        items_of(f"wds:{path}")
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(UnknownCorpus, match=r"compressed \(gzip\).*decompress it first"):
        items_of(f"wds:{path}")
    path.write_bytes(whole)
    corpus = open_corpus(f"wds:{path}")
    (part,) = corpus.parts()
    path.write_bytes(whole[:800])
    with pytest.raises(CorpusDamaged, match="changed while it was read"):
        list(corpus.read(part))


# ------------------------------------------------------------------------------------------------------- parquet


def struct(*values: bytes | None) -> list[dict[str, object] | None]:
    return [{"bytes": value, "path": "x.png"} for value in values]


def test_parquet_labels(tmp_path: Path) -> None:
    def labels(names: list[str] | None, values: object) -> list[str | None]:
        spec = write_parquet(tmp_path / "t.parquet", names, image=struct(b"x", b"y", b"z"), label=values)
        return [item.label for item in items_of(spec)]

    assert labels(["cat", "dog"], [1, -1, None]) == ["dog", None, None]
    assert labels(["cat", "dog"], [2, 0, 1]) == [None, "cat", "dog"]
    assert labels(None, [1, 0, None]) == ["1", "0", None]
    assert labels(None, ["b", "a", None]) == ["b", "a", None]
    assert labels(None, pa.array(["b", "a", "b"]).dictionary_encode()) == ["b", "a", "b"]
    spec = write_parquet(tmp_path / "t.parquet", image=struct(b"x"))
    assert [item.label for item in items_of(spec)] == [None]
    assert open_corpus(spec).classes is None


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_parquet_image_columns(tmp_path: Path, kind: pa.DataType) -> None:
    plain = pa.array([b"x", None, b"z"], kind)
    nested = pa.array([{"bytes": b"x"}, None, {"bytes": b"z"}], pa.struct([("bytes", kind)]))
    other = pa.array([{"size": 1}] * 3)
    for columns in ({"image": plain}, {"image": nested}, {"img": nested, "meta": other, "blob": plain}):
        items = items_of(write_parquet(tmp_path / "t.parquet", **columns))
        assert [(item.data, item.error) for item in items] == [
            (b"x", None),
            (None, "no image bytes in the row"),
            (b"z", None),
        ]
    both = {"left": nested, "right": nested}
    with pytest.raises(CorpusAmbiguous, match=r"\(left, right\); say which: \?image=left$"):
        open_corpus(write_parquet(tmp_path / "t.parquet", **both))
    items = items_of(write_parquet(tmp_path / "t.parquet", **both, image=nested))
    assert len(items) == 3
    with pytest.raises(UnknownCorpus, match="no column of encoded images among text, label"):
        open_corpus(write_parquet(tmp_path / "t.parquet", text=["a"], label=[1]))


def test_parquet_parts_cut_across_row_groups_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"a.parquet": 5, "b.parquet": 0, "c.parquet": 10}
    expected = []
    for name, count in counts.items():
        images = pa.array([f"{name}{n}".encode() for n in range(count)], pa.binary())
        write_parquet(tmp_path / name, image=images)
        expected += [(f"{name}/{n:08d}", f"{name}{n}".encode()) for n in range(count)]
    monkeypatch.setattr("curate.corpora.parquet._BATCH", 2)
    for size in range(1, 17):
        monkeypatch.setattr("curate.corpora.parquet.PART_SIZE", size)
        corpus = open_corpus(str(tmp_path))
        assert [(item.uri, item.data) for item in items_of(corpus)] == expected
        assert [part.count for part in corpus.parts()] == [len(list(corpus.read(part))) for part in corpus.parts()]


def test_parquet_damage(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    spec = write_parquet(path, image=struct(*(bytes([n]) * 1000 for n in range(9))))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(CorpusDamaged, match=f"damaged Parquet file {path}: .*; fetch or write it again") as caught:
        open_corpus(spec)
    assert str(caught.value).count("\n") == 0
    path.write_bytes(whole[:4] + b"\xff" * (len(whole) // 3) + whole[4 + len(whole) // 3 :])
    with pytest.raises(CorpusDamaged, match="damaged Parquet file"):
        items_of(spec)


def test_parquet_files_that_contradict_each_other(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["cat", "dog"], image=struct(b"x"), label=[0])
    write_parquet(tmp_path / "b.parquet", ["dog", "cat"], image=struct(b"y"), label=[0])
    with pytest.raises(CorpusAmbiguous, match="state different class names"):
        open_corpus(str(tmp_path))


# ------------------------------------------------------------------------------------------------------- builtin


def pixels(spec: str) -> list[bytes]:
    return [item.data.tobytes() for item in items_of(spec) if isinstance(item.data, np.ndarray)]


@pytest.mark.parametrize("name", ["photos", "glyphs", "textures", "digits"])
def test_n_keeps_the_first_images(name: str) -> None:
    assert pixels(f"builtin:{name}?n=40")[:15] == pixels(f"builtin:{name}?n=15")
    assert len(set(pixels(f"builtin:{name}?n=40"))) == 40
    assert open_corpus(f"builtin:{name}?n=40").identity() != open_corpus(f"builtin:{name}?n=15").identity()


def test_builtin_sizes() -> None:
    sizes = {"photos": 4000, "glyphs": 2000, "textures": 2000, "digits": 1797}
    for name, size in sizes.items():
        parts = open_corpus(f"builtin:{name}").parts()
        assert sum(part.count for part in parts) == size


# Means over the first 64 images, grey levels. A change means that the images changed: raise builtin._VERSION with it.
@pytest.mark.parametrize(
    ("name", "mean"), [("photos", 108.67), ("glyphs", 116.57), ("textures", 127.22), ("digits", 77.19)]
)
def test_golden_means(name: str, mean: float) -> None:
    images = [item.data for item in items_of(f"builtin:{name}?n=64") if isinstance(item.data, np.ndarray)]
    assert np.mean([image.mean() for image in images]) == pytest.approx(mean, abs=0.02)


def test_digits_split_is_fixed_disjoint_and_stratified() -> None:
    train, test = items_of("builtin:digits?split=train"), items_of("builtin:digits?split=test")
    assert (len(train), len(test)) == (1437, 360)
    assert sorted(item.uri for item in train + test) == [item.uri for item in items_of("builtin:digits")]
    totals = Counter(item.label for item in train + test)
    for digit, count in Counter(item.label for item in test).items():
        assert abs(count - totals[digit] * 360 / 1797) <= 1
    assert open_corpus("builtin:digits").classes == tuple("0123456789")
    assert [int(item.uri[-6:]) for item in test[:5]] == [0, 8, 11, 23, 27]
    image, label = digits.draw(0)
    assert (image.min(), image.max(), label) == (0, 239, "0")


def test_photos_come_from_all_photographs_and_are_seldom_flat() -> None:
    items = items_of("builtin:photos?n=600")
    assert len({item.label for item in items}) == 19
    contrast = [item.data.std(axis=(0, 1)).max() for item in items if isinstance(item.data, np.ndarray)]
    assert np.mean(np.array(contrast) >= 10) > 0.99


def test_glyphs_are_no_digits_and_all_of_the_font() -> None:
    assert not set(glyphs.GLYPHS) & set("0123456789")
    inks = {glyph: glyphs._ink(glyph, 30, turn=0, shift=(0, 0)).tobytes() for glyph in glyphs.GLYPHS}
    assert len(set(inks.values())) == len(glyphs.GLYPHS)  # a glyph that the font lacks would be drawn as a box
    assert {item.label for item in items_of("builtin:glyphs?n=900")} == set(glyphs.GLYPHS)


def test_textures_take_turns() -> None:
    labels = Counter(item.label for item in items_of("builtin:textures?n=80"))
    assert labels == dict.fromkeys(textures.FAMILIES, 10)


def test_box_reduce_rounds_half_up() -> None:
    image_HWC = np.array([[0, 1], [0, 1]], np.uint8)[:, :, None]
    assert addressed.box_reduce(image_HWC, 2).item() == 1
    assert (addressed.box_reduce(np.full((64, 64, 3), 255, np.uint8), 2) == 255).all()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusNotFound, match="needs scikit-none, which is not installed: pip install scikit-none"):
        addressed.package_folder("sknone", "scikit-none")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits._dataset.cache_clear()
    with pytest.raises(CorpusNotFound, match="pip install scikit-learn"):
        items_of("builtin:digits")


# ---------------------------------------------------------------------------------------------------- real images


@pytest.mark.parametrize(
    ("place", "scheme", "count", "first"),
    [
        ("tiny_imagenet", "wds", 10_000, ("tiny-0000.tar/n01443537_1.jpg", "0")),
        ("scenes/scenes.parquet", "parquet", 6_000, ("scenes.parquet/00000000", "street")),
        ("imagenet_originals", "folder", 80, ("n01484850/great_white_shark.JPEG", "n01484850")),
        ("cifar10/test.parquet", "parquet", 10_000, ("test.parquet/00000000", "ship")),
    ],
)
def test_real_corpora(shared: Path, place: str, scheme: str, count: int, first: tuple[str, str]) -> None:
    corpus = open_corpus(str(shared / "data" / place))
    assert corpus.spec.startswith(scheme + ":")
    items = items_of(corpus)
    assert len(items) == count == sum(part.count for part in corpus.parts())
    assert all(item.error is None for item in items)
    assert [item.uri for item in items] == sorted({item.uri for item in items})
    assert (items[0].uri, items[0].label) == first


def test_real_class_names(shared: Path) -> None:
    scenes = open_corpus(str(shared / "data" / "scenes" / "scenes.parquet"))
    assert scenes.classes == ("buildings", "forest", "glacier", "mountain", "sea", "street")
    cifar = open_corpus(str(shared / "data" / "cifar10" / "test.parquet"))
    assert Counter(item.label for item in items_of(cifar)) == dict.fromkeys(cifar.classes or (), 1000)
