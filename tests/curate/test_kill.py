"""Killed with SIGKILL at any step of writing or at any moment, run again: the same bytes as an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from tests.curate.make import Toy, contents, encode, picture, write_folder

ROOT = Path(__file__).parents[2]
STAGES = {"ingest": "stores/", "score": "scores/", "select": "selections/", "pack": "out/"}

MOMENTS = 50
PLAN_POINTS = 3
"""a file that is written: synced, renamed, its folder synced"""


def curate_once(root: Path) -> None:
    """Ingest, score, select and pack a small corpus of several parts, with repeats across them."""
    from curate.choice import Choice
    from curate.corpora import base, open_corpus
    from curate.run import Sources, curate

    base.PART_SIZE = 4
    sources = Sources(corpora=[open_corpus(f"{name}={root.parent / name}") for name in ("one", "two")])
    choice = Choice(budget=8, holdout=0.25)
    curate(sources, Toy(), choice, work=root / "work", out=root / "work" / "out", views=2, threads=2)


def forked(action: Callable[[], None], *, after_s: float | None = None, since: Path | None = None) -> int:
    """Run an action in a child of this process, killed some time after it began, or after the folder ``since`` did.

    Returns the signal that ended it, or 0.
    """
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  # a child must never come back into its parent's code
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if after_s is not None:
        while since and not since.exists() and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(1e-3)
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


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """What a run that nobody kills does."""

    contents: dict[str, bytes]
    steps: list[str]
    """the file of each point, in order"""
    times: list[float]
    """when it came to it, s from its start"""

    @classmethod
    def run(cls, root: Path) -> "Undisturbed":
        import_module("curate.run")  # imports are paid once, each run is a fork

        log, started = root / "steps", time.monotonic()
        forked(lambda: counting(lambda: curate_once(root / "whole"), lambda name: _append(log, name)))
        lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
        times = [float(when) - started for when, _ in lines]
        return cls(contents=contents(root / "whole"), steps=[name for _, name in lines], times=times)

    def of_stage(self, prefix: str) -> list[int]:
        """The points of a stage, counted from 1."""
        return [n for n, name in enumerate(self.steps, 1) if f"/work/{prefix}" in f"{name}/"]

    def longest_unit(self) -> int:
        """Points from one commit record to the next, at most, also where the plan is written again before it.

        Who dies one point later gets on each time.
        """
        commits = [0, *(n for n, name in enumerate(self.steps, 1) if name.endswith("/commits"))]
        return max(after - before for before, after in pairwise(commits)) + PLAN_POINTS

    def differences(self, folder: Path) -> list[str]:
        """What differs where a run in ``folder`` was killed, once it is run again."""
        forked(lambda: curate_once(folder))
        found = contents(folder)
        names = sorted({*self.contents, *found})
        return [f"{folder.name}: {n}" for n in names if self.contents.get(n) != found.get(n)]


def harness(root: Path) -> dict[str, list[str]]:
    """What went wrong in each kind of run."""
    whole, draw = Undisturbed.run(root), random.Random(0)
    problems: dict[str, list[str]] = {"steps": [], "moments": [], "again and again": []}
    for prefix in STAGES.values():
        for step in draw.sample(whole.of_stage(prefix), 2):
            folder = root / f"step-{step}"
            assert forked(lambda: counting(lambda: curate_once(folder), die_at(step))) == signal.SIGKILL  # noqa: B023
            problems["steps"] += whole.differences(folder)
    for number in range(3):
        folder = root / f"moment-{number}"
        forked(lambda: curate_once(folder), after_s=draw.uniform(0, whole.times[-1]))  # noqa: B023
        problems["moments"] += whole.differences(folder)
    folder, kills = root / "again", 0
    while kills < 50 and forked(lambda: counting(lambda: curate_once(folder), die_at(whole.longest_unit() + 1))):
        kills += 1
    problems["again and again"] += [] if 3 <= kills < 50 else [f"{kills} kills"]
    problems["again and again"] += whole.differences(folder)
    return problems


def moments(root: Path) -> dict[str, list[str]]:
    """What went wrong after kills at MOMENTS random moments, and how many hit each stage, the same share of each."""
    whole = Undisturbed.run(root)
    ends = [whole.times[whole.of_stage(prefix)[-1] - 1] for prefix in STAGES.values()]
    lengths = [end - begin for begin, end in pairwise([0.0, *ends])]
    problems: list[str] = []
    hit = []
    for number in range(MOMENTS):
        aim, folder = number % len(STAGES), root / f"moment-{number}"
        begins = folder / "work" / list(STAGES.values())[aim] if aim else None
        after_s = random.Random(number).uniform(0, lengths[aim])
        if forked(lambda: curate_once(folder), after_s=after_s, since=begins):  # noqa: B023
            begun = [name for name, prefix in STAGES.items() if (folder / "work" / prefix).exists()]
            hit.append(begun[-1] if begun else "ingest")
        problems += whole.differences(folder)
        shutil.rmtree(folder)
    return {"problems": problems, "hit": hit}


def _append(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{time.monotonic()} {line}\n")


def in_a_process(root: Path, function: str) -> dict[str, list[str]]:
    """Lay out two corpora and have a function of this module look at them, in a process that has no threads."""
    same = encode(picture(0))
    files = {f"{n:02d}.png": same if n % 4 == 1 else b"" if n == 6 else encode(picture(n)) for n in range(10)}
    write_folder(root / "one", files)
    write_folder(root / "two", {f"{n}.png": encode(picture(n)) for n in (2, 40, 41)})
    code = (
        f"import json; from tests.curate import test_kill as t; print(json.dumps(t.{function}(t.Path({str(root)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return in_a_process(tmp_path_factory.mktemp("kill"), "harness")


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name what is written")


@needs_proc
@pytest.mark.parametrize("kind", ["steps", "moments", "again and again"])
def test_killed_and_run_again(problems: dict[str, list[str]], kind: str) -> None:
    assert problems[kind] == []


@needs_proc
@pytest.mark.slow
def test_killed_at_fifty_moments_and_run_again(tmp_path: Path) -> None:
    found = in_a_process(tmp_path, "moments")
    assert found["problems"] == []
    assert min(Counter(found["hit"])[stage] for stage in STAGES) >= 4, found["hit"]  # of 12 or 13 that were aimed at it
