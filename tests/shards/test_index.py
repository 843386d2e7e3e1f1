"""The index and the document of a folder: they come back as written, and anything else is refused in words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from manifests.commit import FileFacts, Ledger, check_file
from manifests.errors import IntegrityError
from shards.errors import NotAShardFolder
from shards.index import ShardFacts, contents_id, open_folder, open_store, seal, write_index
from shards.write import write_shard
from tests.shards import make


@pytest.mark.parametrize("name", ["store", "with space, # and ?*[1]%20"])
def test_a_store_is_opened_as_it_was_written(tmp_path: Path, name: str) -> None:
    store = make.write_store(tmp_path / name, [[2, 1], [], [3]])
    assert open_folder(str(store.path)) == open_store(store.path) == store
    assert [s.name for s in store.shards] == ["shards/000000.tar", "shards/000001.tar", "shards/000002.tar"]
    assert [[b.rows for b in s.blocks] for s in store.shards] == [[2, 1], [], [3]]
    assert [b.block for s in store.shards for b in s.blocks] == [0, 1, 2]
    assert (store.size, store.rows(), store.rows("all"), store.rows("train")) == (make.SIZE, 6, 6, 0)
    assert store.splits == ("all",)


def test_facts_survive_json(tmp_path: Path) -> None:
    facts = write_shard(tmp_path, "a.tar", [make.block(2), make.block(1)], split="train", first_block=0)
    assert ShardFacts.from_json(json.loads(json.dumps(facts.as_json()))) == facts


def test_splits_are_told_apart(tmp_path: Path) -> None:
    shards = [
        write_shard(tmp_path, f"{split}.tar", [make.block(rows)], split=split, first_block=i)
        for i, (split, rows) in enumerate([("train", 3), ("holdout", 1)])
    ]
    files = [write_index(tmp_path, shards, provenance=make.MADE)]
    seal(tmp_path, {"size": make.SIZE}, kind="transfer-set", files=files, fingerprint="f")
    folder = open_folder(tmp_path)
    assert folder.splits == ("train", "holdout")
    assert [s.name for s in folder.of_split("holdout")] == ["holdout.tar"]
    assert [folder.rows(split) for split in (None, "train", "holdout", "test")] == [4, 3, 1, 0]


def test_the_id_is_that_of_names_and_hashes() -> None:
    one = contents_id({"a": "1", "b": "2"})
    assert len(one) == 32
    assert contents_id({"b": "2", "a": "1"}) == one
    assert (
        len({one, contents_id({"a": "1", "b": "3"}), contents_id({"a": "1", "c": "2"}), contents_id({"a": "1"})}) == 4
    )


def test_the_commit_record_vouches_for_the_document_too(tmp_path: Path) -> None:
    file = FileFacts(name="a.tar", bytes=3, sha256="ab", rows=1)
    seal(tmp_path, {"size": 8, "note": "é"}, kind="store", files=[file], fingerprint="made of this")
    document = json.loads((tmp_path / "store.json").read_text())
    assert document["contents"] == {"a.tar": "ab"}
    assert (document["id"], document["note"]) == (contents_id(document["contents"]), "é")
    record = Ledger(tmp_path).read("store")
    assert record is not None
    assert record.fingerprint == "made of this"
    assert [f.name for f in record.files] == ["a.tar", "store.json"]
    check_file(tmp_path / "store.json", bytes=record.files[1].bytes, sha256=record.files[1].sha256)


def test_what_is_no_shard_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text("{}")
    (tmp_path / "export").mkdir()
    for name in ("plan.json", "export.json"):
        (tmp_path / "export" / name).write_text("{}")
    said = {
        tmp_path: r"is no transfer set \(no transfer-set.json in it\); make one with `curate select`",
        tmp_path / "nowhere": "nowhere is no folder; make one",
        tmp_path / "file": "file is no folder; make one",
        tmp_path / "plan": "plan is unfinished: run the command that makes it again",
        tmp_path / "export": "export is an export of a set, not a set; `curate ingest` reads it",
        Path("https://host/set"): "https:/host/set is a URL, and this reads a folder on this machine",
    }
    for path, words in said.items():
        with pytest.raises(NotAShardFolder, match=words):
            open_folder(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"id": "a"}', "\xff"])
def test_a_damaged_document_is_an_integrity_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "transfer-set.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(IntegrityError, match=r"transfer-set.json is damaged: not the document that was written"):
        open_folder(tmp_path)


def test_a_folder_without_its_index_is_refused(tmp_path: Path) -> None:
    store = make.write_store(tmp_path, [[1]])
    (store.path / "shards.parquet").unlink()
    with pytest.raises(IntegrityError, match=r"shards.parquet is missing; make the folder again, or copy it again"):
        open_folder(store.path)


def test_a_transfer_set_is_no_store(tmp_path: Path) -> None:
    seal(
        tmp_path,
        {"size": 8},
        kind="transfer-set",
        files=[write_index(tmp_path, [], provenance=make.MADE)],
        fingerprint="f",
    )
    with pytest.raises(NotAShardFolder, match="is a transfer-set, not a corpus store; `curate ingest` makes one"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "name", ["../x.tar", "shards/../../x.tar", "/x.tar", "C:/x.tar", "c:x.tar", "shards\\x.tar", "\\\\host\\x", "", "."]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    facts = replace(write_shard(tmp_path, "a.tar", [make.block(1)], split="all", first_block=0), name=name)
    files = [write_index(tmp_path, [facts], provenance=make.MADE)]
    seal(tmp_path, {"size": make.SIZE}, kind="store", files=files, fingerprint="f")
    with pytest.raises(IntegrityError, match=r"the shard name '.*' leads out of the folder, expected one as 'shards/"):
        open_folder(tmp_path)
