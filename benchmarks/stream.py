"""How fast the stream delivers images, beside other readers of the same images: one run, one core each, in turns.

    python benchmarks/stream.py [--images 50000] [--large 1500] [--rounds 5] [--peer litdata=PYTHON ...] [--out FILE]

Delivered is a batch of 256 images as a uint8 (B, 3, H, W) tensor on the CPU. Each measurement is a process of its own,
held to one core, that opens the set, reads one epoch (`first`: with opening, the system's cache warm) and then some
more (`steady`). Rates are images per second of processor time, of all threads and with the system's part, since others
may use the machine meanwhile; `wall` is by the clock. All are medians over rounds in which the readers take turns.

The extra `bench` installs the peers. ``--peer NAME=PYTHON`` runs one in an environment of its own; one that cannot be
run is reported with its error. The images are the built-in photographs: crops at 32 px, and at 224 px.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import READERS, Data, Epochs, save

ROOT = Path(__file__).resolve().parent.parent
LARGE = ("window", "webdataset")
TWO_CORES = ("window", "webdataset-2")
BASELINE = "webdataset"


def make_data(folder: Path, *, images: int, size: int) -> Data:
    """A store of the built-in photographs, and the same images for the others."""
    from curate.corpora import open_corpus
    from curate.ingest import ingest
    from shards.codec import Encoded
    from shards.layout import Block
    from shards.read import read_shard

    store = ingest(open_corpus(f"photos=builtin:photos?n={images}"), size=size, work=folder / "work").store
    blocks = [block for shard in store.shards for block in read_shard(store.path, shard)]

    def encoded(block: Block) -> Iterator[bytes]:
        found = block.images if isinstance(block.images, Encoded) else Encoded.of(block.images)
        return map(bytes, found.encoded())

    data = save(
        folder / "data",
        np.concatenate([block.images_NCHW for block in blocks]),
        np.concatenate([block.labels for block in blocks]),
        [image for block in blocks for image in encoded(block)],
    )
    store.path.rename(data.place("ours"))
    return data


def measure(epochs_of: str, data: Data, *, cores: int, seconds: float) -> dict[str, Any]:
    """In this process: the first epoch, and as many more as take some seconds, at least two."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    torch.set_num_threads(1)
    torch.from_numpy(np.zeros(1, np.uint8))  # loads what torch loads late
    reader = READERS[epochs_of]
    for module in reader.modules:
        importlib.import_module(module)
    started, used = time.perf_counter(), cpu_seconds()
    epochs = reader.open(data)
    images = deliver(epochs, 0)
    first = images / (cpu_seconds() - used)
    steady = list[tuple[float, float]]()
    begun, number = time.perf_counter(), 1
    first_wall = images / (begun - started)
    while len(steady) < 2 or time.perf_counter() - begun < seconds:
        started, used = time.perf_counter(), cpu_seconds()
        delivered = deliver(epochs, number)
        steady.append((delivered / (cpu_seconds() - used), delivered / (time.perf_counter() - started)))
        number += 1
    cpu, wall = (statistics.median(column) for column in zip(*steady, strict=True))
    return {
        "version": version(reader.package),
        "images": images,
        "first": first,
        "first_wall": first_wall,
        "steady": cpu,
        "steady_wall": wall,
    }


def deliver(epochs: Epochs, number: int) -> int:
    """Read one epoch and count its images."""
    images = 0
    for batch in epochs(number):
        if batch.dtype != torch.uint8 or batch.shape[1] != 3:
            raise SystemExit(f"delivered {batch.dtype} {tuple(batch.shape)}, not uint8 (B, 3, H, W)")
        images += len(batch)
    return images


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def run(python: str, name: str, data: Data, *options: str) -> dict[str, Any]:
    """`measure` or prepare in a process of its own; a reader that fails gives its error."""
    command = [python, str(Path(__file__)), "--one", name, "--data", str(data.folder), *options]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(data: Data, names: Sequence[str], *, rounds: int, seconds: float, cores: int, python: dict[str, str]) -> Any:
    """Rows of one table: the readers take turns, and each figure is the median of the rounds."""
    ready = {name: run(python.get(name, sys.executable), name, data, "--prepare") for name in names}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names if "error" not in ready[name]}
    for number in range(rounds):
        for name in [*found]:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            options = ("--cores", str(cores), "--seconds", str(seconds))
            one = run(python.get(name, sys.executable), name, data, *options)
            if "error" in one:
                ready[name] = one
                del found[name]
            else:
                found[name].append(one)
    rows = {name: summary(found[name]) if name in found else ready[name] for name in names}
    for name, row in rows.items():
        row["what"] = READERS[name].what
        if "steady" in row and "steady" in rows.get(BASELINE, {}):
            row["over_webdataset"] = round(row["steady"]["median"] / rows[BASELINE]["steady"]["median"], 1)
    return rows


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most over the rounds."""
    row: dict[str, Any] = {"version": rounds[0]["version"], "images": rounds[0]["images"]}
    for name in ("first", "steady", "first_wall", "steady_wall"):
        values = sorted(one[name] for one in rounds)
        row[name] = {"median": round(statistics.median(values)), "least": round(values[0]), "most": round(values[-1])}
    return row


def hardware() -> dict[str, Any]:
    """Of what this ran on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "name": names[0],
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    """Measure, print and write; or one reader, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--large", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    for name in ("--one", "--data"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        data = Data(Path(options.data))
        if options.prepare:
            READERS[options.one].prepare(data)
        found = {} if options.prepare else measure(options.one, data, cores=options.cores, seconds=options.seconds)
        print(json.dumps(found))
        return
    how = {"rounds": options.rounds, "seconds": options.seconds, "python": dict(p.split("=", 1) for p in options.peer)}
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        small = make_data(Path(folder) / "small", images=options.images, size=32)
        large = make_data(Path(folder) / "large", images=options.large, size=224)
        one_core = [name for name in READERS if name != "webdataset-2"]
        report = {
            "batch": 256,
            "rounds": options.rounds,
            "images_per_s": "of processor time; wall: by the clock; median over rounds, least, most",
            "one_core_32px": table(small, one_core, cores=1, **how),
            "two_cores_32px": table(small, TWO_CORES, cores=2, **how),
            "one_core_224px": table(large, LARGE, cores=1, **how),
            "hardware": hardware(),
        }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
