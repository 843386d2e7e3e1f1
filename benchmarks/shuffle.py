"""How well a stream is shuffled, on the set where it is hardest: images stored in the order of their classes.

    python benchmarks/shuffle.py [--rows 50000] [--seeds 20] [--out benchmarks/results/shuffle.json]

Only orders are looked at, no images. Every statistic is stated over that of a true permutation of the same rows:

- displacement: mean distance between a row's place in the stream and where it is stored; a third of the rows is right;
- run: mean length of runs of one class;
- longest_run: the longest of them;
- classes: different classes in a batch of 256. A window holds few blocks, so a sorted set of many classes shows few at
  a time, however well it is mixed; `shards pack` stores its rows shuffled, and then this is as in a permutation too.

The peer is webdataset: shards in random order, then its buffer (1,000 samples, begun at 100, are its defaults).
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset
import webdataset.filters
from numpy.typing import NDArray

from manifests.provenance import VERSION
from shards.layout import block_rows
from shards.order import WINDOW, Order

BATCH = 256
Shuffle = Callable[[int], NDArray[np.int64]]
"""stored rows in the order in which a seed streams them"""


def statistics_of(order: NDArray[np.int64], classes: int) -> dict[str, float]:
    """The four statistics of one order of rows that are stored sorted by class, classes of equal size."""
    rows = len(order)
    labels = order * classes // rows
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    whole = labels[: rows - rows % BATCH].reshape(-1, BATCH)
    return {
        "displacement": float(np.abs(order - np.arange(rows)).mean()),
        "run": rows / len(starts),
        "longest_run": float(np.diff(starts, append=rows).max()),
        "classes": float(np.mean([len(np.unique(batch)) for batch in whole])),
    }


def permuted(rows: int) -> Shuffle:
    """A true permutation."""
    return lambda seed: np.random.default_rng(seed).permutation(rows)


def windowed(rows: int, window: int, *, size: int = 32) -> Shuffle:
    """Ours."""
    step = block_rows(size)
    counts = np.array([min(step, rows - start) for start in range(0, rows, step)])

    def shuffled(seed: int) -> NDArray[np.int64]:
        epoch = Order(id="benchmark", counts=counts, seed=seed, window=window).epoch(0)
        return np.concatenate([piece.rows for piece in epoch.pieces(0, rows)])

    return shuffled


def buffered(rows: int, *, shard: int, buffer: int) -> Shuffle:
    """webdataset's: shards of some rows in random order, their samples through its own buffer."""

    def shuffled(seed: int) -> NDArray[np.int64]:
        rng = random.Random(seed)
        firsts = [*range(0, rows, shard)]
        rng.shuffle(firsts)
        samples = (row for first in firsts for row in range(first, min(first + shard, rows)))
        return np.fromiter(webdataset.filters._shuffle(samples, buffer, 100, rng=rng), np.int64, rows)

    return shuffled


def compared(shuffle: Shuffle, truth: Shuffle, classes: int, seeds: int) -> dict[str, dict[str, float]]:
    """Each statistic over a permutation's: mean and standard deviation over the seeds, the denominator their mean."""
    true = [statistics_of(truth(seed), classes) for seed in range(seeds)]
    mine = [statistics_of(shuffle(seed), classes) for seed in range(seeds)]
    found = {}
    for name in mine[0]:
        right = statistics.mean(one[name] for one in true)
        ratios = [one[name] / right for one in mine]
        found[name] = {
            "value": round(right * statistics.mean(ratios), 4),
            "ratio": round(statistics.mean(ratios), 4),
            "sd": round(statistics.stdev(ratios), 4),
        }
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = options.rows
    shuffles = {"permutation": permuted(rows)}
    shuffles |= {f"window {window}": windowed(rows, window) for window in (8, 16, 24, 32, 64)}
    shuffles |= {
        f"webdataset, shards of {shard:,}, buffer {buffer:,}": buffered(rows, shard=shard, buffer=buffer)
        for shard, buffer in ((1_000, 1_000), (10_000, 1_000), (1_000, 8_192))
    }
    report = {
        "rows": rows,
        "block_rows": block_rows(32),
        "batch": BATCH,
        "seeds": options.seeds,
        "default_window": WINDOW,
        "over_a_permutation": {
            f"{classes} classes": {
                name: compared(shuffle, permuted(rows), classes, options.seeds) for name, shuffle in shuffles.items()
            }
            for classes in (10, 100)
        },
        "versions": {"numpy": np.__version__, "webdataset": webdataset.__version__, "transferset": VERSION},
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
