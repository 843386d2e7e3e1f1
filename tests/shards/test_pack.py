"""Packing: exactly the selected rows, the same bytes wherever and however often, whatever interrupts it."""

import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import manifests.commit
import shards.codec
import shards.pack
import shards.spool
from manifests.commit import Ledger
from manifests.errors import IntegrityError, OutputConflict
from manifests.keys import content_key
from manifests.read import read_manifest, read_provenance
from manifests.schema import FEATURES, LOGITS, SAMPLES, SCORES, SELECTION
from shards.errors import BlockDamaged, ShardError
from shards.index import ShardFolder, open_folder
from shards.layout import Block
from shards.pack import pack
from shards.read import read_block, read_shard
from shards.selection import SelectionFolder, open_selection
from shards.verify import verify
from tests.shards import make
from tests.shards.conftest import BLOCK_ROWS, SHARD_ROWS, Sources

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a transfer set but the locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


def keys_of(folder: ShardFolder, split: str | None = None) -> list[str]:
    return [key.decode() for shard in folder.of_split(split) for b in read_shard(folder.path, shard) for key in b.keys]


def telling(told: dict[str, int]) -> Any:
    """A progress that notes how many of each kind were done, and that they are as many as were announced."""

    @contextlib.contextmanager
    def progress(label: str, total: int, *, unit: str = "images") -> Iterator[Callable[[int], None]]:
        steps: list[int] = []
        yield steps.append
        assert sum(steps) == total
        told[label] = total

    return progress


def rewritten(selection: SelectionFolder, folder: Path, **document: Any) -> SelectionFolder:
    """A copy of a selection with another document."""
    shutil.copytree(selection.path, folder)
    path = folder / "selection.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **document}))
    return open_selection(folder)


def test_exactly_the_selected_images_are_packed(sources: Sources, packed: ShardFolder) -> None:
    decisions = read_manifest(sources.selection.path, SELECTION).to_pylist()
    for split in ("train", "holdout"):
        assert sorted(keys_of(packed, split)) == [d["key"] for d in decisions if d["split"] == split]
    assert packed.rows() == sources.selected == packed.rows("train") + packed.rows("holdout")
    assert packed.document["rows"] == {"train": 16, "holdout": 4}
    for shard in packed.shards:
        for block in read_shard(packed.path, shard):
            assert [content_key(image).encode() for image in block.images_NCHW] == block.keys.tolist()
            assert set(block.labels.tolist()) == {-1}  # a selection never uses a corpus's labels, nor does the set


def test_shards_are_named_sized_and_numbered(packed: ShardFolder) -> None:
    assert [s.name for s in packed.shards] == [
        "shards/train-000000.tar",
        "shards/train-000001.tar",
        "shards/train-000002.tar",
        "shards/holdout-000000.tar",
    ]
    blocks = [b for s in packed.shards for b in s.blocks]
    assert [b.block for b in blocks] == list(range(len(blocks)))  # numbered through the set
    assert [b.rows for b in blocks] == [3, 3, 3, 3, 3, 1, 3, 1]  # full but for the last of each split
    assert max(s.rows for s in packed.shards) <= SHARD_ROWS


def test_images_are_mixed(sources: Sources, packed: ShardFolder) -> None:
    """Neither in key order nor corpus after corpus; another seed gives another order of the same images."""
    keys = keys_of(packed, "train")
    assert keys != sorted(keys)
    rows = read_manifest(packed.path, SAMPLES).to_pylist()
    corpus = {row["key"]: row["corpus"] for row in rows}
    assert sum(corpus[a] != corpus[b] for a, b in pairwise(keys)) > 1


def test_another_seed_is_another_order(sources: Sources, packed: ShardFolder, tmp_path: Path) -> None:
    other = make.write_selection(tmp_path / "s", list(sources.stores.values()), budget=20, holdout=4, seed=1)
    folder = pack(other, sources.stores, tmp_path / "other").folder
    assert keys_of(folder) != keys_of(packed)
    assert sorted(keys_of(folder)) == sorted(keys_of(packed))
    assert folder.id != packed.id


def test_every_placement_is_true(packed: ShardFolder) -> None:
    found = {
        key.decode(): (number, position, row)
        for number, shard in enumerate(packed.shards)
        for position, block in enumerate(read_shard(packed.path, shard))
        for row, key in enumerate(block.keys)
    }
    rows = read_manifest(packed.path, SAMPLES).to_pylist()
    assert len(rows) == 33  # every sample seen keeps its row
    for row in rows:
        assert (row["shard"], row["block"], row["row"]) == found.get(row["key"], (None, None, None))


def test_manifests_are_copied_byte_for_byte(sources: Sources, packed: ShardFolder) -> None:
    for table in (SELECTION, SCORES, FEATURES, LOGITS):
        assert (packed.path / table.file).read_bytes() == (sources.selection.path / table.file).read_bytes()
    before, after = (read_manifest(folder, SAMPLES) for folder in (sources.selection.path, packed.path))
    kept = [name for name in before.column_names if name not in ("shard", "block", "row")]
    assert after.select(kept) == before.select(kept)


def test_the_set_names_what_it_was_made_from(sources: Sources, packed: ShardFolder) -> None:
    parents = {name: store.id for name, store in sources.stores.items()}
    for name in ("samples.parquet", "shards.parquet"):
        made = read_provenance(packed.path / name)
        assert (made.step, made.parents, made.transform) == ("pack", parents, make.TRANSFORM)
        assert made.config == sources.selection.plan
    assert packed.document["kind"] == "transfer-set"
    assert packed.document["stores"] == parents
    assert packed.document["teacher"] == make.TEACHER
    assert set(packed.document["contents"]) == {
        *(s.name for s in packed.shards),
        *(f"{name}.parquet" for name in ("samples", "scores", "features", "logits", "selection", "shards")),
    }


def test_the_same_selection_gives_the_same_bytes_anywhere(
    sources: Sources, packed: ShardFolder, tmp_path: Path
) -> None:
    result = sources.pack(tmp_path / "elsewhere" / "a [b]*?")
    assert contents(result.folder.path) == contents(packed.path)
    assert result.folder.id == packed.id
    assert (result.shards_written, result.shards_reused, result.moved) == (4, 0, None)


def test_a_second_run_writes_no_shard(sources: Sources, packed: ShardFolder) -> None:
    before = contents(packed.path)
    told: dict[str, int] = {}
    result = pack(sources.selection, sources.stores, packed.path, progress=telling(told))
    assert (result.shards_written, result.shards_reused) == (0, 4)
    assert told == {"pack": sources.selected}  # nothing was gathered
    assert contents(packed.path) == before


@pytest.mark.parametrize(
    "lost", ["commits/train-000001.json", "shards/train-000001.tar", "transfer-set.json", "commits", "shards"]
)
def test_what_is_lost_is_made_again(sources: Sources, packed: ShardFolder, lost: str) -> None:
    before, path = contents(packed.path), packed.path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    sources.pack(packed.path)
    assert contents(packed.path) == before


def test_shards_of_another_cut_are_not_taken_over(
    sources: Sources, packed: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a release with other block or shard sizes would find them."""
    for rows, size in ((2, SHARD_ROWS), (BLOCK_ROWS, 2 * BLOCK_ROWS + 3)):
        monkeypatch.setattr(shards.pack, "block_rows", lambda px, rows=rows: rows)
        monkeypatch.setattr(shards.pack, "shard_rows", lambda px, size=size: size)
        fresh = sources.pack(tmp_path / f"fresh {rows}").folder
        again = sources.pack(packed.path).folder
        assert again.id == fresh.id
        assert again.shards == fresh.shards


def test_stopped_after_a_file_it_goes_on_to_the_same_bytes(
    sources: Sources, packed: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, reused = contents(packed.path), 0
    original = manifests.commit._fsync_folder
    for after in range(1, len(whole), 3):  # before and after a commit record, a manifest, the document
        count = iter(range(after))

        def stop(folder: Path, count: Any = count) -> None:
            original(folder)
            if next(count, None) is None:
                raise KeyboardInterrupt

        out = tmp_path / f"stopped {after}"
        monkeypatch.setattr(manifests.commit, "_fsync_folder", stop)
        with pytest.raises(KeyboardInterrupt):
            sources.pack(out)
        monkeypatch.setattr(manifests.commit, "_fsync_folder", original)
        assert len(contents(out)) == after + 1
        reused += sources.pack(out).shards_reused
        assert contents(out) == whole
    assert reused > 4  # committed shards were not written again


KILLED = """
import os, signal, sys
from pathlib import Path
import shards.pack
from shards.index import open_folder
from shards.selection import open_selection

rows, size, selection, out, *stores = sys.argv[1:]
shards.pack.block_rows, shards.pack.shard_rows = (lambda px: int(rows)), (lambda px: int(size))
opened = {s.document["corpus"]: s for s in map(open_folder, map(Path, stores))}
original = shards.pack.write_shard

def write_shard(folder, name, blocks, **options):
    if name == "shards/train-000002.tar":  # two shards are done, the third is being written
        (Path(out) / "shards" / "train-000002.tar.1.part").write_bytes(b"half a tar")
        os.kill(os.getpid(), signal.SIGKILL)
    return original(folder, name, blocks, **options)

shards.pack.write_shard = write_shard
shards.pack.pack(open_selection(Path(selection)), opened, Path(out))
"""


def test_killed_it_goes_on_to_the_same_bytes(sources: Sources, packed: ShardFolder, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    stores = [str(store.path) for store in sources.stores.values()]
    arguments = [str(BLOCK_ROWS), str(SHARD_ROWS), str(sources.selection.path), str(out), *stores]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (out / "transfer-set.json").exists()
    with pytest.raises(ShardError, match="is unfinished: run the command that makes it again"):
        open_folder(out)
    result = sources.pack(out)
    assert (result.shards_written, result.shards_reused) == (2, 2)
    assert contents(out) == contents(packed.path)


def test_what_is_read_is_not_moved_aside_to_pack_in_its_place(sources: Sources) -> None:
    for path in (sources.selection.path, *(store.path for store in sources.stores.values())):
        with pytest.raises(OutputConflict, match=r"is, or holds, .*, which is to be read; choose another"):
            shards.pack.pack(sources.selection, sources.stores, path, replace=True)
        assert path.is_dir()


def test_stores_of_another_id_are_refused(sources: Sources, tmp_path: Path) -> None:
    other = make.write_store(tmp_path / "other", [[4]], corpus="two", seed=9)
    own = sources.selection.parents["two"]
    cases: list[tuple[dict[str, ShardFolder], str]] = [
        ({**sources.stores, "two": other}, f"'two' is {other.id} here and {own} in the selection"),
        ({"one": sources.stores["one"]}, f"'two' is not given here and {own} in the selection"),
        ({**sources.stores, "more": other}, f"'more' is {other.id} here and not there in the selection"),
    ]
    for stores, words in cases:
        with pytest.raises(ShardError, match=f"was made from other stores: {words}; give its own stores, or select"):
            pack(sources.selection, stores, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_plan_is_refused_and_replace_moves_the_old_set_aside(
    sources: Sources, packed: ShardFolder, tmp_path: Path
) -> None:
    before = contents(packed.path)
    other = make.write_selection(tmp_path / "s", list(sources.stores.values()), budget=7)
    with pytest.raises(OutputConflict, match="budget was 20, now 7"):
        pack(other, sources.stores, packed.path)
    assert contents(packed.path) == before
    result = pack(other, sources.stores, packed.path, replace=True)
    assert result.moved is not None
    assert contents(result.moved) == before
    assert result.folder.path == packed.path
    assert result.folder.rows() == 7
    assert verify(result.moved).problems == verify(packed.path).problems == ()


def test_the_id_follows_the_contents(sources: Sources, packed: ShardFolder, tmp_path: Path) -> None:
    """One other pixel in a source, everything else alike: another store, another set."""
    store = make.write_store(tmp_path / "one", [[5, 5], [5, 2]], corpus="one", seed=3)
    stores = {**sources.stores, "one": store}
    selection = make.write_selection(tmp_path / "s", list(stores.values()), budget=20, holdout=4)
    assert pack(selection, stores, tmp_path / "out").folder.id != packed.id


@pytest.mark.parametrize(
    ("table", "damage"), [(SCORES, lambda data: data[:-1] + b"?"), (FEATURES, lambda data: data[:-9])]
)
def test_a_damaged_selection_is_refused(
    sources: Sources, tmp_path: Path, table: Any, damage: Callable[[bytes], bytes]
) -> None:
    selection = rewritten(sources.selection, tmp_path / "s")
    file = selection.path / table.file
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(IntegrityError, match=table.file):
        pack(selection, sources.stores, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_store_is_refused_and_leaves_no_set(sources: Sources, small_shards: None, tmp_path: Path) -> None:
    stores = dict(sources.stores)
    shutil.copytree(stores["one"].path, tmp_path / "one")
    stores["one"] = open_folder(tmp_path / "one")
    tar = tmp_path / "one" / "shards" / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"labels", b"lebals", 1))
    with pytest.raises(BlockDamaged, match=r"000000.tar: block 0 is damaged"):
        pack(sources.selection, stores, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.part"))
    assert not (tmp_path / "out" / "transfer-set.json").exists()
    assert contents(sources.pack(tmp_path / "out").folder.path)  # with the sound store it goes on


def test_few_or_no_images_make_a_set_too(sources: Sources, tmp_path: Path) -> None:
    """Fewer than one block, no holdout, nothing at all."""
    for budget, splits in ((2, ("train",)), (0, ())):
        selection = make.write_selection(
            tmp_path / f"s{budget}", list(sources.stores.values()), budget=budget, holdout=0
        )
        folder = pack(selection, sources.stores, tmp_path / f"out{budget}").folder
        assert (folder.rows(), folder.splits) == (budget, splits)
        assert verify(folder.path).problems == ()


def test_every_source_block_is_read_once(
    sources: Sources, small_shards: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a run that goes on, and then only what the missing shards hold."""
    read = list[tuple[Path, int]]()

    def counted(path: Path, facts: Any) -> Block:
        read.append((path, facts.block))
        return read_block(path, facts)

    monkeypatch.setattr(shards.pack, "read_block", counted)
    folder = sources.pack(tmp_path / "out").folder
    rows = read_manifest(sources.selection.path, SAMPLES).to_pylist()
    chosen = set(keys_of(folder))
    wanted = {(row["corpus"], row["shard"], row["block"]) for row in rows if row["key"] in chosen}
    assert len(read) == len({*read}) == len(wanted) > 6
    assert read == sorted(read)  # as they lie on disk
    read.clear()
    (folder.path / "shards" / "train-000002.tar").unlink()
    sources.pack(folder.path)
    assert 1 <= len(read) == len({*read}) <= folder.shards[2].rows


@pytest.mark.parametrize("memory", [1 << 30, 100])
def test_images_on_their_way_may_be_on_disk(
    sources: Sources, packed: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(shards.spool, "MEMORY", memory)
    assert contents(sources.pack(tmp_path / "out").folder.path) == contents(packed.path)


def test_large_images_are_copied_as_they_are(
    small_shards: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make.write_store(tmp_path / "store", [[3, 2], [4]], size=66)
    selection = make.write_selection(tmp_path / "s", [store], budget=8)
    for name in ("_encoded", "_decoded"):
        monkeypatch.setattr(shards.codec, name, None)  # whoever calls it fails
    folder = pack(selection, {"one": store}, tmp_path / "out").folder
    monkeypatch.undo()
    assert len(keys_of(folder)) == 8
    for shard in folder.shards:
        for block in read_shard(folder.path, shard):
            assert [content_key(image).encode() for image in block.images_NCHW] == block.keys.tolist()


class Numbered:
    """Views whose logits say the place of each image in the pack."""

    facts: ClassVar = {"count": 2, "seed": 0, "flip": True, "pad": 4}

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            numbers = np.arange(self.seen, self.seen + len(block))
            self.seen += len(block)
            yield dataclasses.replace(block, logits_NVK=np.multiply.outer(numbers, np.ones((2, 3))).astype(np.float16))


def test_views_are_written_with_their_images(sources: Sources, packed: ShardFolder, tmp_path: Path) -> None:
    folder = pack(sources.selection, sources.stores, tmp_path / "out", views=Numbered()).folder
    assert folder.document["views"] == Numbered.facts
    assert folder.document["plan"] == {**packed.document["plan"], "views": Numbered.facts}
    assert (folder.views, packed.views) == (2, 0)
    assert "views" not in packed.document
    assert keys_of(folder) == keys_of(packed)
    blocks = [block for shard in folder.shards for block in read_shard(folder.path, shard)]
    logits = np.concatenate([block.logits_NVK for block in blocks if block.logits_NVK is not None])
    assert logits.shape == (20, 2, 3)
    assert (logits == np.arange(20)[:, None, None]).all()
    assert verify(folder.path).problems == ()


def test_views_belong_to_the_plan(sources: Sources, packed: ShardFolder) -> None:
    with pytest.raises(OutputConflict, match=r"views\.count was not there, now 2"):
        pack(sources.selection, sources.stores, packed.path, views=Numbered())


def test_only_missing_shards_ask_for_views(sources: Sources, small_shards: None, tmp_path: Path) -> None:
    folder = pack(sources.selection, sources.stores, tmp_path / "out", views=Numbered()).folder
    (folder.path / "shards" / "holdout-000000.tar").unlink()
    again = Numbered()
    assert pack(sources.selection, sources.stores, tmp_path / "out", views=again).shards_written == 1
    assert again.seen == folder.rows("holdout")


def test_views_that_lose_an_image_are_a_bug(sources: Sources, tmp_path: Path) -> None:
    class Lossy(Numbered):
        def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
            return iter(list(super().__call__(blocks))[1:])

    with pytest.raises(AssertionError, match=r"train-000000.tar has 4 images, 16 were to be written"):
        pack(sources.selection, sources.stores, tmp_path / "out", views=Lossy())
    assert not (tmp_path / "out" / "transfer-set.json").exists()


def test_large_images_are_packed_without_loss(tmp_path: Path) -> None:
    store = make.write_store(tmp_path / "store", [[3, 2]], size=66)
    selection = make.write_selection(tmp_path / "s", [store], budget=4)
    folder = pack(selection, {"one": store}, tmp_path / "out").folder
    images = np.concatenate([b.images_NCHW for s in folder.shards for b in read_shard(folder.path, s)])
    assert sorted(content_key(image) for image in images) == sorted(keys_of(folder))
    assert folder.size == 66


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"plan": {}}'])
def test_a_damaged_selection_document_is_an_integrity_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "selection.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"selection.json is damaged: not the document that was written"):
        open_selection(tmp_path)


def test_what_is_no_selection_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(
            ShardError, match=r"is no selection \(no selection.json there\); `curate select` writes one"
        ):
            open_selection(path)


def test_a_shard_record_says_what_the_index_says(packed: ShardFolder) -> None:
    for shard in packed.shards:
        record = Ledger(packed.path).read(Path(shard.name).stem)
        assert record is not None
        assert record.facts["sha256"] == shard.sha256
