"""A full disk, a disk that may not be written, files that cannot be read or that shrink: words, a code, a valid state.

Commands run as processes of their own, forked from one that has paid the imports; what was in their way is removed and
they are run again, and every byte is that of an undisturbed run.
"""

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate.corpora import open_corpus
from distill.models import build
from distill.models.teachers import save_classifier
from manifests.commit import Ledger
from tests.curate.make import contents, picture, pictures, write_folder, write_parquet, write_tar

ROOT = Path(__file__).parents[2]
SIDE = 16  # px
STAGES = ("ingest", "score", "select", "pack")
PART = 8  # samples a part, so that a part is committed before the disk is full
MIB = 1 << 20


# ------------------------------------------------------------------------------------------------------- the processes


def serve() -> None:
    """Run commands as forks of this process: JSON lines in, {code, out, err} out."""
    import_module("curate.run")
    import_module("curate.corpora.base").PART_SIZE = PART  # type: ignore[attr-defined]  # a module's constant
    for line in sys.stdin:
        ask = json.loads(line)
        files = [Path(ask["folder"]) / name for name in ("out", "err")]
        child = os.fork()
        if not child:
            _be(ask, *files)
        status = os.waitpid(child, 0)[1]
        out, err = (file.read_text() for file in files)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "out": out, "err": err}), flush=True)


def _be(ask: dict[str, Any], out: Path, err: Path) -> None:
    """Become the command: never comes back."""
    code: object = 1
    try:
        for number, file in ((1, out), (2, err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if ask["largest"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (ask["largest"], resource.RLIM_INFINITY))
        if ask["before"]:
            getattr(import_module("tests.curate.test_failures"), ask["before"])()
        os.chdir(ask["cwd"])
        sys.argv = ask["command"]
        import_module(f"{sys.argv[0]}.cli").main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001  # what a shell would show
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int = 2) -> str:
        """Its words, of a command that failed as commands should: in a line or two, without a traceback."""
        assert self.code == code, self.err or self.out
        assert "Traceback" not in self.err
        assert 1 <= len(self.err.splitlines()) <= 2, self.err
        return self.err


class Server:
    """The process that forks the commands."""

    def __init__(self, pipe: "subprocess.Popen[str]", folder: Path) -> None:
        self._pipe, self._folder = pipe, folder

    def __call__(self, command: list[str], cwd: Path, *, before: str = "", largest: int = 0) -> Done:
        """Run a command; ``before`` names a function of this module that comes first, ``largest`` limits files (B)."""
        asked, told = self._pipe.stdin, self._pipe.stdout
        assert asked
        assert told
        ask = {"command": command, "cwd": str(cwd), "before": before, "largest": largest, "folder": str(self._folder)}
        asked.write(json.dumps(ask) + "\n")
        asked.flush()
        return Done(**json.loads(told.readline()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    code = "from tests.curate.test_failures import serve; serve()"
    env = os.environ | {"TRANSFERSET_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env
    ) as pipe:
        yield Server(pipe, folder)
        assert pipe.stdin
        pipe.stdin.close()


# ------------------------------------------------------------------------------------------------------- the commands


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A folder with a corpus `in` and a teacher beside it, and the commands of each stage; they write into `disk`."""

    root: Path
    weights: Path
    run: Server

    def stage(self, name: str, **options: Any) -> Done:
        """Run the command of a stage; those before it are done."""
        teacher = ["--teacher", "wrn16_1", "--teacher-weights", str(self.weights), "--device", "cpu"]
        corpus = ["--corpus", f"c={options.pop('corpus', 'in')}", "--work", "disk/work"]
        judged = [*teacher, "--dtype", "float32", *corpus]
        budget = ["--budget", "20", "--max-bad", "0.9"]
        command = {
            "ingest": ["curate", "ingest", *corpus, "--size", str(SIDE), "--max-bad", "0.9"],
            "score": ["curate", "score", *judged],
            "select": ["curate", "select", *judged, *budget, "--out", "elsewhere"],
            "pack": ["curate", "select", *judged, *budget, "--views", "2", "--out", "disk/out"],
        }[name]
        return self.run(command, self.root, **options)

    @property
    def disk(self) -> Path:
        return self.root / "disk"

    def all(self) -> None:
        """Run every stage; each succeeds."""
        for stage in STAGES:
            done = self.stage(stage)
            assert done.code == 0, done.err

    def check(self) -> None:
        """What is committed is whole, and nothing half-made lies about."""
        for commits in self.disk.rglob("commits"):
            Ledger(commits.parent).verify()
        assert not list(self.disk.rglob("*.part"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "judge.safetensors"
    card = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "classes": ("a", "b", "c"), "input_size": SIDE}
    save_classifier(path, build("wrn16_1", 3), arch="wrn16_1", **card)  # type: ignore[arg-type]  # one dict for all
    return path


def corpus(folder: Path) -> None:
    """Three parts of pictures, of a fixed time, so that stores of the same pictures have the same name."""
    write_folder(folder, pictures(3 * PART - 1))
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))


@pytest.fixture
def bench(tmp_path: Path, weights: Path, server: Server) -> Bench:
    corpus(tmp_path / "in")
    (tmp_path / "disk").mkdir()
    return Bench(root=tmp_path, weights=weights, run=server)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, weights: Path, server: Server) -> dict[str, bytes]:
    """What an undisturbed run of all stages writes."""
    root = tmp_path_factory.mktemp("whole")
    corpus(root / "in")
    (root / "disk").mkdir()
    bench = Bench(root=root, weights=weights, run=server)
    bench.all()
    return contents(root / "disk")


# --------------------------------------------------------------------------------------------------------- a full disk


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Something mounted at a folder, where this user may mount; the test is skipped where not."""
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount, which this user may not: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(disk: Path, *, but: int) -> Iterator[None]:
    """The disk of a folder full of something else but for some bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    os.truncate(ballast, ballast.stat().st_size - but)
    yield
    ballast.unlink()


def test_a_full_disk(bench: Bench, whole: dict[str, bytes]) -> None:
    """Each step with no room at all, with room for some of its files, and with enough."""
    with mounted(bench.disk, "-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        for stage in STAGES:
            for room in (0, 16 << 10):
                with full(bench.disk, but=room):
                    words = bench.stage(stage).refused()
                    assert "No space left on device; make room, then run the same command again" in words
                    assert "disk/" in words, stage  # it says of which file
                    bench.check()
            assert bench.stage(stage).code == 0
        bench.check()
        assert contents(bench.disk) == whole


def test_a_file_larger_than_files_may_be(bench: Bench, whole: dict[str, bytes]) -> None:
    """As a full disk, wherever one may not mount: the system refuses what goes beyond a size."""
    for stage in STAGES:
        words = bench.stage(stage, largest=2048).refused()
        assert "File too large; make room, then run the same command again" in words
        assert "disk/" in words, stage
        bench.check()
        assert bench.stage(stage).code == 0
    assert contents(bench.disk) == whole


def test_an_output_that_is_full(bench: Bench) -> None:
    """The program's own output, here with an exit of the interpreter as a user's shell sees it."""
    command = [sys.executable, "-m", "curate", "ingest", "--corpus", "c=in", "--work", "disk/work", "--json"]
    with Path("/dev/full").open("w") as nowhere:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, stdout=nowhere, stderr=subprocess.PIPE, text=True, cwd=bench.root, env=env, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("curate: stdout cannot be read or written: No space left on device")
    assert len(done.stderr.splitlines()) == 1


# -------------------------------------------------------------------------------------------------- may not be written


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody may write to, root neither."""
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield


def test_a_read_only_input(bench: Bench, whole: dict[str, bytes]) -> None:
    source = bench.root / "in"
    with read_only(source):
        with pytest.raises(OSError, match="Read-only"):
            (source / "x").touch()
        bench.all()
    assert contents(bench.disk) == whole


def test_a_read_only_output(bench: Bench, whole: dict[str, bytes]) -> None:
    """Refused while there is something to write; what is finished is taken as it is."""
    for stage in STAGES:
        with read_only(bench.disk):
            words = bench.stage(stage).refused()
            assert "disk/" in words
            assert "Read-only file system" in words or "Permission denied" in words
        assert bench.stage(stage).code == 0
    with read_only(bench.disk):
        assert bench.stage("ingest").code == bench.stage("score").code == 0
    assert contents(bench.disk) == whole


@pytest.mark.parametrize("work", ["/proc/nothing/here", "/dev/null/work", "x" * 300, "loop/work"])
def test_a_folder_that_cannot_be(bench: Bench, work: str) -> None:
    (bench.root / "loop").symlink_to("loop")
    done = bench.run(["curate", "ingest", "--corpus", "c=in", "--work", work], bench.root)
    assert work[:9] in done.refused()


# ------------------------------------------------------------------------------------------- what cannot be read so far


def without_privileges() -> None:
    """Files without permission stay closed to this process, root's too (capabilities 1 and 2 override that: capset)."""
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    if libc.capget(header, held) == 0:
        held[0] &= ~0b110
        libc.capset(header, held)


def test_a_file_that_may_not_be_read(bench: Bench, whole: dict[str, bytes]) -> None:
    closed = bench.root / "in" / "012.png"
    closed.chmod(0)
    told = "1 sample could not be read (first: 012.png: Permission denied); mend what is wrong and run the same command"
    for _ in range(2):
        assert told in bench.stage("ingest", before="without_privileges").refused(code=3)
    for stage in ("score", "select"):
        assert told in bench.stage(stage, before="without_privileges").err
    bench.check()
    closed.chmod(0o600)
    bench.all()
    assert {n: data for n, data in contents(bench.disk).items() if n in whole} == whole


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() * 2)


def another_of_that_length(file: Path) -> None:
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, (1e9, 2e9))


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (longer, "unreadable: changed since it was listed, then {size} bytes, now {double}"),
        (another_of_that_length, "unreadable: changed since it was listed, then {size} bytes, now {size}"),
        (Path.unlink, "unreadable: No such file or directory"),
        (a_folder, "unreadable: Is a directory"),
    ],
)
def test_a_file_is_as_it_was_listed_or_unreadable(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    corpus(tmp_path / "in")
    before = open_corpus(f"c={tmp_path / 'in'}")
    identity, size = before.identity(), (tmp_path / "in" / "003.png").stat().st_size
    change(tmp_path / "in" / "003.png")
    items = {item.uri: item for part in before.parts() for item in before.read(part)}
    found = items.pop("003.png")
    told = words.format(size=size, double=2 * size)
    assert (found.data, found.error, found.unreadable) == (None, told, True)
    assert not any(item.unreadable or item.error for item in items.values())
    assert open_corpus(f"c={tmp_path / 'in'}").identity() != identity  # so that it is another store


def test_links_that_lead_nowhere_may_lead_somewhere_later_and_links_out_never(tmp_path: Path) -> None:
    corpus(tmp_path / "in")
    for name, target in (("loop.png", "loop.png"), ("gone.png", "nowhere.png"), ("out.png", "../out.png"), ("d", "d")):
        (tmp_path / "in" / name).symlink_to(target)
    source = open_corpus(f"c={tmp_path / 'in'}")
    odd = {item.uri: item for part in source.parts() for item in source.read(part) if item.error}
    assert {uri: (item.error, item.unreadable) for uri, item in odd.items()} == {
        "loop.png": ("unreadable: Too many levels of symbolic links", True),
        "gone.png": ("unreadable: No such file or directory", True),
        "out.png": ("a symbolic link out of the corpus, not followed", False),
    }


def shrink() -> None:
    """The middle file of the corpus loses its second half once it was listed."""
    job = import_module("curate.ingest")._Job
    do = job.do

    def shrunk(self: object, *arguments: object) -> None:
        files = sorted(Path("in").iterdir())
        middle = files[len(files) // 2]
        os.truncate(middle, middle.stat().st_size // 2)
        do(self, *arguments)

    job.do = shrunk


def laid_out(root: Path, kind: str) -> Path:
    """The same pictures in another form; the file of it that is to shrink."""
    files = pictures(3 * PART - 1)
    if kind == "folder":
        corpus(root)
        return root / "011.png"
    root.mkdir()
    path = root / f"all.{kind}"
    if kind == "tar":
        write_tar(path, files)
    elif kind == "parquet":
        write_parquet(path, list(files.values()))
    else:
        np.save(path, np.stack([picture(n) for n in range(len(files))]))
    return path


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("folder", 3, "1 sample could not be read (first: 011.png: changed since it was listed"),
        ("tar", 4, "all.tar"),
        ("parquet", 4, "all.parquet"),
        ("npy", 4, "all.npy"),
    ],
)
def test_a_file_that_shrinks_while_it_is_read(bench: Bench, kind: str, code: int, words: str) -> None:
    scheme = {"tar": "wds"}.get(kind, kind)
    file = laid_out(bench.root / "source", kind)
    (bench.root / "in").rename(bench.root / "other")
    (bench.root / "source").rename(bench.root / "in")
    file = bench.root / "in" / file.name
    data, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    source = f"{scheme}:in" if kind == "folder" else f"{scheme}:in/all.{kind}"
    assert words in bench.stage("ingest", corpus=source, before="shrink").refused(code)
    bench.check()
    file.write_bytes(data)
    os.utime(file, ns=times)
    assert bench.stage("ingest", corpus=source).code == 0
    after = contents(bench.disk)
    bench.disk.rename(bench.root / "first")
    bench.disk.mkdir()
    assert bench.stage("ingest", corpus=source).code == 0
    assert contents(bench.disk) == after
