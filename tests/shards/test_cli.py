"""The `shards` command: what it says, where, and with which exit code."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from shards.cli import main
from shards.index import ShardFolder, open_folder
from tests.shards import make
from tests.shards.conftest import Sources


@dataclass(frozen=True, kw_only=True)
class Answer:
    code: int
    out: str
    err: str


Shards = Callable[..., Answer]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shards:
    """``command("verify", folder)`` runs the command in this process."""

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["shards", *map(str, arguments)])
        try:
            main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        assert isinstance(code, int | None)
        return Answer(code=code or 0, out=out, err=err)

    return call


def stores(sources: Sources) -> list[object]:
    return [word for store in sources.stores.values() for word in ("--store", store.path)]


def test_two_stores_of_one_corpus_are_refused(command: Shards, sources: Sources, tmp_path: Path) -> None:
    """Else the last of them would be taken, and nothing said of the first."""
    other = make.write_store(tmp_path / "other", [[3]], corpus="one", seed=9).path
    answer = command("pack", sources.selection.path, "--store", other, *stores(sources), "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (2, "")
    assert "two of the stores given are of one corpus; expected one --store each of one, two" in answer.err


def test_pack_and_verify_say_what_they_did(
    command: Shards, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    packed = command("pack", sources.selection.path, *stores(sources))
    identity = open_folder("transfer-set").id
    assert packed == Answer(code=0, out=f"transfer-set: 20 images in 2 shards, id {identity}\n", err="")
    sound = "transfer-set: sound; 20 images in 2 shards, checked "
    answer = command("verify")
    assert re.fullmatch(re.escape(sound) + r"every hash and every block at [\d,]+ MB/s\n", answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert command("verify", "--fast") == Answer(code=0, out=sound + "sizes and counts, and no shard read\n", err="")


def test_pack_in_json(command: Shards, sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "a set"
    arguments = ["pack", sources.selection.path, *stores(sources), "--out", out, "--json"]
    facts = json.loads(command(*arguments).out)
    assert facts == {
        "out": str(out),
        "id": open_folder(out).id,
        "rows": {"train": 16, "holdout": 4},
        "shards_written": 2,
        "shards_reused": 0,
    }
    assert json.loads(command(*arguments).out) == {**facts, "shards_written": 0, "shards_reused": 2}


def test_another_plan_needs_replace(command: Shards, sources: Sources, packed: ShardFolder, tmp_path: Path) -> None:
    other = make.write_selection(tmp_path / "s", list(sources.stores.values()), budget=7)
    arguments = ["pack", other.path, *stores(sources), "--out", packed.path]
    refused = command(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"shards: {packed.path} was made differently: budget was 20, now 7")
    assert refused.err.count("\n") == 1
    replaced = command(*arguments, "--replace")
    assert replaced.code == 0
    assert replaced.err == f"the old {packed.path} is now {packed.path}.old-1\n"
    assert open_folder(f"{packed.path}.old-1").id == packed.id


def test_what_cannot_be_packed_is_said_in_one_line(
    command: Shards, sources: Sources, packed: ShardFolder, tmp_path: Path
) -> None:
    first, second = sources.stores.values()
    given = sources.selection.path
    cases: list[tuple[list[object], str]] = [
        ([tmp_path, *stores(sources)], f"{tmp_path} is no selection (no selection.json there)"),
        (
            [given, "--store", first.path],
            f"{given} was made from other stores: 'one' is not given here and {second.id}",
        ),
        ([given, "--store", packed.path], f"{packed.path} is a transfer-set, not a corpus store"),
        ([given, "--store", tmp_path], f"{tmp_path} is no transfer set"),
    ]
    for arguments, words in cases:
        answer = command("pack", *arguments, "--out", tmp_path / "out")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith(f"shards: {words}"), answer.err
        assert answer.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_damage_is_exit_code_4(command: Shards, packed: ShardFolder) -> None:
    tar = packed.path / packed.shards[0].name
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    answer = command("verify", packed.path)
    *problems, verdict = answer.out.splitlines()
    assert answer.code == 4
    assert [str(tar) in problem for problem in problems] == [True, True]
    assert verdict.startswith(
        f"{packed.path}: damaged: delete what is named above, then make or copy it again; 20 images"
    )
    document = command("verify", packed.path, "--json")
    assert document.code == 4
    assert json.loads(document.out)["problems"] == problems
    assert command("verify", packed.path, "--fast").code == 0  # sizes are right
    tar.unlink()
    assert command("verify", packed.path, "--fast").code == 4


def test_verify_in_json(command: Shards, packed: ShardFolder) -> None:
    answer = command("verify", packed.path, "--json", "--fast")
    expected = {"folder": str(packed.path), "shards": 4, "images": 20, "full": False, "bytes": 0, "problems": []}
    found = json.loads(answer.out)
    assert found.pop("seconds") > 0
    assert (answer.code, found, answer.err) == (0, expected, "")
    hashed = json.loads(command("verify", packed.path, "--json").out)["bytes"]
    assert hashed > sum(shard.bytes for shard in packed.shards)  # and the manifests


def test_a_damaged_document_is_exit_code_4(command: Shards, packed: ShardFolder) -> None:
    (packed.path / "transfer-set.json").write_text("{")
    answer = command("verify", packed.path)
    assert (answer.code, answer.out) == (4, "")
    assert answer.err == (
        f"shards: {packed.path}/transfer-set.json is damaged: not the document that was written; make it again\n"
    )


def test_verify_of_nothing_is_wrong_usage(command: Shards, tmp_path: Path) -> None:
    answer = command("verify", tmp_path / "nowhere")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"shards: {tmp_path}/nowhere is no folder; make one with `curate select`\n"


def test_wrong_options_are_exit_code_2(command: Shards, sources: Sources) -> None:
    for arguments in (["pack"], ["pack", sources.selection.path], ["verify", "--slow"], ["unpack"]):
        answer = command(*arguments)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err


def test_damage_in_a_store_stops_packing(command: Shards, sources: Sources, small_shards: None, tmp_path: Path) -> None:
    shutil.copytree(sources.stores["one"].path, tmp_path / "one")
    (tmp_path / "one" / "shards" / "000001.tar").unlink()
    two = sources.stores["two"].path
    answer = command(
        "pack", sources.selection.path, "--store", tmp_path / "one", "--store", two, "--out", tmp_path / "o"
    )
    assert answer.code == 4
    assert f"{tmp_path}/one/shards/000001.tar is missing" in answer.err
