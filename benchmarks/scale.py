"""Does the cost of an image, of opening a set, or memory grow with the set or with time?

    python benchmarks/scale.py [--rows 10000 100000 1000000 10000000] [--streamed 36000000] [--work DIR] [--out FILE]

Sets of noise at 8 px (10 million images: 2.3 GB). Each measurement is a process of its own. `open_s` is by the clock,
from the folder's name to the first batch, and of the processor; the cost of an image is processor time of all threads,
a median over epochs.

For memory, 50,000 images of 32 px are streamed over and over: by default 36 million images in batches of 256, what a
trainer that takes 10,000 images a second sees in an hour. The resident set is looked at after every epoch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from shards.bench import write_noise
from shards.index import open_folder
from shards.sources import LocalBlocks
from shards.stream import Stream

ROOT = Path(__file__).resolve().parent.parent
BATCH = 256
LEAST = 400_000  # images for a cost: small sets are read several times


def opening(path: Path) -> dict[str, float]:
    """Seconds of each step until the first batch, and of processor time of all of them."""
    used, marks = time.process_time(), [time.perf_counter()]
    folder = open_folder(path)
    marks.append(time.perf_counter())
    source = LocalBlocks(folder)
    marks.append(time.perf_counter())
    stream = Stream(source, batch_size=BATCH)
    marks.append(time.perf_counter())
    next(stream)
    marks.append(time.perf_counter())
    found = dict(zip(("open_folder", "source", "stream", "first_batch"), map(float, np.diff(marks)), strict=True))
    return {**found, "all": marks[-1] - marks[0], "processor": time.process_time() - used}


def cost(path: Path, *, resident: bool) -> dict[str, Any]:
    """Microseconds of processor time an image, after a first epoch."""
    stream = Stream(LocalBlocks(open_folder(path)), batch_size=BATCH, resident=resident)
    costs: list[float] = []
    images = 0
    while images < LEAST or len(costs) < 3:
        used = time.process_time()
        for _ in stream.one_epoch():
            pass
        costs.append((time.process_time() - used) / stream.rows * 1e6)
        images += stream.rows
        stream.epoch += 1
    return {"us_an_image": round(statistics.median(costs[1:]), 3), "epochs": len(costs)}


def memory(path: Path, *, resident: bool, streamed: int) -> dict[str, Any]:
    """Resident set, MB: after the first epoch, and the most and the last of all later ones."""
    stream = Stream(LocalBlocks(open_folder(path)), batch_size=BATCH, resident=resident)
    seen = []
    for epoch in range(-(-streamed // stream.rows)):
        stream.epoch = epoch
        for _ in stream.one_epoch():
            pass
        seen.append(resident_set())
    first, later = seen[0], seen[1:]
    found = {"first_epoch_mb": first, "most_mb": max(later), "last_mb": later[-1]}
    return {
        **found,
        "most_over_first": round(max(later) / first, 4),
        "epochs": len(seen),
        "images": len(seen) * stream.rows,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Least, median, most."""
    return {
        "least": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "most": round(max(values), 4),
    }


def resident_set() -> float:
    """MB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def apart(what: str, path: Path, **options: Any) -> Any:
    """One of the three above, in a process of its own."""
    print(f"{path.name}: {what} {options or ''}", file=sys.stderr)
    task = json.dumps({"what": what, "path": str(path), "options": options})
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__, "--task", task], env=env, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def main() -> None:
    """Measure, print and write; or one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--streamed", type=int, default=36_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task = json.loads(options.task)
        tasks: dict[str, Callable[..., Any]] = {"opening": opening, "cost": cost, "memory": memory}
        print(json.dumps(tasks[task["what"]](Path(task["path"]), **task["options"])))
        return
    from benchmarks.stream import hardware  # here: the tasks' memory is without torch

    with tempfile.TemporaryDirectory(dir=options.work) as name:
        sets = {rows: Path(name) / f"{rows}" for rows in options.rows}
        for rows, path in sets.items():
            print(f"writing {rows:,} images", file=sys.stderr)
            write_noise(path, images=rows, size=8)
        opened = {rows: [apart("opening", path) for _ in range(options.repeats)] for rows, path in sets.items()}
        costs: dict[int, dict[str, list[float]]] = {rows: {"window": [], "resident": []} for rows in sets}
        for _ in range(options.repeats):  # in turns, for others may use the machine meanwhile
            for rows, path in sets.items():
                for held, found in costs[rows].items():
                    found.append(apart("cost", path, resident=held == "resident")["us_an_image"])
        memory_set = Path(name) / "memory"
        write_noise(memory_set, images=50_000, size=32)
        grown = {
            held: apart("memory", memory_set, resident=held == "resident", streamed=options.streamed)
            for held in ("window", "resident")
        }
    least = {held: min(costs[options.rows[0]][held]) for held in ("window", "resident")}
    report = {
        "size": 8,
        "batch": BATCH,
        "repeats": options.repeats,
        "sets": {
            f"{rows}": {
                "open_s": {name: spread([one[name] for one in opened[rows]]) for name in opened[rows][0]},
                **{
                    held: {
                        "us_an_image": spread(found),
                        "least_over_smallest_set": round(min(found) / least[held], 3),
                    }
                    for held, found in costs[rows].items()
                },
            }
            for rows in sets
        },
        "memory_32px": grown,
        "hardware": {**hardware(), "transferset": version("transferset")},
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
