"""Verify: a sound folder has no problems, and no damage goes unseen or unnamed."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.compute as pc
import pytest

from manifests.commit import FileFacts, Ledger
from manifests.progress import Advance
from manifests.provenance import fingerprint
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from manifests.write import write_manifest
from shards.errors import NotAShardFolder
from shards.index import ShardFacts, ShardFolder, open_folder, seal, write_index
from shards.layout import Block
from shards.read import read_shard
from shards.verify import verify
from shards.write import committed, write_shard
from tests.shards import make
from tests.shards.conftest import Sources

FIRST, SECOND, HELD_OUT = "shards/train-000000.tar", "shards/train-000001.tar", "shards/holdout-000000.tar"


def flip(at: int = 0, *, part: float = 0) -> Callable[[Path], None]:
    """Flips one bit of byte ``at``, counted from a ``part`` of the file; negative bytes count from its end."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(part * len(data)) + at] ^= 1
        path.write_bytes(data)

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


def cut_between_samples(path: Path) -> None:
    """Shorter by whole blocks: a tar reader sees fewer samples and no error."""
    path.write_bytes(path.read_bytes()[:2048])


def remove(path: Path) -> None:
    path.unlink()


def swap(path: Path) -> None:
    other = path.with_name("train-000001.tar")
    path.rename(path.with_suffix(".tmp"))
    other.rename(path)
    path.with_suffix(".tmp").rename(other)


def stray(path: Path) -> None:
    shutil.copy(path.with_name("train-000000.tar"), path)


def edit(old: str, new: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


@pytest.mark.parametrize("full", [True, False])
def test_what_was_written_is_sound(sources: Sources, packed: ShardFolder, full: bool) -> None:
    verdict = verify(packed.path, full=full)
    assert verdict.problems == ()
    assert (verdict.folder, verdict.shards, verdict.images, verdict.full) == (str(packed.path), 4, 20, full)
    for store in sources.stores.values():
        verdict = verify(store.path, full=full)
        assert (verdict.problems, verdict.shards, verdict.images) == ((), len(store.shards), store.rows())


DAMAGE = {
    "payload": (FIRST, flip(700), "full"),
    "header": (FIRST, flip(3), "full"),
    "end of the archive": (FIRST, flip(-1), "full"),
    "cut": (SECOND, cut, "fast"),
    "cut between blocks": (SECOND, cut_between_samples, "fast"),
    "missing": (HELD_OUT, remove, "fast"),
    "stray": ("shards/train-000009.tar", stray, "fast"),
    "swapped": (FIRST, swap, "full"),
    "document": ("transfer-set.json", edit('"train": 16', '"train": 17'), "full"),
    "document's teacher": ("transfer-set.json", edit('"toy"', '"toy2"'), "fast"),
    "document's id": ("transfer-set.json", edit('"id": "', '"id": "0'), "fast"),
    "missing manifest": ("features.parquet", remove, "fast"),
    "missing scores": ("scores.parquet", remove, "fast"),
    "missing samples": ("samples.parquet", remove, "fast"),
    "missing index": ("shards.parquet", remove, "fast"),
    "cut manifest": ("selection.parquet", cut, "fast"),
    "cut index": ("shards.parquet", cut, "fast"),
    "record": ("commits/transfer-set.json", cut, "fast"),
    "no record": ("commits/transfer-set.json", remove, "fast"),
} | {
    f"{name} at {part}": (f"{name}.parquet", flip(part=part), "full")
    for name in ("samples", "shards", "features")
    for part in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)
}


@pytest.mark.parametrize(("name", "damage", "found_by"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_named(
    packed: ShardFolder, name: str, damage: Callable[[Path], None], found_by: str
) -> None:
    damage(packed.path / name)
    named = str(packed.path if name.startswith("commits") else packed.path / name)
    full = verify(packed.path)
    assert any(named in problem for problem in full.problems), full.problems
    if found_by == "fast":
        fast = verify(packed.path, full=False)
        assert any(named in problem for problem in fast.problems), fast.problems


def test_every_problem_is_reported(packed: ShardFolder) -> None:
    """Two blocks of one tar, another tar and a manifest: none hides another."""
    first, _, _, held_out = packed.shards
    for block in first.blocks:
        flip(block.offset + 600)(packed.path / first.name)
    remove(packed.path / held_out.name)
    flip(part=0.5)(packed.path / "scores.parquet")
    problems = verify(packed.path).problems
    assert sum("block 0 is damaged" in p or "block 1 is damaged" in p for p in problems) == 2
    assert sum(held_out.name in p for p in problems) == 1  # once, not once a block
    assert f"{packed.path / held_out.name} is missing; 10,240 bytes were committed" in problems
    assert sum("scores.parquet is damaged: SHA-256" in p for p in problems) == 1
    assert sum(first.name in p for p in problems) == 3


def test_the_words_say_what_is_wrong(packed: ShardFolder) -> None:
    tar = packed.path / "shards" / "train-000009.tar"
    stray(tar)
    (packed.path / "commits" / "transfer-set.json").unlink()
    assert verify(packed.path).problems == (
        f"{packed.path} has no commit record 'transfer-set': unfinished, or not copied whole; make or copy it again",
        f"{tar} is not in the index: a shard of another set, or a copy",
    )


def test_consistent_hashes_do_not_excuse_wrong_contents(packed: ShardFolder) -> None:
    """A tar whose images are in another order than the manifest says, committed by a faulty writer."""
    shard = packed.shards[1]
    blocks = list(read_shard(packed.path, shard))
    turned = [Block(images=b.images_NCHW[::-1], keys=b.keys[::-1], labels=b.labels) for b in blocks]
    written = write_shard(packed.path, shard.name, turned, split=shard.split, first_block=shard.blocks[0].block)
    _recommit(packed, {shard.name: written})
    problems = verify(packed.path).problems
    assert len(problems) == 2
    assert all("row 0 is another image than samples.parquet says" in p and shard.name in p for p in problems)
    assert verify(packed.path, full=False).problems == ()


def test_a_manifest_that_places_too_few_is_found(packed: ShardFolder) -> None:
    _recommit(packed, {}, drop=1)
    for full in (True, False):
        said = "\n".join(verify(packed.path, full=full).problems)
        assert "samples.parquet places 19 images, shards.parquet counts 20" in said


def _recommit(folder: ShardFolder, changed: dict[str, ShardFacts], *, drop: int = 0) -> None:
    """Index, manifest and document anew, with hashes that agree."""
    facts = [changed.get(s.name, s) for s in folder.shards]
    for shard in changed.values():
        unit = Path(shard.name).stem
        Ledger(folder.path).commit(unit, fingerprint="f", files=[committed(shard)], facts=shard.as_json())
    samples = read_manifest(folder.path, SAMPLES)
    placed = samples.filter(pc.is_valid(samples["shard"]))
    files = [committed(f) for f in facts]
    files.append(write_index(folder.path, facts, provenance=make.MADE))
    files.append(write_manifest(folder.path, SAMPLES, placed.slice(drop), provenance=make.MADE))
    about = {k: v for k, v in folder.document.items() if k not in ("id", "kind", "contents")}
    made_from = fingerprint({"plan": about["plan"]})
    seal(folder.path, about, kind="transfer-set", files=files, fingerprint=made_from)


@pytest.mark.parametrize("full", [True, False])
def test_a_damaged_folder_is_mended_by_deleting_what_is_named(
    sources: Sources, packed: ShardFolder, full: bool
) -> None:
    flip(700)(packed.path / FIRST)
    sources.pack(packed.path)
    assert verify(packed.path).problems  # a shard of the right size is believed
    (packed.path / FIRST).unlink()
    assert sources.pack(packed.path).shards_written == 1
    assert verify(packed.path, full=full).problems == ()


def test_a_folder_without_a_document_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(NotAShardFolder, match="is no transfer set"):
        verify(tmp_path)


def test_a_copy_elsewhere_is_sound(packed: ShardFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy of [set] #2?"
    shutil.copytree(packed.path, copy)
    assert verify(copy).problems == ()
    assert open_folder(copy).id == packed.id
    record = Ledger(copy).read("transfer-set")
    assert record is not None
    assert json.loads((copy / "transfer-set.json").read_text())["id"] == packed.id


def test_progress_ends_at_its_total(packed: ShardFolder) -> None:
    heard: list[int] = []

    @contextlib.contextmanager
    def heeded(label: str, total: int, *, unit: str = "images") -> Iterator[Advance]:
        heard.append(-total)
        assert (label, unit) == ("verify", "MiB")
        yield heard.append

    (packed.path / "large").write_bytes(bytes(3 << 20))
    large = FileFacts(name="large", bytes=3 << 20, sha256=hashlib.sha256(bytes(3 << 20)).hexdigest(), rows=0)
    record = Ledger(packed.path).read("transfer-set")
    assert record is not None
    Ledger(packed.path).commit("transfer-set", fingerprint=record.fingerprint, files=[*record.files, large])
    assert verify(packed.path, progress=heeded).problems == ()
    assert (heard[0], sum(heard)) == (-3, 0)
    heard.clear()
    assert verify(packed.path, full=False, progress=heeded).problems == ()
    assert heard == []  # of bytes that nobody reads there is no progress
