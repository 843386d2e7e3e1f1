"""Ingest: a row for every sample, pixels where the rows say, the same bytes whatever happened on the way."""

import errno
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curate import ingest as ingest_module
from curate.corpora import Corpus, open_corpus
from curate.corpora import base as corpora_base
from curate.corpora.base import Item, Part
from curate.errors import CorpusDamaged, CorpusEmpty
from curate.ingest import IngestResult, in_order, ingest, unread
from manifests.commit import exclusive
from manifests.errors import Busy
from manifests.keys import content_key, pixel_hash, unreadable_key
from manifests.progress import Advance, Progress
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards import layout
from shards.errors import ShardError
from shards.index import ShardFolder, open_store
from shards.read import read_shard
from shards.verify import verify
from tests.curate.make import SIZE, contents, encode, picture, pictures, write_folder, write_tar

PART = 4  # items a part, so that a small corpus has several
BLOCK = 3


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora_base, "PART_SIZE", PART)
    monkeypatch.setattr(ingest_module, "block_rows", lambda size: BLOCK)
    monkeypatch.setattr(ingest_module, "CHUNK", 2)


def messy(root: Path) -> Path:
    """Thirteen files: pictures, the same bytes and the same pixels again across parts, and four that are damaged."""
    one, two = picture(1), picture(2)
    files = {
        "a/00.png": encode(one),
        "a/01.bmp": encode(one, "BMP"),
        "a/02.png": encode(two),
        "a/03.jpg": b"",
        "b/04.png": encode(one),
        "b/05.jpg": b"a text",
        "b/06.png": encode(picture(3))[:60],
        "b/07.png": encode(picture(4, height=40, width=30)),
        "c/08.jpg": b"",
        "c/09.png": encode(one),
        "c/10.png": encode(picture(5, height=2, width=30)),
        "c/11.png": encode(two),
        "d/12.gif": encode(picture(6) // 64 * 64, "GIF"),
    }
    return write_folder(root, files)


STATUSES = {"ok": 4, "duplicate": 4, "decode_error": 4, "too_small": 1}


def run(corpus: Corpus | Path | str, work: Path, **options: Any) -> IngestResult:
    source = corpus if not isinstance(corpus, Path | str) else open_corpus(f"c={corpus}")
    return ingest(source, size=SIZE, work=work, **options)


def telling(told: list[int]) -> Progress:
    """A progress that writes down what it is told."""

    @contextmanager
    def progress(label: str, total: int, *, unit: str = "images") -> Iterator[Advance]:
        assert (label, unit) == ("ingest c", "images")
        yield told.append

    return progress


def rows_of(store: ShardFolder) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_manifest(store.path, SAMPLES).to_pylist()
    return sorted(rows, key=lambda row: str(row["uri"]))


def undo(store: Path, *units: str) -> None:
    for unit in units:
        (store / "commits" / f"{unit}.json").unlink()


# --------------------------------------------------------------------------------------------------- what is written


def test_every_sample_has_one_row_and_its_status(tmp_path: Path) -> None:
    told: list[int] = []
    result = run(messy(tmp_path / "in"), tmp_path, progress=telling(told))
    rows = rows_of(result.store)
    root = tmp_path / "in"
    assert [row["uri"] for row in rows] == sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*"))
    assert [row["status"] for row in rows] == [
        *("ok", "duplicate", "ok", "decode_error"),
        *("duplicate", "decode_error", "decode_error", "ok"),
        *("decode_error", "duplicate", "too_small", "duplicate"),
        "ok",
    ]
    assert len({row["key"] for row in rows}) == len(rows) == result.decoded == sum(told) == 13
    assert all((row["error"] is None) == (row["status"] in {"ok", "duplicate"}) for row in rows)
    assert result.store.document["statuses"] == STATUSES
    assert result.store.document["seen"] == 13
    assert {row["source_label"] for row in rows} == {"a", "b", "c", "d"}
    assert [(row["width"], row["height"]) for row in rows if "07" in row["uri"]] == [(30, 40)]


def test_the_key_of_the_same_bytes_counts_across_parts(tmp_path: Path) -> None:
    rows = rows_of(run(messy(tmp_path / "in"), tmp_path).store)
    key = {row["uri"][2:4]: row["key"] for row in rows}
    data = encode(picture(1))
    assert [key[n] for n in ("00", "04", "09")] == [content_key(data, n) for n in range(3)]
    assert [key[n] for n in ("03", "08")] == [content_key(b"", n) for n in range(2)]
    original = {row["uri"][2:4]: row["duplicate_of"] for row in rows if row["duplicate_of"]}
    assert original == {"01": key["00"], "04": key["00"], "09": key["00"], "11": key["02"]}


def test_pixels_lie_where_the_rows_say_duplicates_too(tmp_path: Path) -> None:
    store = run(messy(tmp_path / "in"), tmp_path).store
    stored = {
        (number, block, row): (key.decode(), image)
        for number, shard in enumerate(store.shards)
        for block, found in enumerate(read_shard(store.path, shard))
        for row, (key, image) in enumerate(zip(found.keys, found.images_NCHW, strict=True))
    }
    usable = [row for row in rows_of(store) if row["pixel_hash"]]
    assert len(stored) == store.rows() == len(usable) == STATUSES["ok"] + STATUSES["duplicate"]
    for row in usable:
        key, image = stored[row["shard"], row["block"], row["row"]]
        assert (key, pixel_hash(image)) == (row["key"], row["pixel_hash"])
    assert all(row["shard"] is row["block"] is row["row"] is None for row in rows_of(store) if not row["pixel_hash"])
    assert [len(shard.blocks) for shard in store.shards] == [1, 1, 1, 1]
    assert [b.block for shard in store.shards for b in shard.blocks] == [0, 1, 2, 3]
    assert verify(store.path).problems == ()
    assert open_store(store.path).id == store.id


def test_blocks_are_full_but_the_last_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora_base, "PART_SIZE", 8)
    store = run(write_folder(tmp_path / "in", pictures(11)), tmp_path).store
    assert [[b.rows for b in shard.blocks] for shard in store.shards] == [[3, 3, 2], [3]]


def test_what_could_not_be_read_is_named_by_its_place(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", pictures(2))
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    row = rows_of(run(root, tmp_path).store)[-1]
    assert (row["key"], row["status"]) == (unreadable_key("c", "gone.png"), "decode_error")
    assert row["error"]


def test_labels_are_numbers_where_the_corpus_states_an_order(tmp_path: Path) -> None:
    store = run(open_corpus("d=builtin:digits?n=7"), tmp_path).store
    rows = {row["key"]: row for row in rows_of(store)}
    classes = store.document["classes"]
    for shard in store.shards:
        for block in read_shard(store.path, shard):
            assert [classes[label] for label in block.labels] == [rows[k.decode()]["source_label"] for k in block.keys]
    plain = run(write_folder(tmp_path / "in", {"x/0.png": encode(picture(0))}), tmp_path).store
    assert [block.labels.tolist() for s in plain.shards for block in read_shard(plain.path, s)] == [[-1]]
    assert plain.document["classes"] is None
    assert (plain.document["builtin"], store.document["builtin"]) == (False, True)


def test_a_part_without_a_single_picture(tmp_path: Path) -> None:
    files = {f"{n}.png": b"" for n in range(PART)} | {"9.png": encode(picture(0))}
    store = run(write_folder(tmp_path / "in", files), tmp_path).store
    assert [shard.rows for shard in store.shards] == [0, 1]
    assert verify(store.path).problems == ()


def test_a_file_is_what_its_bytes_say(tmp_path: Path) -> None:
    image = picture(0)
    files = {"a.jpg": encode(image), "b.png": encode(image, "BMP"), "c.gif": b"not a picture", "d.tif": b"%PDF-1.4\n"}
    rows = rows_of(run(write_folder(tmp_path / "in", files), tmp_path).store)
    assert [row["status"] for row in rows] == ["ok", "duplicate", "decode_error", "decode_error"]
    assert [row["error"] for row in rows[2:]] == ["not an image of a known format"] * 2


def test_the_resize_rule_is_recorded_and_makes_another_store(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", {"a.png": encode(picture(0, height=20, width=33))})
    stores = {rule: run(root, tmp_path, resize=rule).store for rule in ("antialias", "box", "plain", "imagenet")}
    assert len({store.path for store in stores.values()}) == len({rows_of(s)[0]["pixel_hash"] for s in stores.values()})
    assert len({store.document["transform"] for store in stores.values()}) == 4
    assert run(root, tmp_path).store == stores["antialias"]  # the default
    with pytest.raises(ShardError, match="no resize rule is called 'nearest'; expected one of antialias, box"):
        run(root, tmp_path, resize="nearest")


# ------------------------------------------------------------------------------------------------ what cannot be read


class Moody:
    """A corpus of which some samples cannot be read, some of the time."""

    classes, builtin, name = None, False, "c"

    def __init__(self, corpus: Corpus, *missing: str) -> None:
        self._corpus, self.spec = corpus, corpus.spec
        self.missing = missing

    def identity(self) -> str:
        return self._corpus.identity()

    def parts(self) -> list[Part]:
        return self._corpus.parts()

    def read(self, part: Part) -> Iterator[Item]:
        for item in self._corpus.read(part):
            gone = item.uri in self.missing
            yield Item(uri=item.uri, data=None, error="unreadable: I/O", unreadable=True) if gone else item


def test_what_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    root = messy(tmp_path / "in")
    whole = contents(run(root, tmp_path / "whole").store.path)
    moody = Moody(open_corpus(f"c={root}"), "b/04.png", "c/09.png")
    first = run(moody, tmp_path)
    assert (first.decoded, first.unreadable) == (13, 2)
    assert first.reasons == ("b/04.png: I/O", "c/09.png: I/O")
    row = {row["uri"]: row for row in rows_of(first.store)}["b/04.png"]
    assert (row["status"], row["error"]) == ("unreadable", "unreadable: I/O")
    assert row["key"] == unreadable_key("c", "b/04.png")
    assert first.store.document["statuses"]["unreadable"] == 2
    left = contents(first.store.path)
    again = run(moody, tmp_path)
    assert (again.decoded, again.unreadable, again.reasons) == (0, 2, first.reasons)  # nothing has changed
    assert contents(first.store.path) == left
    moody.missing = ("c/09.png",)
    some = run(moody, tmp_path)
    assert (some.decoded, some.unreadable, some.reasons) == (9, 1, ("c/09.png: I/O",))  # all but the first part
    moody.missing = ()
    assert run(moody, tmp_path).decoded == 5
    assert contents(first.store.path) == whole
    last = run(moody, tmp_path)
    assert (last.decoded, last.unreadable, last.reasons) == (0, 0, ())


def test_what_can_no_longer_be_read_once_a_store_is_finished_is_not_asked_for(tmp_path: Path) -> None:
    moody = Moody(open_corpus(f"c={messy(tmp_path / 'in')}"))
    run(moody, tmp_path)
    moody.missing = ("b/04.png",)
    assert run(moody, tmp_path).unreadable == 0


def test_what_a_person_is_told_of_the_unreadable(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", pictures(5))
    missing: list[list[str]] = [[], ["001.png"], ["002.png", "003.png", "004.png", "000.png"]]
    fine, bad, worse = (
        run(Moody(open_corpus(f"c={root}"), *names), tmp_path / f"{number}") for number, names in enumerate(missing)
    )
    assert unread([fine]) is None
    assert unread([fine, bad]) == (
        "1 sample could not be read (first: 001.png: I/O); mend what is wrong and run the same command again"
    )
    assert str(unread([fine, worse, bad])).startswith("5 samples could not be read (first: 000.png: I/O); mend")
    assert len(worse.reasons) == 3


def test_a_part_that_is_shorter_than_it_said(tmp_path: Path) -> None:
    """Its samples would be numbered wrongly, so it is refused; what came before is kept."""

    class Shrinking(Moody):
        def read(self, part: Part) -> Iterator[Item]:
            items = list(super().read(part))
            yield from items[:-1] if part.name == "part-000002" else items

    root = messy(tmp_path / "in")
    whole = contents(run(root, tmp_path / "whole").store.path)
    words = r"corpus 'c' \(folder:.*in\) changed while it was read: 3 of 4 samples in part-000002; run the same command"
    with pytest.raises(CorpusDamaged, match=words):
        run(Shrinking(open_corpus(f"c={root}")), tmp_path)
    after = run(root, tmp_path)
    assert after.decoded == 5
    assert contents(after.store.path) == whole


def test_an_error_of_the_system_says_which_corpus_it_is_about(tmp_path: Path) -> None:
    class Failing(Moody):
        def read(self, part: Part) -> Iterator[Item]:
            if part.name == "part-000001":
                raise OSError(errno.EIO, "Input/output error")
            return super().read(part)

    root = messy(tmp_path / "in")
    with pytest.raises(OSError, match=r"Input/output error: 'folder:.*in'"):
        run(Failing(open_corpus(f"c={root}")), tmp_path)
    assert run(root, tmp_path).decoded == 9


# ------------------------------------------------------------------------------------------------------ the same bytes


def test_threads_and_folder_change_no_byte(tmp_path: Path) -> None:
    root = messy(tmp_path / "in")
    written = [contents(run(root, tmp_path / f"work{n}", threads=n).store.path) for n in (1, 2, 3)]
    assert written[0] == written[1] == written[2]
    assert sum(name.endswith(".tar") for name in written[0]) == 4


@pytest.mark.parametrize(("number", "size"), [(1, 1 << 18), (32, 1), (3, 500)])
def test_the_pieces_that_threads_get_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, size: int
) -> None:
    root = messy(tmp_path / "in")
    whole = contents(run(root, tmp_path / "whole").store.path)
    monkeypatch.setattr(ingest_module, "CHUNK", number)
    monkeypatch.setattr(ingest_module, "CHUNK_BYTES", size)
    assert contents(run(root, tmp_path).store.path) == whole


def test_threads_give_their_results_in_order_and_are_not_far_ahead() -> None:
    asked = []

    def inputs() -> Iterator[int]:
        for number in range(40):
            asked.append(number)
            yield number

    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number % 7 == 0 else 0)
        return number

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(in_order(pool, slow_at_first, inputs(), ahead=5)):
            assert found == number
            assert len(asked) <= number + 6


def test_an_error_of_the_inputs_comes_after_what_was_before_it() -> None:
    def inputs() -> Iterator[int]:
        yield from range(3)
        raise KeyError("the fourth")

    with ThreadPoolExecutor(2) as pool:
        squares = in_order(pool, lambda n: n * n, inputs(), ahead=9)
        assert [next(squares) for _ in range(3)] == [0, 1, 4]
        with pytest.raises(KeyError, match="the fourth"):
            next(squares)


def test_rerun_decodes_nothing_and_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = messy(tmp_path / "in")
    corpus = open_corpus(f"c={root}")
    first = run(corpus, tmp_path)
    before = contents(first.store.path)
    monkeypatch.setattr(type(corpus), "parts", lambda self: pytest.fail("listed"))
    told: list[int] = []
    again = run(corpus, tmp_path, progress=telling(told))
    assert (again.decoded, again.store, told) == (0, first.store, [])
    assert contents(first.store.path) == before


def test_another_source_size_or_name_is_another_store(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", pictures(3))
    first = run(root, tmp_path).store
    (root / "001.png").write_bytes(encode(picture(77)))
    changed = run(root, tmp_path)
    assert (changed.decoded, changed.store.path != first.path, changed.store.id != first.id) == (3, True, True)
    other = ingest(open_corpus(f"c={root}"), size=SIZE * 2, work=tmp_path).store
    renamed = ingest(open_corpus(f"d={root}"), size=SIZE, work=tmp_path).store
    assert len({s.path for s in (first, changed.store, other, renamed)}) == 4
    assert (first.path / "store.json").exists()  # nothing is deleted


@pytest.mark.parametrize(
    ("undone", "decoded"),
    [
        (["store"], 0),
        (["store", "part-000003"], 1),
        (["store", "part-000001"], 4),
        (["store", "part-000000", "part-000002"], 8),
        (["store", "part-000001", "part-000002", "part-000003"], 9),
    ],
)
def test_a_half_made_store_is_gone_on_with(tmp_path: Path, undone: list[str], decoded: int) -> None:
    root = messy(tmp_path / "in")
    store = run(root, tmp_path).store.path
    whole = contents(store)
    undo(store, *undone)
    (store / "shards" / "000003.tar.1.part").write_bytes(b"half a file")
    (store / "store.json").unlink()
    told: list[int] = []
    again = run(root, tmp_path, progress=telling(told))
    assert (again.decoded, sum(told)) == (decoded, 13)
    assert contents(store) == whole


@pytest.mark.parametrize("name", ["samples.parquet", "shards.parquet", "store.json", "shards/000001.tar"])
def test_a_file_that_was_lost_or_cut_is_made_again(tmp_path: Path, name: str) -> None:
    root = messy(tmp_path / "in")
    store = run(root, tmp_path).store.path
    whole = contents(store)
    (store / name).write_bytes(whole[name][:-1])
    assert run(root, tmp_path).decoded == (4 if name.endswith(".tar") else 0)
    assert contents(store) == whole
    (store / name).unlink()
    run(root, tmp_path)
    assert contents(store) == whole


# ------------------------------------------------------------------------------------------------------------ refusals


def test_an_empty_corpus(tmp_path: Path) -> None:
    class Empty:
        name, spec, classes, builtin = "e", "folder:nothing", None, False

        def identity(self) -> str:
            return "0" * 64

        def parts(self) -> list[Any]:
            return []

        def read(self, part: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(CorpusEmpty, match=r"corpus 'e' \(folder:nothing\) holds no images"):
        run(Empty(), tmp_path)
    assert not (tmp_path / "stores").exists()


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    root = messy(tmp_path / "in")
    store = run(root, tmp_path).store.path
    undo(store, "store")
    code = f"""
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from manifests.commit import exclusive
with exclusive(Path({str(store)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, cwd=Path(__file__).parents[2]) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match=f"{store.name} is being written by process {holder.pid}"):
            run(root, tmp_path)
        holder.communicate()
    assert run(root, tmp_path).decoded == 0
    with exclusive(store):  # a finished store is read, whoever holds it
        assert run(root, tmp_path).decoded == 0


def test_ingest_needs_no_torch() -> None:
    code = "import sys, curate.ingest, curate.corpora; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_order_of_the_file_system_changes_nothing(tmp_path: Path) -> None:
    files = pictures(9)
    forth = run(write_folder(tmp_path / "a" / "in", files), tmp_path / "a").store
    back = run(write_folder(tmp_path / "b" / "in", dict(reversed(files.items()))), tmp_path / "b").store
    assert (forth.id, contents(forth.path)["samples.parquet"]) == (back.id, contents(back.path)["samples.parquet"])


def test_the_form_of_a_corpus_changes_uris_and_no_key(tmp_path: Path) -> None:
    files = pictures(6)
    folder = rows_of(run(write_folder(tmp_path / "in", files), tmp_path).store)
    tar = rows_of(run(f"wds:{write_tar(tmp_path / 'x.tar', files)}", tmp_path).store)
    assert {row["key"] for row in folder} == {row["key"] for row in tar}
    assert {row["pixel_hash"] for row in folder} == {row["pixel_hash"] for row in tar}


def test_a_block_of_the_layout_is_what_ingest_cuts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ingest_module, "block_rows", layout.block_rows)
    monkeypatch.setattr(corpora_base, "PART_SIZE", 600)
    store = run(open_corpus("d=builtin:digits?n=600"), tmp_path).store
    assert [b.rows for b in store.shards[0].blocks] == [256, 256, 88]
    assert (store.path / store.shards[0].name).stat().st_size == store.shards[0].bytes
    images = np.concatenate([block.images_NCHW for block in read_shard(store.path, store.shards[0])])
    assert images.shape == (600, 3, SIZE, SIZE)


def test_nothing_of_pillows_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cut = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\xff\0\0\0\0\0\0"  # a tag of 65,535 bytes
    noisy = encode(picture(0), "JPEG", exif=cut)
    with pytest.warns(UserWarning, match="EXIF|tag 271"):
        Image.open(io.BytesIO(noisy)).getexif()
    store = run(write_folder(tmp_path / "in", {"a.jpg": noisy, "b.png": encode(picture(1))}), tmp_path).store
    assert store.document["statuses"] == {"ok": 2}
    assert capfd.readouterr() == ("", "")
