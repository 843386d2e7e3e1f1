"""The bytes of a block: any tar reader reads them, the same images give the same ones, and nonsense is refused."""

import gc
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import BlockDamaged
from shards.layout import KEY_DTYPE, Block, block_rows, decode_block, shard_name, shard_rows
from shards.layout import encode_block as pieces_of_block
from shards.write import write_shard
from tests.shards import make

RAW, ENCODED = 64, 66  # px: the largest that is stored as it is, and one above it


def encode_block(number: int, block: Block) -> bytes:
    return b"".join(pieces_of_block(number, block))


SMALL, SMALL_ENCODED = encode_block(7, make.block(3)), encode_block(7, make.block(2, size=ENCODED))


def same(one: Block, other: Block) -> bool:
    pairs = ((one.images_NCHW, other.images_NCHW), (one.keys, other.keys), (one.labels, other.labels))
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def member(name: str, payload: bytes) -> bytes:
    """One tar member, padded, without the end of the archive."""
    info = tarfile.TarInfo(name)
    info.size = len(payload)
    return info.tobuf() + payload + bytes(-len(payload) % tarfile.BLOCKSIZE)


def npy(array: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array), allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize("size", [1, make.SIZE, RAW, ENCODED])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_block_comes_back_without_loss(size: int, rows: int) -> None:
    block = make.block(rows, size=size)
    data = encode_block(0, block)
    assert same(decode_block(data), block)
    assert len(data) % tarfile.BLOCKSIZE == 0


@pytest.mark.parametrize("size", [make.SIZE, ENCODED])
def test_the_same_images_give_the_same_bytes(size: int) -> None:
    block = make.block(3, size=size)
    strided = Block(
        images=np.asfortranarray(block.images_NCHW),
        keys=block.keys.astype("S40"),
        labels=block.labels.astype(np.int64),
    )
    assert encode_block(2, strided) == encode_block(2, block)
    assert encode_block(3, block) != encode_block(2, block)


@pytest.mark.parametrize(
    ("size", "stored"), [(RAW, ["images.npy"]), (ENCODED, ["images.bytes.npy", "images.offsets.npy"])]
)
def test_a_shard_is_a_plain_tar_with_fixed_metadata(tmp_path: Path, size: int, stored: list[str]) -> None:
    write_shard(tmp_path, "a.tar", [make.block(2, size=size), make.block(1, size=size)], split="all", first_block=41)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    names = [*stored, "keys.npy", "labels.npy"]
    assert [m.name for m in members] == [f"{n:06d}.{name}" for n in (41, 42) for name in names]
    assert {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0o444, 0, 0, "", "")}
    assert (tmp_path / "a.tar").stat().st_size % tarfile.RECORDSIZE == 0


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset

    monkeypatch.setattr(webdataset.utils, "enforce_security", True)
    blocks = [make.block(3, seed=1), make.block(2, seed=2), make.block(2, seed=3)]
    write_shard(tmp_path, "train-000000.tar", blocks[:2], split="train", first_block=0)
    write_shard(tmp_path, "train-000001.tar", blocks[2:], split="train", first_block=2)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in found] == ["000000", "000001", "000002"]
    for sample, block in zip(found, blocks, strict=True):
        read = Block(images=sample["images.npy"], keys=sample["keys.npy"], labels=sample["labels.npy"])
        assert same(read, block)
    gc.collect()  # webdataset leaves its files open: they are closed here, not in somebody else's test


def test_shards_are_whole_blocks_of_about_64_mb() -> None:
    for size in (8, 32, 64, 65, 224, 512):
        rows = shard_rows(size)
        assert rows % block_rows(size) == 0
        assert 0.7 < rows * 3 * size * size / 2**26 <= 1 or size == 512
    assert shard_rows(2000) == block_rows(2000)  # one block is the least, however large it is


def test_names_are_padded_and_say_the_split() -> None:
    assert [shard_name(3), shard_name(12, "train")] == ["shards/000003.tar", "shards/train-000012.tar"]


@settings(max_examples=60, deadline=None)
@given(whole=st.sampled_from([SMALL, SMALL_ENCODED]), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_a_value_error_or_other_pixels(whole: bytes, at: float, bit: int) -> None:
    data = bytearray(whole)
    data[int(at * len(data))] ^= 1 << bit
    try:
        block = decode_block(bytes(data))
        block.images_NCHW  # noqa: B018  # encoded ones are decoded now
    except (ValueError, BlockDamaged):
        return
    assert len(block.images_NCHW) == len(block.keys) == len(block.labels)


KEYS, LABELS = make.block(2).keys, np.zeros(2, np.int32)
REST = member("0.keys.npy", npy(KEYS)) + member("0.labels.npy", npy(LABELS))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 1024,
        bytes(range(256)) * 8,
        SMALL[:100],
        SMALL[: tarfile.BLOCKSIZE],
        SMALL[:-700],
        member("noextension", b"x"),
        member("0.images.npy", b"no npy") + REST,
        member("0.images.npy", SMALL[512:600].replace(b"}", b"(")) + REST,  # NumPy: tokenize.TokenError
        member("0.images.npy", SMALL[512:600].replace(b"'shape':", b"'shape',,")) + REST,  # NumPy: SyntaxError
        member("0.images.npy", npy(make.images(3))) + REST,
        member("0.images.bytes.npy", npy(np.zeros(9, np.uint8)))
        + member("0.images.offsets.npy", npy(np.array([0, 4, 8])))
        + REST,
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        decode_block(data)


def test_images_that_cannot_be_decoded_are_refused_when_they_are_asked_for() -> None:
    blob, offsets = npy(np.zeros(9, np.uint8)), npy(np.array([0, 4, 9]))
    block = decode_block(member("0.images.bytes.npy", blob) + member("0.images.offsets.npy", offsets) + REST)
    with pytest.raises(BlockDamaged, match="a stored image cannot be decoded"):
        _ = block.images_NCHW


class Trap:
    """Says when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize("payload", [npy(np.array([Trap()], dtype=object)), pickle.dumps(Trap())])
def test_a_pickled_member_is_refused_and_not_run(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a block"):
        decode_block(member("0.images.npy", payload) + REST)
    assert not Trap.sprung


def test_keys_are_as_wide_as_a_content_key() -> None:
    assert make.block(1).keys.dtype == KEY_DTYPE
    assert len(make.block(1).keys[0]) == KEY_DTYPE.itemsize
