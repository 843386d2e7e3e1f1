"""Sets made to do harm: nothing is run, nothing is waited for, and no number that would fill the memory is believed."""

import ast
import hashlib
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import shards.index
from manifests.commit import FileFacts
from manifests.errors import IntegrityError, TransfersetError
from manifests.schema import SAMPLES
from shards.codec import Encoded
from shards.errors import BlockDamaged
from shards.index import BlockFacts, ShardFacts, ShardFolder, open_folder, seal, write_index
from shards.layout import Block, decode_block, encode_block
from shards.sources import LocalBlocks
from shards.stream import Stream
from shards.verify import verify
from shards.write import committed, write_shard
from tests.shards import make
from tests.shards.test_layout import Trap, member, npy

MIB = 1 << 20
LARGE = 66  # px: encoded
ODD = ["with space", "a#b?c", "é 漢", "two\nlines", "a.b.c", "100%41", "[x]*", "-dash"]


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fail if more than ``limit`` bytes are taken."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def sealed(folder: Path, facts: list[ShardFacts], *, size: int = make.SIZE) -> Path:
    """A store of these shards, whose hashes agree whatever they say."""
    keys = [f"{number:032x}" for number in range(sum(max(0, min(shard.rows, 9)) for shard in facts))]
    rows = [make.sample(key, "one", shard=0, block=0, row=row) for row, key in enumerate(keys)]
    files = [committed(shard) for shard in facts]
    files.append(make.write_rows(folder, SAMPLES, rows, made=make.MADE))
    files.append(write_index(folder, facts, provenance=make.MADE))
    seal(folder, {"size": size}, kind="store", files=files, fingerprint="f")
    return folder


def of_bytes(folder: Path, data: bytes, *, rows: int, size: int = make.SIZE) -> Path:
    """A store of one shard of one block, which is ``data``."""
    name = "shards/000000.tar"
    (folder / "shards").mkdir(parents=True)
    (folder / name).write_bytes(data)
    block = BlockFacts(block=0, rows=rows, offset=0, bytes=len(data), xxh3=xxhash.xxh3_64_hexdigest(data))
    sha256 = hashlib.sha256(data).hexdigest()
    shard = ShardFacts(name=name, split="all", bytes=len(data), sha256=sha256, rows=rows, blocks=(block,))
    return sealed(folder, [shard], size=size)


def refused(path: Path, words: str) -> None:
    """A stream and verify say the same, in words, and take little memory for it."""
    with at_most(40 * MIB), pytest.raises(IntegrityError, match=words):
        Stream(LocalBlocks(open_folder(path)), batch_size=1).read(0, 0)
    with at_most(40 * MIB):
        try:
            said = "\n".join(verify(path).problems)
        except IntegrityError as error:
            said = str(error)
    with pytest.raises(IntegrityError, match=words):
        raise IntegrityError(said)


def block_bytes(**members: object) -> bytes:
    """A block of one image with some members in place of its own, or beside them."""
    image = make.block(1)
    arrays: dict[str, object] = {"images": image.images, "keys": image.keys, "labels": image.labels} | members
    payloads = {
        f"0.{name}.npy": npy(found) if isinstance(found, np.ndarray) else found for name, found in arrays.items()
    }
    return b"".join(member(name, payload) for name, payload in payloads.items() if isinstance(payload, bytes))


def stated(shape: str, descr: str = "|u1") -> bytes:
    """An array in NumPy's format that states a shape and holds nothing."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-len(header) - 11 % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def resized(data: bytes, size: int) -> bytes:
    """A tar member whose header states another size."""
    info = tarfile.TarInfo.frombuf(data[:512], "utf-8", "strict")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + data[512:]


WHOLE = b"".join(encode_block(0, make.block(1)))
BAD_BLOCKS = {
    "a pickle": block_bytes(evil=pickle.dumps(Trap())),
    "an array of objects": block_bytes(images=npy(np.array([Trap()], dtype=object))),
    "a member beside, of code": WHOLE + member("0.plugin.pyd", b"MZ" + bytes(600)),
    "a member beside, of weights": WHOLE + member("0.model.pth", pickle.dumps(Trap())),
    "a pickled member beside": WHOLE + member("0.evil.pkl", pickle.dumps(Trap())),
    "larger than declared": resized(WHOLE, 1 << 40),
    "smaller than nothing": resized(WHOLE, -1024),
    "gigantic": block_bytes(images=stated(f"(1, 3, {1 << 30}, {1 << 30})")),
    "gigantic and empty": block_bytes(images=stated(f"(0, {10**30})")),
    "negative": block_bytes(images=stated("(1, 3, -4, -4)") + bytes(48)),
    "of no shape": block_bytes(images=stated("()") + bytes(1)),
    "nested deep": block_bytes(images=stated("(" * 3000 + ")" * 3000)),
    "keys in two dimensions": block_bytes(keys=make.block(1).keys[:, None]),
    "images of one channel": block_bytes(images=make.images(1)[:, :1]),
    "images that are no squares": block_bytes(images=make.images(1)[:, :, :2]),
    "images of fractions": block_bytes(images=make.images(1).astype(np.float32)),
}


@pytest.mark.parametrize("name", BAD_BLOCKS)
def test_a_block_that_means_harm_is_refused(name: str, tmp_path: Path) -> None:
    path = of_bytes(tmp_path, BAD_BLOCKS[name], rows=1)
    refused(path, r"000000.tar: block 0 cannot be decoded: not a block")
    assert not Trap.sprung


def png(width: int, height: int, *, more: bytes = b"") -> bytes:
    """A PNG that states a size and unpacks to that many black pixels, from a thousandth of the bytes."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + ihdr(width, height) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def ihdr(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encoded(*images: bytes) -> bytes:
    """A block of encoded images."""
    keys = np.array([f"{number:032x}" for number in range(len(images))], "S32")
    return b"".join(
        encode_block(0, Block(images=Encoded.joined(images), keys=keys, labels=np.zeros(len(images), np.int32)))
    )


BOMBS = {
    "larger than the set": (png(6000, 6000), "block 0 holds images of 6000 px, the set says 66"),
    "larger than its bytes": (
        b"\x89PNG\r\n\x1a\n" + ihdr(30_000, 30_000),
        r"1 stored images of 30,000 px cannot be in 33 bytes",
    ),
    "larger by its second header": (
        png(LARGE, LARGE, more=ihdr(6000, 6000)),
        r"a stored image is RGB, 6000 x 6000 px, expected RGB, 66 x 66 px",
    ),
    "larger one way": (png(LARGE, 60_000), r"a stored image is RGB, 66 x 60000 px, expected RGB, 66 x 66 px"),
    "no PNG": (b"GIF89a" + bytes(40), r"block 0 holds images of 0 px|a stored image cannot be decoded"),
    "shorter than a header": (b"\x89PNG", "a stored image cannot be decoded .it has no header."),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_that_would_unpack_to_more_is_refused_before_it_does(name: str, tmp_path: Path) -> None:
    image, words = BOMBS[name]
    path = of_bytes(tmp_path, encoded(image), rows=1, size=LARGE)
    refused(path, words)


def test_a_bomb_behind_a_sound_image_is_refused(tmp_path: Path) -> None:
    path = of_bytes(tmp_path, encoded(png(LARGE, LARGE), png(6000, 6000)), rows=2, size=LARGE)
    with at_most(40 * MIB), pytest.raises(BlockDamaged, match="a stored image is RGB, 6000 x 6000 px, expected RGB"):
        Stream(LocalBlocks(open_folder(path)), batch_size=2).read(0, 0)


IMPOSSIBLE = {
    "outside its file": ({"offset": 1 << 40}, "block 0 would not lie inside"),
    "before its file": ({"offset": -1}, "block 0 would not lie inside"),
    "longer than its file": ({"bytes": 1 << 60}, "block 0 would not lie inside"),
    "of more images than bytes": ({"rows": 1 << 30}, r"cannot hold 1,073,741,824 images of 4 px"),
    "of no images": ({"rows": 0}, "block 0 would not lie inside"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_index_that_cannot_be_true_is_refused(name: str, tmp_path: Path) -> None:
    changes, words = IMPOSSIBLE[name]
    shard = write_shard(tmp_path, "shards/000000.tar", [make.block(3)], split="all", first_block=0)
    block = BlockFacts(**{**asdict(shard.blocks[0]), **changes})
    refused(sealed(tmp_path, [replace(shard, rows=block.rows, blocks=(block,))]), words)


def test_an_index_of_more_rows_than_bytes_is_refused_unread(tmp_path: Path) -> None:
    """A hundred million rows in some hundred kB."""
    folder = make.write_store(tmp_path, [[3]])
    (row,) = [shard.as_json() for shard in folder.shards]
    table = pa.Table.from_pylist([row], schema=pq.read_schema(folder.path / "shards.parquet"))
    many = table.take(pa.array(np.zeros(1_000_000, np.int64)))
    with_index(folder, lambda path: pq.write_table(many, path, compression="zstd"))
    assert (folder.path / "shards.parquet").stat().st_size < MIB
    refused(folder.path, "shards.parquet is damaged: it says it holds 1,000,000 rows")


def with_index(folder: ShardFolder, write: Callable[[Path], object]) -> None:
    """Another index, whose hash is the one that the document gives."""
    path = folder.path / "shards.parquet"
    write(path)
    data = path.read_bytes()
    files = [
        FileFacts(name=name, bytes=(folder.path / name).stat().st_size, sha256=sha256, rows=0)
        for name, sha256 in folder.document["contents"].items()
        if name != path.name
    ]
    files.append(FileFacts(name=path.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=1))
    seal(folder.path, {"size": folder.size}, kind="store", files=files, fingerprint="f")


@pytest.mark.parametrize("length", [0, 4, 1000, (1 << 31) - 1, (1 << 32) - 1])
def test_a_footer_of_any_length_is_refused(tmp_path: Path, length: int) -> None:
    folder = make.write_store(tmp_path, [[3]])
    with_index(folder, lambda path: path.write_bytes(b"PAR1" + bytes(100) + struct.pack("<I", length) + b"PAR1"))
    refused(folder.path, r"shards.parquet is damaged or no Parquet file")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return make.write_store(tmp_path_factory.mktemp("store"), [[3, 2], [4]])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_index_is_refused_in_words_or_is_an_index(store: ShardFolder, edits: list[tuple[float, int]]) -> None:
    """Bytes changed at random, with a hash that agrees."""
    data = bytearray((store.path / "shards.parquet").read_bytes())
    for at, value in edits:
        data[int(at * len(data))] = value
    with pytest.MonkeyPatch.context() as patch, at_most(60 * MIB):
        patch.setattr(shards.index, "check_index", lambda path, document: None)
        other = store.path.parent / "fuzzed"
        (other / "shards").mkdir(parents=True, exist_ok=True)
        (other / "store.json").write_bytes((store.path / "store.json").read_bytes())
        (other / "shards.parquet").write_bytes(data)
        try:
            folder = open_folder(other)
        except TransfersetError as error:
            assert str(other) in str(error)  # noqa: PT017  # or it is an index after all
        else:
            assert folder.rows() >= 0


few = st.one_of(st.integers(-2, 2000), st.sampled_from([(1 << 31) - 1, -(1 << 31)]))  # int32, as the columns are
numbers = st.one_of(few, st.sampled_from([1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]))
blocks_of = st.builds(
    BlockFacts, block=few, rows=few, offset=numbers, bytes=numbers, xxh3=st.sampled_from(["", "0" * 16, "é\n"])
)
names = st.sampled_from(
    ["shards/000000.tar", "", ".", "..", "/etc/passwd", "a\0b", "shards", "C:x", "a/../../b", "x" * 300]
)


@settings(max_examples=100, deadline=None)
@given(facts=st.lists(st.tuples(names, numbers, few, st.lists(blocks_of, max_size=3)), max_size=3))
def test_any_facts_are_refused_in_words_or_read(
    store: ShardFolder, facts: list[tuple[str, int, int, list[BlockFacts]]]
) -> None:
    """An index that says anything at all, as its own set says it: nothing but our errors, and no memory taken."""
    with pytest.MonkeyPatch.context() as patch, at_most(60 * MIB):
        patch.setattr(os, "fsync", lambda descriptor: None)
        shard_facts = [
            ShardFacts(name=name, split="all", bytes=size, sha256="0" * 64, rows=rows, blocks=tuple(blocks))
            for name, size, rows, blocks in facts
        ]
        other = store.path.parent / "facts"
        (other / "shards").mkdir(parents=True, exist_ok=True)
        (other / "shards" / "000000.tar").write_bytes((store.path / "shards" / "000000.tar").read_bytes())
        try:
            sealed(other, shard_facts)
            Stream(LocalBlocks(open_folder(other)), batch_size=1, tail="short", on_damage="skip").read(0, 0)
        except TransfersetError as error:
            assert str(error)  # noqa: PT017
        verdict_or_error(other)


def verdict_or_error(path: Path) -> None:
    try:
        verify(path)
    except TransfersetError as error:
        assert str(error)  # noqa: PT017


descriptions = st.sampled_from(
    ["|u1", "<i8", "|S32", "<i4", "|O", "<f2", "<M8[s]", "|V0", "|S0", "[('a', '|u1')]", "nonsense"]
)
dims = st.one_of(st.integers(-2, 4), st.sampled_from([1 << 31, 1 << 62, 10**40]))
arrays = st.builds(
    lambda descr, shape, payload: stated(repr(tuple(shape)), descr) + payload,
    descriptions,
    st.lists(dims, max_size=5),
    st.binary(max_size=200),
)
payloads = st.one_of(arrays, st.binary(max_size=200), st.just(npy(make.images(1))), st.just(npy(make.block(1).keys)))
member_names = st.sampled_from(
    [f"0.{name}.npy" for name in ("images", "images.bytes", "images.offsets", "keys", "labels", "logits", "x")]
    + ["é", ""]
)


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.tuples(member_names, payloads, st.one_of(st.none(), numbers)), max_size=5),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    cut=st.floats(0, 1),
)
def test_any_bytes_are_a_block_or_a_value_error(
    parts: list[tuple[str, bytes, int | None]], edits: list[tuple[float, int]], cut: float
) -> None:
    """Members that state anything, over a sound block or alone, with sound tar checksums; then bytes changed."""
    made = [(member(name, payload), size) for name, payload, size in parts]
    data = bytearray(b"".join(part if size is None else resized(part, size) for part, size in made) + WHOLE)
    for at, value in edits:
        data[int(at * len(data))] = value
    with at_most(4 * MIB):
        try:
            block = decode_block(bytes(data[: int(cut * len(data))] if cut < 0.5 else data))  # mostly whole
            images_NCHW = block.images_NCHW
        except (ValueError, BlockDamaged):
            return
    assert len(images_NCHW) == len(block.keys) == len(block.labels) == len(block)
    assert (images_NCHW.ndim, images_NCHW.shape[1], images_NCHW.dtype.name) == (4, 3, "uint8")


def test_a_document_of_any_length_is_refused_unread(tmp_path: Path) -> None:
    folder = make.write_store(tmp_path, [[3]])
    os.truncate(folder.path / "store.json", 1 << 30)  # takes no room
    with at_most(200 * MIB), pytest.raises(IntegrityError, match=r"store.json is damaged: not the document that was"):
        open_folder(folder.path)


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6, '{"contents": ' + "[" * 10**5, "9" * 10**6])
@pytest.mark.parametrize("name", ["store.json", "commits/store.json"])
def test_a_document_of_any_depth_is_refused(tmp_path: Path, name: str, text: str) -> None:
    folder = make.write_store(tmp_path, [[3]])
    (folder.path / name).write_text(text)
    refused(folder.path, r"store.json is damaged|has no commit record 'store'")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "transfer-set"),
        ("kind", 3),
        ("id", None),
        ("size", 0),
        ("size", -4),
        ("size", 10**9),
        ("size", True),
        ("size", "4"),
        ("size", 4.5),
        ("contents", []),
        ("contents", {"shards.parquet": 3}),
        ("contents", {"../../outside": "00"}),
    ],
)
def test_a_document_of_other_kinds_is_refused(tmp_path: Path, field: str, value: object) -> None:
    folder = make.write_store(tmp_path, [[3]])
    (folder.path / "store.json").write_text(json.dumps({**folder.document, field: value}))
    refused(folder.path, r"store.json is damaged: kind, id, size or contents is not what was written; make it again")


def test_a_link_is_followed_and_what_it_leads_to_is_checked(tmp_path: Path) -> None:
    """Caches keep files elsewhere and link to them; bytes that are not the shard's are not handed out, whosever."""
    folder = make.write_store(tmp_path / "set", [[3]])
    tar, elsewhere = folder.path / folder.shards[0].name, tmp_path / "blob"
    tar.rename(elsewhere)
    tar.symlink_to(elsewhere)
    assert verify(folder.path).problems == ()
    sound = Stream(LocalBlocks(folder), batch_size=3).read(0, 0)
    assert sorted(sound.keys) == sorted(make.block(3).keys)
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(elsewhere.stat().st_size))
    tar.unlink()
    tar.symlink_to(secret)
    refused(folder.path, r"000000.tar: block 0 is damaged")


@pytest.mark.parametrize("name", ["shards/000000.tar", "shards.parquet", "samples.parquet"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = make.write_store(tmp_path, [[3]])
    (folder.path / name).unlink()
    os.mkfifo(folder.path / name)
    refused(folder.path, f"{name} (is missing|holds 0 bytes)")
    with pytest.raises(IntegrityError, match=r"is missing|no block is good|holds 0 bytes"):
        Stream(LocalBlocks(open_folder(folder.path)), batch_size=1, on_damage="skip", max_bad=1.0).read(0, 0)


@pytest.mark.parametrize("name", ODD)
def test_folders_of_any_name_are_read_and_named(tmp_path: Path, name: str) -> None:
    folder = make.write_store(tmp_path / name, [[3, 1]])
    assert verify(folder.path).problems == ()
    assert len(Stream(LocalBlocks(open_folder(folder.path)), batch_size=4).read(0, 0).keys) == 4
    (folder.path / "shards" / "000000.tar").unlink()
    with pytest.raises(BlockDamaged) as caught:
        Stream(LocalBlocks(open_folder(folder.path)), batch_size=4)
    assert str(folder.path / "shards" / "000000.tar") in str(caught.value)


def test_keys_of_any_letters_are_handed_out_as_they_are(tmp_path: Path) -> None:
    images = make.images(len(ODD))
    keys = np.array([name.encode() for name in ODD], "S32")
    block = Block(images=images, keys=keys, labels=np.zeros(len(ODD), np.int32))
    shard = write_shard(tmp_path, "shards/000000.tar", [block], split="all", first_block=0)
    rows = [make.sample(name, "one", image_CHW=images[row], shard=0, block=0, row=row) for row, name in enumerate(ODD)]
    files = [committed(shard), write_index(tmp_path, [shard], provenance=make.MADE)]
    files.append(make.write_rows(tmp_path, SAMPLES, sorted(rows, key=lambda row: row["key"]), made=make.MADE))
    seal(tmp_path, {"size": make.SIZE}, kind="store", files=files, fingerprint="f")
    assert verify(tmp_path).problems == ()
    stream = Stream(LocalBlocks(open_folder(tmp_path)), batch_size=len(ODD), shuffle=False)
    assert [key.decode() for key in next(stream).keys.tolist()] == ODD


def test_no_reader_unpickles_or_asks_webdataset() -> None:
    """Nor anything else in this room: what is not there cannot be reached by a file that means harm."""
    forbidden = {"pickle", "shelve", "marshal", "dill", "joblib", "webdataset"}
    for path in Path(shards.index.__file__).parent.rglob("*.py"):
        text = path.read_text()
        tree = ast.parse(text)
        imported = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        imported |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not imported & forbidden, path
        words = {k.arg: k.value for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords}
        allowed = words.get("allow_pickle")
        assert allowed is None or (isinstance(allowed, ast.Constant) and allowed.value is False), path
        called = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
        assert not {"system", "popen"} & called, path
