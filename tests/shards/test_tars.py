"""The walk over tars of samples: as tarfile sees them where they are whole, refused in words where they are not."""

import bz2
import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ShardError, TarDamaged
from shards.tars import Member, group, images_of, index_tar, label_text
from tests.curate.make import write_tar

NAMES = ("a.jpg", "n01/b c.png", "n#1?/é.jpg", "./dot.webp", "x.tar", "deep/" * 30 + "k.jpg", "." + "é" * 99 + ".png")
SIMPLE = {"a.jpg": b"A" * 512, "a.cls": b"1", "n1/b.jpg": b"B" * 700, "n1/b.cls": b"3", "c.jpg": b"C"}


def by_tarfile(path: Path) -> list[Member]:
    with tarfile.open(path) as tar:
        return [Member(i.name.removeprefix("./"), i.offset_data, i.size, None) for i in tar if not i.isdir()]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(tmp_path: Path, form: int) -> None:
    names = NAMES if form != tarfile.USTAR_FORMAT else NAMES[:-1]  # too long for it
    with tarfile.open(tmp_path / "t.tar", "w", format=form, pax_headers={"comment": "of the whole"}) as tar:
        for number, name in enumerate(names):
            if number % 2:
                folder = tarfile.TarInfo(f"folder {number}")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
            info = tarfile.TarInfo(name)
            info.size = 300 * number
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    members = index_tar(tmp_path / "t.tar").members
    assert members == by_tarfile(tmp_path / "t.tar")
    assert [member.size for member in members] == [300 * number for number in range(len(names))]
    data = (tmp_path / "t.tar").read_bytes()
    assert data[members[3].offset : members[3].offset + members[3].size] == b"\3" * 900


def test_a_name_that_is_not_utf8_and_an_old_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {"old": b"", "k.jpg": b"k"})
    data = bytearray((tmp_path / "t.tar").read_bytes())
    for header, name, type_ in ((0, b"old/", tarfile.AREGTYPE), (512, b"\xff.jpg", tarfile.REGTYPE)):
        data[header : header + 5] = name.ljust(5, b"\0")
        data[header + 156 : header + 157] = type_
        patch_checksum(data, header)
    (tmp_path / "t.tar").write_bytes(data)
    assert [member.name for member in index_tar(tmp_path / "t.tar").members] == ["\udcff.jpg"]


def patch_checksum(data: bytearray, header: int) -> None:
    data[header + 148 : header + 156] = b" " * 8
    data[header + 148 : header + 156] = f"{sum(data[header : header + 512]):06o}\0 ".encode()


def test_what_is_no_plain_content_says_so(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, type_ in (("s.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE), ("f.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, "/etc/passwd"
            tar.addfile(info)
        sparse = tarfile.TarInfo("z.jpg")
        sparse.size, sparse.pax_headers = 4, {"GNU.sparse.map": "0,4", "GNU.sparse.size": "9000"}
        tar.addfile(sparse, io.BytesIO(b"data"))
        plain = tarfile.TarInfo("k.jpg")
        tar.addfile(plain)
    errors = {member.name: member.error for member in index_tar(tmp_path / "t.tar").members}
    assert errors == {
        "s.jpg": "a link in the tar, not plain content",
        "h.jpg": "a link in the tar, not plain content",
        "f.jpg": "a special file in the tar, not plain content",
        "z.jpg": "a sparse file in the tar, not plain content",
        "k.jpg": None,
    }


def test_no_cut_is_silently_shorter(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", SIMPLE)
    whole, intact = path.read_bytes(), index_tar(path)
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512 + 1024  # of the end marker
    for cut in [*range(0, len(whole), 512), *range(1, end, 101)]:
        path.write_bytes(whole[:cut])
        if cut >= end:
            assert index_tar(path) == intact
        else:
            with pytest.raises(TarDamaged, match=rf"damaged tar {path} at byte \d+: .*; images may be missing, so fe"):
                index_tar(path)


@pytest.mark.parametrize("header", [0, 1024])
def test_no_flipped_bit_of_a_header_is_silently_another_tar(tmp_path: Path, header: int) -> None:
    path = write_tar(tmp_path / "t.tar", SIMPLE)
    whole, intact = path.read_bytes(), index_tar(path)
    refused = 0
    for bit in range(0, 512 * 8, 3):  # one or two of every byte
        damaged = bytearray(whole)
        damaged[header + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert index_tar(path).members == intact.members, bit
        except TarDamaged:
            refused += 1
    assert refused > 1360  # of 1,366: all but a few in the padding of the checksum itself


def overwritten(at: int, data: bytes) -> Callable[[bytearray], None]:
    def work(whole: bytearray) -> None:
        whole[at : at + len(data)] = data
        patch_checksum(whole, at // 512 * 512)

    return work


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (overwritten(124, b"77777777777\0"), "at byte 0: unexpected end of data"),  # of 8 GB
        (overwritten(124, b"-0000001000\0"), "at byte 0: a member that ends before it begins"),
        (overwritten(124, b"\x80" + b"\0" * 4 + b"\1" * 7), "at byte 0: unexpected end of data"),
        (overwritten(124, b"\xff" * 12), "at byte 0: a member that ends before it begins"),  # -1 in base 256
        (overwritten(1024 + 156, b"x"), "at byte 1024: expected a member or the end marker, found something else"),
        (overwritten(1024 + 156, b"L"), "at byte 1024: expected a member or the end marker, found something else"),
    ],
)
def test_headers_that_lie(tmp_path: Path, damage: Callable[[bytearray], None], words: str) -> None:
    path = write_tar(tmp_path / "t.tar", {"a.jpg": b"A" * 512, "b.jpg": b"\0" * 512})
    whole = bytearray(path.read_bytes())
    damage(whole)
    path.write_bytes(whole)
    with pytest.raises(TarDamaged, match=words):
        index_tar(path)


@pytest.mark.parametrize("type_", [b"x", b"g", b"L", b"K", b"S"])
def test_a_header_of_headers_costs_no_more_than_the_file(tmp_path: Path, type_: bytes) -> None:
    path = write_tar(tmp_path / "t.tar", {"a.jpg": b"A" * 512})
    whole = bytearray(path.read_bytes())
    whole[156:157] = type_
    whole[124:136] = b"\x80" + (1 << 62).to_bytes(11, "big")
    patch_checksum(whole, 0)
    path.write_bytes(whole)
    with pytest.raises(TarDamaged, match=r"damaged tar .* at byte 0"):
        index_tar(path)


def test_damage_anywhere_is_refused_or_seen_as_tarfile_sees_it_at_least(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("é.jpg", "plain.jpg", "deep/" * 40 + "k.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    whole, generator, refused = path.read_bytes(), np.random.default_rng(0), 0
    content = len(whole.rstrip(b"\0")) + 512
    for number in range(600):
        damaged = bytearray(whole)
        for at in generator.integers(0, content, 1 + number % 3).tolist():
            damaged[at] = generator.integers(256)
            patch_checksum(damaged, at // 512 * 512)
        path.write_bytes(damaged)
        try:
            members = index_tar(path).members
        except TarDamaged:
            refused += 1
            continue
        theirs = by_tarfile(path)  # which may end before time: at a bad uid, say
        assert [member[:3] for member in members[: len(theirs)]] == [member[:3] for member in theirs]
    assert 0 < refused < 600


def test_a_damaged_header_is_named_by_its_byte(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", SIMPLE)
    whole = path.read_bytes()
    header = whole.index(b"n1/b.jpg")
    path.write_bytes(whole[:header] + b"\xff" + whole[header + 1 :])
    with pytest.raises(
        TarDamaged, match=rf"^damaged tar {path} at byte {header}: expected a member or the end marker, "
    ):
        index_tar(path)
    path.write_bytes(whole[:header])
    with pytest.raises(
        TarDamaged, match=rf"at byte {header}: the file ends without the end marker of a tar; images may"
    ):
        index_tar(path)
    path.write_bytes(whole + whole)  # joined by `cat`: the second would never be seen
    with pytest.raises(TarDamaged, match="expected a member or the end marker, found something else"):
        index_tar(path)
    path.write_bytes(b"")
    with pytest.raises(TarDamaged, match=r"at byte 0: the file ends without the end marker of a tar"):
        index_tar(path)


@pytest.mark.parametrize(("kind", "compress"), [("gzip", gzip.compress), ("bzip2", bz2.compress)])
def test_compressed_tars_are_refused(tmp_path: Path, kind: str, compress: Callable[[bytes], bytes]) -> None:
    path = write_tar(tmp_path / "t.tar", SIMPLE)
    path.write_bytes(compress(path.read_bytes()))
    with pytest.raises(
        ShardError, match=rf"t.tar is compressed \({kind}\); only plain tars can be read, so decompress"
    ):
        index_tar(path)


def test_the_hash_is_of_headers_alone(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", SIMPLE)
    known = index_tar(path).sha256
    data = bytearray(path.read_bytes())
    data[512] ^= 1  # of a payload
    path.write_bytes(data)
    assert index_tar(path).sha256 == known
    data[136:147] = b"00000000001"  # time of change
    patch_checksum(data, 0)
    path.write_bytes(data)
    assert index_tar(path).sha256 != known


def test_samples_are_members_that_share_a_key() -> None:
    names = [
        "x/a.b/k.left.PNG",
        "x/a.b/k.json",
        "x/a.b/k.right.png",
        "README",
        ".hidden.jpg",
        "k.txt",
        "k.txt",
        "k.TXT",
    ]
    found = group(Member(name, 0, 0, None) for name in names)
    assert [(key, sorted(sample)) for key, sample in found] == [
        ("x/a.b/k", ["json", "left.png", "right.png"]),
        *[("k", ["txt"])] * 3,
    ]
    assert [image.name for image in images_of(found[0][1])] == ["x/a.b/k.left.PNG", "x/a.b/k.right.png"]
    assert images_of(found[1][1]) == []


@pytest.mark.parametrize(
    ("content", "is_json", "label"),
    [
        (b" 7\n", False, "7"),
        (b"", False, None),
        (b'{"label": 7}', True, "7"),
        (b'{"cls": "cat"}', True, "cat"),
        (b'{"label": null, "cls": 3}', True, "3"),
        (b'{"label": [1]}', True, None),
        (b"[1]", True, None),
        (b"{", True, None),
        (b"[" * 100_000, True, None),
        (b"9" * 10_000, True, None),
        (b"\xff", False, "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_what_a_member_states_for_a_label(content: bytes, is_json: bool, label: str | None) -> None:
    assert label_text(content, is_json=is_json) == label


def test_no_more_than_headers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "t.tar", {f"{n}.jpg": bytes(100_000) for n in range(50)})
    lengths: list[int] = []
    real = os.pread

    def counted(file: int, length: int, offset: int) -> bytes:
        data = real(file, length, offset)
        lengths.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    assert len(index_tar(path).members) == 50
    assert sum(lengths) < 100 * 512
