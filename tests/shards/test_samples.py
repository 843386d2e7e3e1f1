"""Per-sample tars as a source: the same pixels as ingest, exact resuming, and nothing dropped without a word."""

import io
import os
import tarfile
import warnings
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import shards.sample_index
import shards.sources.samples
from curate.corpora import open_corpus
from curate.ingest import ingest
from manifests.keys import content_key
from shards.decode import Transform
from shards.errors import BlockDamaged, ShardError, StreamStateError, TarDamaged
from shards.read import read_shard
from shards.sources import SampleTars
from shards.stream import Stream
from tests.curate.make import encode, picture, write_tar
from tests.shards.by_hand import png_that_declares

SIZE = 8  # px
ODD = ("a.b/dog.jpeg", "n#1?/c at.PNG", "é/ü&{1}.webp", "./[x]*.bmp")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 images, so that a small tar has several."""
    monkeypatch.setattr(shards.sources.samples, "block_rows", lambda size: 4)


def labelled(count: int, *, first: int = 0) -> dict[str, bytes]:
    """PNG files of pictures, each with its number modulo 3 for a label."""
    files: dict[str, bytes] = {}
    for n in range(first, first + count):
        files |= {f"{n:03d}.png": encode(picture(n)), f"{n:03d}.cls": str(n % 3).encode()}
    return files


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """22 images in two tars."""
    folder = tmp_path / "tars"
    folder.mkdir()
    write_tar(folder / "t-0.tar", labelled(13))
    write_tar(folder / "t-1.tar", labelled(9, first=13))
    return folder


def pixels(number: int) -> NDArray[np.uint8]:
    return picture(number).transpose(2, 0, 1)


def everything(source: SampleTars) -> tuple[NDArray[np.uint8], list[str], list[int]]:
    """Pixels, keys and labels of all blocks."""
    blocks = [source.read(number) for number in range(len(source.counts))]
    keys = [key.decode() for block in blocks for key in block.keys.tolist()]
    return np.concatenate([b.images_NCHW for b in blocks]), keys, [x for b in blocks for x in b.labels.tolist()]


def test_images_in_order_with_keys_and_labels(tars: Path) -> None:
    source = SampleTars(tars, size=SIZE)
    images_NCHW, keys, labels = everything(source)
    np.testing.assert_array_equal(images_NCHW, np.stack([pixels(n) for n in range(22)]))
    assert keys == [content_key(encode(picture(n))) for n in range(22)]
    assert labels == [n % 3 for n in range(22)]
    assert source.counts.tolist() == [4, 4, 4, 1, 4, 4, 1]  # no block spans two tars
    assert (source.size, source.views, source.classes, source.name) == (SIZE, 0, None, str(tars))


def test_blocks_are_as_large_as_those_of_shards(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    write_tar(tars / "t-2.tar", {f"{n}.png": encode(picture(n % 7)) for n in range(300)})
    assert SampleTars(tars / "t-2.tar", size=SIZE).counts.tolist() == [256, 44]
    assert SampleTars(tars / "t-2.tar", size=96).counts.tolist() == [64, 64, 64, 64, 44]


@pytest.mark.parametrize(
    "address", ["", "t-*.tar", "t-{0..1}.tar", "t-[01].tar", ["t-1.tar", "t-0.tar"], ["t-{0,1}.tar", "*.tar"]]
)
def test_however_the_tars_are_named_they_are_the_same_set(tars: Path, address: str | list[str]) -> None:
    given = str(tars / address) if isinstance(address, str) else [tars / each for each in address]
    source, plain = SampleTars(given, size=SIZE), SampleTars(tars, size=SIZE)
    assert source.identity == plain.identity
    assert everything(source)[1] == everything(plain)[1]


@pytest.mark.parametrize("resize", ["antialias", "imagenet"])
def test_pixels_are_those_of_ingest(tmp_path: Path, resize: str) -> None:
    forms = {f"{n}.{form}": encode(picture(n, height=20, width=31), form) for n, form in enumerate(("JPEG", "WEBP"))}
    write_tar(tmp_path / "t.tar", {**forms, "9.gif": encode(Image.fromarray(picture(9, width=12)).convert("P"), "GIF")})
    images_NCHW, keys, _ = everything(SampleTars(tmp_path / "t.tar", size=SIZE, resize=resize))
    assert len(keys) == 3
    ingested = stored(tmp_path / "t.tar", tmp_path, size=SIZE, resize=resize)
    for key, image_CHW in zip(keys, images_NCHW, strict=True):
        np.testing.assert_array_equal(image_CHW, ingested[key])


def stored(path: Path, work: Path, *, size: int, resize: str = "antialias") -> dict[str, NDArray[np.uint8]]:
    """Every image as `curate ingest` stores it, by its key."""
    store = ingest(open_corpus(f"wds:{path}"), size=size, work=work, resize=resize).store
    blocks = [block for shard in store.shards for block in read_shard(store.path, shard)]
    return {k.decode(): i for block in blocks for k, i in zip(block.keys, block.images_NCHW, strict=True)}


def test_real_tars_give_the_pixels_and_keys_of_ingest(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    path = shared / "data/tiny_imagenet/tiny-0001.tar"
    source, ingested = SampleTars(path, size=32), stored(path, tmp_path, size=32)
    images_NCHW, keys, labels = everything(source)
    assert len(keys) == source.counts.sum() == 5000
    assert set(keys) >= set(ingested)  # which leaves out what has the same pixels as one before
    assert len(ingested) > 4900
    by_key = dict(zip(keys, images_NCHW, strict=True))
    assert all((by_key[key] == image_CHW).all() for key, image_CHW in ingested.items())
    corpus = open_corpus(f"wds:{path}")
    items = [item for part in corpus.parts() for item in corpus.read(part)]
    stated = {content_key(item.data): item.label for item in items if item.data is not None}
    assert dict(zip(keys, map(str, labels), strict=True)) == stated


@pytest.mark.parametrize(
    ("stated", "labels", "classes"),
    [
        ({"a.cls": b"3", "b.cls": b" -1\n", "c.json": b'{"label": 12}'}, [3, -1, 12], None),
        ({"a.cls": b"cat", "b.json": b'{"cls": "ant"}', "c.cls": b"10"}, [2, 1, 0], ("10", "ant", "cat")),
        ({"a.cls": b"dog", "c.json": b'{"label": "cat"}'}, [1, -1, 0], ("cat", "dog")),
        ({"a.cls": b"0", "a.json": b'{"label": 5}', "b.json": b"{oops"}, [0, -1, -1], None),
        ({"c.cls": b"3000000000"}, [-1, -1, 0], ("3000000000",)),
        ({}, [-1, -1, -1], None),
    ],
)
def test_labels(tmp_path: Path, stated: dict[str, bytes], labels: list[int], classes: tuple[str, ...] | None) -> None:
    files = {f"{key}.png": encode(picture(n)) for n, key in enumerate("abc")}
    source = SampleTars(write_tar(tmp_path / "t.tar", files | stated), size=SIZE)
    assert everything(source)[2] == labels
    assert source.classes == classes


def test_a_sample_of_two_images_gives_both_with_its_label(tmp_path: Path) -> None:
    files = {"a.right.png": encode(picture(1)), "a.cls": b"5", "a.left.png": encode(picture(0)), "b.txt": b"no image"}
    images_NCHW, _, labels = everything(SampleTars(write_tar(tmp_path / "t.tar", files), size=SIZE))
    np.testing.assert_array_equal(images_NCHW, np.stack([pixels(0), pixels(1)]))
    assert labels == [5, 5]


def test_any_name_is_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "[a] #1? {b}"
    folder.mkdir()
    files = {name: encode(picture(n)) for n, name in enumerate(ODD)} | {"a.b/dog.cls": b"1"}
    path = write_tar(folder / "t*?{0..1} é.tar", files)
    images_NCHW, _, labels = everything(SampleTars(str(path), size=SIZE))
    np.testing.assert_array_equal(images_NCHW, np.stack([pixels(n) for n in range(4)]))
    assert labels == [1, -1, -1, -1]


def test_nothing_else_is_ever_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ("pkl", "pickle", "pth", "pt", "pyd", "npy", "npz", "tar", "mp4", "txt", "index")
    files = {**labelled(1), **{f"000.{extension}": b"cos\nsystem\n(S'false'\ntR." for extension in foreign}}
    path = write_tar(tmp_path / "t.tar", files)
    with tarfile.open(path) as tar:
        bodies = {info.offset_data: info.name for info in tar}
    asked: set[str] = set()
    real = os.pread

    def noted(file: int, length: int, offset: int) -> bytes:
        if length != tarfile.BLOCKSIZE:
            asked.add(bodies.get(offset, "the end"))
        return real(file, length, offset)

    monkeypatch.setattr(os, "pread", noted)
    assert len(everything(SampleTars(path, size=SIZE))[1]) == 1
    assert asked == {"000.png", "000.cls", "the end"}


def test_splits_are_a_seeded_draw(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", {f"{n:03d}.png": encode(picture(n)) for n in range(200)})
    train, holdout = (everything(SampleTars(path, size=SIZE, split=split))[1] for split in ("train", "holdout"))
    whole = everything(SampleTars(path, size=SIZE))[1]
    assert (len(train), len(holdout)) == (190, 10)
    assert sorted(train + holdout) == sorted(whole)
    assert train == [key for key in whole if key not in set(holdout)]  # in stored order
    assert holdout not in (whole[:10], whole[-10:], whole[::20])
    assert everything(SampleTars(path, size=16, split="holdout", resize="box"))[1] == holdout
    assert len(everything(SampleTars(path, size=SIZE, split="holdout", holdout=0.5))[1]) == 100


def test_small_sets_still_have_both_splits(tmp_path: Path) -> None:
    two = write_tar(tmp_path / "two.tar", labelled(2))
    assert [SampleTars(two, size=SIZE, split=split).counts.tolist() for split in ("train", "holdout")] == [[1], [1]]
    one = write_tar(tmp_path / "one.tar", labelled(1))
    assert SampleTars(one, size=SIZE, split="train").counts.tolist() == [1]
    with pytest.raises(
        ShardError, match=r"split 'holdout' of .*one.tar holds no images: there is but one, and it is in"
    ):
        SampleTars(one, size=SIZE, split="holdout")


def identity(path: Path, files: Mapping[str, bytes]) -> str:
    path.parent.mkdir(exist_ok=True)
    return str(SampleTars(write_tar(path, files), size=SIZE).identity["id"])


def test_the_id_is_of_the_contents_and_not_of_the_place(tmp_path: Path) -> None:
    files = labelled(3)
    known = identity(tmp_path / "here/t.tar", files)
    assert len(known) == 32
    assert int(known, 16)
    assert identity(tmp_path / "there é/t.tar", files) == known
    others = [
        identity(tmp_path / "here/u.tar", files),
        identity(tmp_path / "x/t.tar", {**files, "003.png": encode(picture(3))}),
        identity(tmp_path / "x/t.tar", {**files, "002.cls": b"7"}),
        identity(tmp_path / "x/t.tar", {**files, "000.png": files["001.png"] + b"more"}),
        identity(tmp_path / "x/t.tar", {name.replace("000", "zzz"): data for name, data in files.items()}),
        identity(tmp_path / "x/t.tar", dict(reversed(files.items()))),
    ]
    assert len({known, *others}) == 7


def test_a_flipped_bit_that_still_decodes_is_not_noticed_as_said(tmp_path: Path) -> None:
    files = {"a.bmp": encode(picture(0), "BMP")}
    path = write_tar(tmp_path / "t.tar", files)
    known = SampleTars(path, size=SIZE)
    flip(path, path.read_bytes().index(files["a.bmp"]) + len(files["a.bmp"]) - 1)
    source = SampleTars(path, size=SIZE)
    assert source.identity == known.identity
    assert everything(source)[1] != [content_key(files["a.bmp"])]  # its key is another, so ingest would see it


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def link(path: Path) -> Path:
    """Add a member that is a link."""
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("l.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    return path


BAD = {
    "cut": (encode(picture(0), "JPEG")[:150], ".*"),
    "empty": (b"", "empty file"),
    "text": (b"this is a text", "not an image of a known format"),
    "bomb": (png_that_declares(30_000, 30_000), "more than 89,478,485 px declared"),
    "tiny": (encode(picture(0, height=2, width=2)), "2x2 px, less than 4 a side"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, kind: str) -> None:
    data, reason = BAD[kind]
    source = SampleTars(write_tar(tmp_path / "t.tar", {**labelled(5), "n1/b d.jpg": data}), size=SIZE)
    assert len(source.read(0)) == 4
    with pytest.raises(
        BlockDamaged, match=rf"^{tmp_path}/t.tar: n1/b d.jpg cannot be used: {reason}; pass over it, or "
    ):
        source.read(1)


def test_a_link_is_named_and_not_followed(tmp_path: Path) -> None:
    source = SampleTars(link(write_tar(tmp_path / "t.tar", labelled(3))), size=SIZE)
    with pytest.raises(BlockDamaged, match=r"t.tar: l.jpg cannot be used: a link in the tar, not plain content"):
        source.read(0)


def test_what_cannot_be_decoded_may_be_passed_over(tmp_path: Path) -> None:
    """It alone is replaced and counted, not the block that it is in."""
    path = write_tar(tmp_path / "t.tar", {**labelled(399), "zzz.png": b"no image"})
    stream = Stream(SampleTars(path, size=SIZE), batch_size=40, on_damage="skip", max_bad=1 / 400)
    assert sum(len(batch.keys) for batch in stream.one_epoch()) == 400
    assert (stream.damage.images, [*stream.damage.blocks]) == (1, [99])
    assert "zzz.png cannot be used" in str(stream.damage)
    with pytest.raises(BlockDamaged, match=r"zzz.png cannot be used: not an image"):
        list(Stream(SampleTars(path, size=SIZE), batch_size=40).one_epoch())


@pytest.mark.parametrize("resident", [False, True])
def test_the_next_good_image_of_the_block_stands_in(tmp_path: Path, resident: bool) -> None:
    """Blocks of four: two bad of the first, with the last; all of the second; one of the third."""
    files = labelled(12)
    files |= dict.fromkeys(("001.png", "003.png", "004.png", "005.png", "006.png", "007.png", "008.png"), b"no image")
    source = SampleTars(write_tar(tmp_path / "t.tar", files), size=SIZE)
    expected = [0, 2, 2, 0, 9, 9, 10, 11, 9, 9, 10, 11]
    stream = Stream(source, batch_size=12, shuffle=False, on_damage="skip", max_bad=7 / 12, resident=resident)
    for _ in range(2):
        batch = next(stream)
        assert np.array_equal(batch.images_BCHW, np.stack([pixels(number) for number in expected]))
        assert batch.keys.tolist() == [content_key(files[f"{number:03d}.png"]).encode() for number in expected]
        assert batch.labels.tolist() == [number % 3 for number in expected]
        assert stream.damage.images == 7
    assert "001.png cannot be used: not an image of a known format (nor can 1 of the 3 beside it)" in str(stream.damage)
    strict = Stream(source, batch_size=12, on_damage="skip", max_bad=6 / 12, resident=resident)
    with pytest.raises(BlockDamaged, match="so 7 of 12 images are damaged"):
        next(strict)


def test_a_tar_that_changed_since_it_was_opened(tars: Path) -> None:
    source = SampleTars(tars, size=SIZE)
    write_tar(tars / "t-0.tar", labelled(14))
    with pytest.raises(BlockDamaged, match=r"t-0.tar changed since it was opened; open it again"):
        source.read(0)
    (tars / "t-1.tar").unlink()
    with pytest.raises(BlockDamaged, match=r"t-1.tar cannot be read: No such file or directory"):
        source.read(5)


@pytest.mark.parametrize("damage", ["header", "member", "sample", "payload", "end", "empty"])
def test_a_damaged_tar_is_never_silently_shorter(tars: Path, damage: str) -> None:
    path = tars / "t-1.tar"
    whole = path.read_bytes()
    label, image = whole.index(b"015.cls"), whole.index(b"016.png")
    cut = {"member": label, "sample": image, "payload": image + 600, "end": len(whole.rstrip(b"\0")) + 511, "empty": 0}
    path.write_bytes(whole[: cut.get(damage)])
    if damage == "header":
        flip(path, image)
    with pytest.raises(
        TarDamaged, match=rf"damaged tar {path} at byte \d+: .*; images may be missing, so fetch or pack"
    ):
        SampleTars(tars, size=SIZE)


def test_a_stream_resumes_exactly_over_ranks_and_masks(tars: Path) -> None:
    def stream(rank: int = 0, world: int = 1) -> Stream:
        return Stream(SampleTars(tars, size=SIZE), batch_size=4, window=2, seed=3, rank=rank, world=world)

    undisturbed = list(islice(stream(), 13))
    assert undisturbed[0].keys.tolist() != undisturbed[5].keys.tolist()
    begun = stream()
    first = list(islice(begun, 7))
    for world in (1, 2, 4):
        ranks = [stream(rank, world) for rank in range(world)]
        for rank in ranks:
            rank.load_state(begun.state())
        for number in range(7, 13):
            batches = [next(rank) for rank in ranks]
            assert np.concatenate([b.keys for b in batches]).tolist() == undisturbed[number].keys.tolist()
            images_BCHW = np.concatenate([b.images_BCHW for b in batches])
            np.testing.assert_array_equal(images_BCHW, undisturbed[number].images_BCHW)
    assert [b.keys.tolist() for b in first] == [b.keys.tolist() for b in undisturbed[:7]]
    masked, mask = stream(), np.arange(22) % 2 == 0
    masked.narrow(mask)
    wanted = {content_key(encode(picture(n))).encode() for n in range(0, 22, 2)}
    assert {key for batch in masked.one_epoch() for key in batch.keys.tolist()} <= wanted
    with pytest.raises(StreamStateError, match=r"mask was .* when the run was saved"):
        stream().load_state(masked.state())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"size": 16}, "size was 8 when the run was saved and is 16 now"),
        ({"resize": "box"}, "resize was 'antialias' when the run was saved and is 'box' now"),
        ({"split": "holdout"}, "split was 'train' when the run was saved and is 'holdout' now"),
        ({"holdout": 0.1}, "holdout was 0.05 when the run was saved and is 0.1 now"),
    ],
)
def test_a_state_of_other_pixels_is_refused(tars: Path, changed: dict[str, object], words: str) -> None:
    usual: dict[str, object] = {"size": SIZE, "split": "train"}
    state = Stream(SampleTars(tars, **usual), batch_size=1).state()  # type: ignore[arg-type]  # as the signature has it
    with pytest.raises(StreamStateError, match=words):
        Stream(SampleTars(tars, **{**usual, **changed}), batch_size=1).load_state(state)  # type: ignore[arg-type]


def test_refused_wishes(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShardError, match=r"tars of samples have no split 'test'; expected train or holdout"):
        SampleTars(tars, size=SIZE, split="test")
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ShardError, match=rf"holdout is {share}; expected a share between 0 and 1, such as 0.05"):
            SampleTars(tars, size=SIZE, split="train", holdout=share)
    with pytest.raises(ShardError, match=r"size is 0 px; expected at least 1"):
        SampleTars(tars, size=0)
    with pytest.raises(ShardError, match=r"no resize rule is called 'bicubic'; expected one of antialias, box"):
        SampleTars(tars, size=SIZE, resize="bicubic")
    monkeypatch.setattr(shards.sample_index, "LABEL_BYTES", 0)
    with pytest.raises(ShardError, match=r"t-0.tar: 000.cls has 1 bytes; expected a label, at most 0"):
        SampleTars(tars, size=SIZE)


def test_a_tar_that_cannot_be_opened(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shards.sample_index, "index_tar", refused)
    with pytest.raises(ShardError, match=rf"^{tars}/t-0.tar cannot be read: Permission denied$"):
        SampleTars(tars, size=SIZE)


def test_several_tars_are_named_by_the_first(tars: Path) -> None:
    names = [tars / "t-0.tar", tars / "t-1.tar"]
    assert SampleTars(names, size=SIZE, split="train").name == f"split 'train' of {tars}/t-0.tar and 1 more"
    assert SampleTars(names[:1], size=SIZE).name == f"{tars}/t-0.tar"


def test_tars_without_images(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", {"000000.images.npy": b"...", "000000.keys.npy": b"..."})
    with pytest.raises(
        ShardError, match=rf"no image member .* in {path}; if these are block shards, give the folder of"
    ):
        SampleTars(path, size=SIZE)


def test_no_warning_of_pillow_gets_out(tmp_path: Path) -> None:
    noisy = encode(Image.fromarray(picture(0)).quantize(4), "PNG", transparency=b"\0\x80")
    source = SampleTars(write_tar(tmp_path / "t.tar", {"a.png": noisy}), size=SIZE)
    with warnings.catch_warnings(record=True) as seen:
        source.read(0)
    assert [str(w.message) for w in seen] == []


def test_decoding_is_that_of_ingest_to_the_rule(tmp_path: Path) -> None:
    image = Image.fromarray(picture(1, height=9, width=21))
    path = write_tar(tmp_path / "t.tar", {"a.png": encode(image)})
    for resize in ("plain", "box"):
        wanted = Transform(size=SIZE, resize=resize)(image)
        np.testing.assert_array_equal(SampleTars(path, size=SIZE, resize=resize).read(0).images_NCHW[0], wanted)


def test_a_large_set_is_opened_from_headers_and_labels_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for n in range(3000):
            info = tarfile.TarInfo(f"{n}.jpg")
            info.size = 5000
            tar.addfile(info, io.BytesIO(bytes(5000)))
    read: list[int] = []
    real = os.pread

    def counted(file: int, length: int, offset: int) -> bytes:
        data = real(file, length, offset)
        read.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    source = SampleTars(tmp_path / "t.tar", size=SIZE)
    assert int(source.counts.sum()) == 3000
    assert sum(read) < 3010 * 512 + (1 << 20)
