import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manifests.commit import (
    FileFacts,
    Ledger,
    atomic_file,
    check_claim,
    check_file,
    claimed,
    exclusive,
    write_bytes,
    write_json,
)
from manifests.errors import Busy, IntegrityError, OutputConflict

ROOT = Path(__file__).resolve().parents[2]
TINY = {"name": "tiny", "store": "ab"}
PLAN: dict[str, Any] = {"mode": "entropy-topk", "budget": 5000, "corpora": [TINY], "mean": [0.5, 0.25]}


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """Another process that runs ``code``, which may say something on stdout."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".lock"))


# -- atomic files -----------------------------------------------------------------------------------------------------


def test_a_file_appears_whole_with_its_facts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "a.tar"
    with atomic_file(path) as file:
        assert file.write(b"half ") == 5
        assert names(path.parent) == [f"a.tar.{os.getpid()}.part"]
        file.write(memoryview(b"whole"))
        assert file.tell() == 10
    assert names(path.parent) == ["a.tar"]
    assert path.read_bytes() == b"half whole"
    assert (file.bytes, file.sha256) == (10, hashlib.sha256(b"half whole").hexdigest())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_previous_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    write_bytes(tmp_path / "a.tar", b"previous")

    def write_half(name: str) -> None:
        with atomic_file(tmp_path / name) as file:
            file.write(b"half")
            raise error

    for name in ("a.tar", "b.tar"):
        with pytest.raises(error):
            write_half(name)
    assert names(tmp_path) == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == b"previous"


def test_a_kill_before_the_rename_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_bytes(path, b"previous")
    code = """
import os, sys
from pathlib import Path
from manifests.commit import write_bytes
Path.replace = lambda *names: os.kill(os.getpid(), 9)
write_bytes(sys.argv[1], b"new")
"""
    with python(code, path) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert [name.split(".")[-1] for name in names(tmp_path)] == ["tar", "part"]
    assert path.read_bytes() == b"previous"
    with exclusive(tmp_path):  # the next holder clears up
        write_bytes(path, b"new")
        assert [name for name in names(tmp_path) if not name.startswith(".lock")] == ["a.tar"]
    assert path.read_bytes() == b"new"


def test_what_is_renamed_was_synced_first_and_its_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def fsync_seen(descriptor: int) -> None:
        calls.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def replace_seen(self: Path, target: Path) -> Path:
        calls.append(f"replace {target.name}")
        return replace(self, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name open files")
    monkeypatch.setattr(os, "fsync", fsync_seen)
    monkeypatch.setattr(Path, "replace", replace_seen)
    write_bytes(tmp_path / "a.tar", b"x")
    assert calls == [f"fsync a.tar.{os.getpid()}.part", "replace a.tar", f"fsync {tmp_path.name}"]


def test_json_is_the_same_text_whatever_the_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "é", "a": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "a": 1,\n "b": "é"\n}\n'


# -- commit records ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A folder with one committed unit of two files, fingerprint `f1`."""
    for name in ("a.tar", "sub/b.tar"):
        write_bytes(tmp_path / name, name.encode())
    ledger = Ledger(tmp_path)
    files = [
        FileFacts(name=n, bytes=len(n), sha256=hashlib.sha256(n.encode()).hexdigest(), rows=3)
        for n in ("a.tar", "sub/b.tar")
    ]
    ledger.commit("unit", fingerprint="f1", files=files, facts={"quarantined": 1})
    return ledger


def test_a_committed_unit_is_done(ledger: Ledger) -> None:
    record = ledger.done("unit", "f1")
    assert record is not None
    assert record == ledger.read("unit")
    assert [f.name for f in record.files] == ["a.tar", "sub/b.tar"]
    assert record.facts == {"quarantined": 1}
    ledger.verify()


def test_what_was_never_committed_is_not_done(ledger: Ledger) -> None:
    assert ledger.done("other", "f1") is None
    assert ledger.done("unit", "f2") is None


def damage_record(folder: Path, text: bytes) -> None:
    (folder / "commits" / "unit.json").write_bytes(text)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a.tar").unlink(),
        lambda folder: (folder / "sub" / "b.tar").write_bytes(b"sub/b"),
        lambda folder: (folder / "a.tar").write_bytes(b"a.tar and more"),
        lambda folder: damage_record(folder, b""),
        lambda folder: damage_record(folder, bytes(range(256))),
        lambda folder: damage_record(folder, (folder / "commits" / "unit.json").read_bytes()[:-20]),
        lambda folder: damage_record(folder, b"[]"),
        lambda folder: damage_record(folder, b'{"unit": "unit", "fingerprint": "f1", "files": [{"name": "a"}]}'),
        lambda folder: damage_record(
            folder, b'{"unit": "unit", "fingerprint": "f1", "files": [], "facts": {}, "q": 1}'
        ),
    ],
    ids=["missing", "truncated", "grown", "empty record", "noise", "cut record", "list", "other file", "other record"],
)
def test_damage_means_not_done_and_verify_refuses(ledger: Ledger, damage: Callable[[Path], Any]) -> None:
    damage(ledger.folder)
    assert ledger.done("unit", "f1") is None
    with pytest.raises(IntegrityError):
        ledger.verify()


def test_verify_names_the_file_and_both_sides(ledger: Ledger) -> None:
    path = ledger.folder / "sub" / "b.tar"
    path.write_bytes(b"sub/X.tar")  # the size is right
    assert ledger.done("unit", "f1") is not None
    with pytest.raises(IntegrityError, match=r"sub/b.tar is damaged: SHA-256 [0-9a-f]{16}\.\.\., committed "):
        ledger.verify()
    path.write_bytes(b"sub")
    with pytest.raises(IntegrityError, match=r"sub/b.tar holds 3 bytes; 9 were committed: it was cut or overwritten"):
        ledger.verify()
    path.unlink()
    with pytest.raises(IntegrityError, match=r"sub/b.tar is missing; 9 bytes were committed"):
        ledger.verify()
    damage_record(ledger.folder, b"\x00")
    with pytest.raises(IntegrityError, match=r"commits/unit.json is damaged: not a commit record; run the step again"):
        ledger.verify()


def test_integrity_is_exit_code_4(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        check_file(tmp_path / "absent.tar", bytes=1, sha256="0" * 64)
    assert caught.value.exit_code == 4


def test_equal_commits_give_equal_bytes(ledger: Ledger, tmp_path: Path) -> None:
    record = ledger.read("unit")
    assert record is not None
    before = (tmp_path / "commits" / "unit.json").read_bytes()
    ledger.commit("unit", fingerprint="f1", files=record.files, facts=record.facts)
    assert (tmp_path / "commits" / "unit.json").read_bytes() == before


# -- one writer at a time ---------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from manifests.commit import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds ``folder`` until it is killed."""
    with python(HOLD, folder) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with held(folder) as process:
        wanted = (
            rf"out is being written by process {process.pid} \(-c {folder}\); wait for it, or choose another folder"
        )
        with pytest.raises(Busy, match=wanted), exclusive(folder):
            pass
        with pytest.raises(Busy, match="is being written by"), claimed(folder, plan=PLAN):
            pass


def test_a_kill_frees_the_folder(tmp_path: Path) -> None:
    with held(tmp_path) as process:
        process.kill()
        process.wait(60)
        assert (tmp_path / ".lock.json").exists()
        with exclusive(tmp_path):
            assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock.json").exists()


def test_a_holder_who_cannot_be_read_is_another_run(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        (tmp_path / ".lock.json").write_text("[")
        with pytest.raises(Busy, match="is being written by another run;"), exclusive(tmp_path):
            pass


def test_an_exception_frees_the_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), exclusive(tmp_path):
            raise RuntimeError
    assert names(tmp_path) == []


# -- claiming an output -----------------------------------------------------------------------------------------------


def make(folder: Path, plan: dict[str, Any], *, replace: bool = False, content: str = "") -> Path | None:
    """Claim ``folder`` and write into it; returns where the old one went."""
    with claimed(folder, plan=plan, replace=replace) as moved:
        (folder / "content").write_text(content)
    return moved


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_is_taken(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "deep" / "out"
    if exists:
        folder.mkdir(parents=True)
    check_claim(folder, plan=PLAN)
    assert make(folder, PLAN) is None
    assert json.loads((folder / "plan.json").read_text()) == PLAN
    assert names(folder) == ["content", "plan.json"]


def test_the_same_plan_is_continued_even_with_replace(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    make(folder, PLAN)
    (folder / "half-made").touch()
    for replace in (False, True):
        assert make(folder, {**PLAN, "mean": (0.5, 0.25)}, replace=replace) is None
    assert (folder / "half-made").exists()
    assert names(tmp_path) == ["out"]


def test_a_folder_that_was_only_begun_is_taken(tmp_path: Path) -> None:
    for name in (".lock", ".lock.json", "plan.json.1.part"):
        (tmp_path / name).touch()
    assert make(tmp_path, PLAN) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": 4000}, "was made differently: budget was 5000, now 4000; choose another folder, or pass --replace"),
        ({"mode": "random", "seed": 1}, "mode was 'entropy-topk', now 'random'; seed was not there, now 1;"),
        ({"corpora": [{"name": "tiny", "store": "cd"}]}, "corpora.0.store was 'ab', now 'cd';"),
        (
            {"corpora": [TINY, {"name": "b", "store": "x"}]},
            "corpora.1.name was not there, now 'b'; corpora.1",
        ),
        ({"mean": [0.5, 0.5]}, "mean was [0.5, 0.25], now [0.5, 0.5];"),
        (
            {"a": 1, "b": 2, "c": 3, "d": 4, "e": {"f": 5}},
            "a was not there, now 1; b was not there, now 2; c was not there, now 3; and 2 more;",
        ),
        ({"budget": None}, "budget was 5000, now None"),
        ({"budget": 5000.0}, "budget was 5000, now 5000.0"),
    ],
)
def test_another_plan_is_refused_with_the_difference(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = tmp_path / "out"
    make(folder, PLAN, content="old")
    with pytest.raises(OutputConflict) as early:
        check_claim(folder, plan={**PLAN, **change})
    with pytest.raises(OutputConflict) as late:
        make(folder, {**PLAN, **change})
    assert str(early.value) == str(late.value)
    assert str(early.value).startswith(f"{folder} was made differently: ")
    assert words in str(early.value)
    assert json.loads((folder / "plan.json").read_text()) == PLAN
    assert (folder / "content").read_text() == "old"


def test_what_is_not_ours_is_refused_untouched(tmp_path: Path) -> None:
    for name in "dcba":
        (tmp_path / f"{name}.txt").touch()
    with pytest.raises(
        OutputConflict, match=r"holds something else \(a.txt, b.txt, c.txt, and 1 more\); choose another"
    ):
        make(tmp_path, PLAN)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt", "d.txt"]  # no lock file either


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", '"text"'])
def test_a_plan_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(OutputConflict, match=r"holds a plan.json that is not ours; choose another folder"):
        make(tmp_path, PLAN)


def test_replace_moves_the_old_ones_aside(tmp_path: Path) -> None:
    folder = tmp_path / "ts.v1"
    make(folder, PLAN, content="first")
    assert make(folder, {"budget": 2}, replace=True, content="second") == tmp_path / "ts.v1.old-1"
    assert make(folder, {"budget": 3}, replace=True, content="third") == tmp_path / "ts.v1.old-2"
    assert names(tmp_path) == ["ts.v1", "ts.v1.old-1", "ts.v1.old-2"]
    contents = [(tmp_path / name / "content").read_text() for name in names(tmp_path)]
    assert contents == ["third", "first", "second"]
    assert make(folder, {"budget": 3}) is None
    assert not list(tmp_path.rglob(".lock.json"))


def test_replace_moves_what_is_not_ours_too(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    moved = make(tmp_path / "out", PLAN, replace=True)
    assert moved is not None
    assert (moved / "precious").read_text() == "mine"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("out", ["file", "file/below/it"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, replace: bool, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputConflict, match=r"file is a file; expected a folder, or a name that is free"):
        make(tmp_path / out, PLAN, replace=replace)
    with pytest.raises(OutputConflict, match=r"file is a file"):
        check_claim(tmp_path / out, plan=PLAN)
    assert (tmp_path / "file").read_text() == "mine"
