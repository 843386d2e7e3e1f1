"""Real ranks under torchrun, killed with SIGKILL at random moments and started again: the undisturbed order."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from shards import ShardFolder, Stream
from shards.sources import LocalBlocks
from tests.shards import make
from tests.shards.rank import OPTIONS, rows

ROOT = Path(__file__).parents[2]
BATCHES = 400  # of 12 of 150 images: 33 epochs, some seconds
LIVES = (2, 2, 1, 2, 1)
"""ranks of each run; all but the last are killed"""
PATIENCE = 300  # s


def lines(file: Path) -> list[dict[str, Any]]:
    """What a rank has written, but for a last line that it did not finish."""
    whole = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in whole]


class Run:
    """One torchrun of some ranks."""

    def __init__(self, folder: Path, out: Path, *, world: int) -> None:
        self.files = [out / f"rank-{rank}.jsonl" for rank in range(world)]
        self._pids = [out / f"pid-{rank}" for rank in range(world)]
        for file in (*self.files, *self._pids):
            file.unlink(missing_ok=True)
        words = ["--standalone", f"--nproc-per-node={world}", str(Path(__file__).with_name("rank.py"))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *words, str(folder), str(out), str(BATCHES)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, written: int) -> None:
        """Until every rank has written so many batches."""
        end = time.monotonic() + PATIENCE
        while any(len(lines(file)) < written for file in self.files):
            if self.process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"ended with {self.process.poll()} before it was killed: {self.process.communicate()[0]}")
            time.sleep(1e-3)

    def kill(self, ranks: list[int]) -> None:
        """Kill some ranks, and what is left of the run then."""
        everyone = [int(file.read_text()) for file in self._pids]
        for pid in [*(everyone[rank] for rank in ranks), self.process.pid, *everyone]:
            with contextlib.suppress(ProcessLookupError):  # torchrun ends the others itself
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()
        for pid in everyone:
            while Path(f"/proc/{pid}").exists():
                time.sleep(1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    """150 images in blocks of 10 and of 5."""
    return make.write_store(tmp_path_factory.mktemp("store"), [[10] * 5, [5] * 10, [10] * 5], size=8)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to see that a process is gone")
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_ranks_go_on_where_all_of_them_were(folder: ShardFolder, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    found: list[list[list[str]]] = []
    for life, world in enumerate(LIVES):
        run = Run(folder.path, tmp_path, world=world)
        if life < len(LIVES) - 1:
            run.wait_for(draw.randrange(1, BATCHES // len(LIVES)))
            time.sleep(draw.uniform(0, 5e-3))
            run.kill(draw.sample(range(world), draw.randint(1, world)))
        else:
            said, _ = run.process.communicate(timeout=PATIENCE)
            assert run.process.returncode == 0, said
        shares = list(zip(*map(lines, run.files), strict=False))  # as far as all of them came
        assert [[line["number"] for line in batch] for batch in shares] == [
            [number] * world for number in range(len(found), len(found) + len(shares))
        ]
        found += [[row for line in batch for row in line["rows"]] for batch in shares]
        (tmp_path / "state.json").write_text(json.dumps(shares[-1][0]["state"]))
    undisturbed = Stream(LocalBlocks(folder, "all"), **OPTIONS)  # type: ignore[arg-type]
    assert len(found) == BATCHES
    assert found == [rows(batch) for batch in islice(undisturbed, BATCHES)]
