"""Killed with SIGKILL at any step of writing or at any moment, run again: the same bytes as an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.curate.make import Toy, contents, encode, picture, write_folder

ROOT = Path(__file__).parents[2]
STAGES = {"ingest": "stores/", "score": "scores/", "select": "selections/", "pack": "out/"}

LONGEST_UNIT = 3 * 8 + 1
"""points between two commits, at most: a transfer set's last eight files, each synced, renamed, its folder synced"""


def curate_once(root: Path) -> None:
    """Ingest, score, select and pack a small corpus of several parts, with repeats across them."""
    from curate.corpora import base, open_corpus
    from curate.run import curate
    from curate.selection import Choice

    base.PART_SIZE = 4
    corpora = [open_corpus(f"{name}={root.parent / name}") for name in ("one", "two")]
    choice = Choice(budget=8, holdout=0.25)
    curate(corpora, Toy(), choice, work=root / "work", out=root / "work" / "out", threads=2)


def forked(action: Callable[[], None], *, after_s: float | None = None) -> int:
    """Run an action in a child of this process, killed after a time; the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  # a child must never come back into its parent's code
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("a run failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def counting(action: Callable[[], None], before: Callable[[str], None]) -> None:
    """Run an action; ``before`` is told of the file that is about to be made safe, renamed or recorded."""
    fsync, replace = os.fsync, Path.replace

    def told_fsync(descriptor: int) -> None:
        before(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def told_replace(self: Path, target: Path) -> Path:
        before(str(self))
        return replace(self, target)

    os.fsync, Path.replace = told_fsync, told_replace  # type: ignore[assignment,method-assign]
    action()


def die_at(step: int) -> Callable[[str], None]:
    """Kill this process when it comes to the step-th point."""
    seen = 0

    def before(_name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def harness(root: Path) -> dict[str, list[str]]:
    """What went wrong in each kind of run; imports are paid once, each run is a fork."""
    import curate.run  # noqa: F401
    import shards.pack  # noqa: F401

    log = root / "steps"
    started = time.monotonic()
    forked(lambda: counting(lambda: curate_once(root / "whole"), lambda name: _append(log, name)))
    seconds = time.monotonic() - started
    whole, steps = contents(root / "whole"), log.read_text().splitlines()
    problems: dict[str, list[str]] = {"steps": [], "moments": [], "again and again": []}
    draw = random.Random(0)

    def check(kind: str, folder: Path) -> None:
        forked(lambda: curate_once(folder))
        found = contents(folder)
        problems[kind] += [f"{folder.name}: {n}" for n in {*whole, *found} if whole.get(n) != found.get(n)]

    for prefix in STAGES.values():
        of_stage = [n for n, name in enumerate(steps, 1) if f"/work/{prefix}" in f"{name}/"]
        for step in draw.sample(of_stage, 2):
            folder = root / f"step-{step}"
            assert forked(lambda: counting(lambda: curate_once(folder), die_at(step))) == signal.SIGKILL  # noqa: B023
            check("steps", folder)
    for number in range(3):
        folder = root / f"moment-{number}"
        forked(lambda: curate_once(folder), after_s=draw.uniform(0, seconds))  # noqa: B023
        check("moments", folder)
    folder, kills = root / "again", 0
    while kills < 50 and forked(lambda: counting(lambda: curate_once(folder), die_at(LONGEST_UNIT))):
        kills += 1
    problems["again and again"] += [] if 3 <= kills < 50 else [f"{kills} kills"]
    check("again and again", folder)
    return problems


def _append(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(line + "\n")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    root = tmp_path_factory.mktemp("kill")
    same = encode(picture(0))
    files = {f"{n:02d}.png": same if n % 4 == 1 else b"" if n == 6 else encode(picture(n)) for n in range(10)}
    write_folder(root / "one", files)
    write_folder(root / "two", {f"{n}.png": encode(picture(n)) for n in (2, 40, 41)})
    code = f"import json; from tests.curate import test_kill as t; print(json.dumps(t.harness(t.Path({str(root)!r}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name what is written")
@pytest.mark.parametrize("kind", ["steps", "moments", "again and again"])
def test_killed_and_run_again(problems: dict[str, list[str]], kind: str) -> None:
    assert problems[kind] == []
