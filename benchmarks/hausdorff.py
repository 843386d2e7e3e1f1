"""How fast the exact directed Hausdorff distance is: seconds of `curate.distance.directed` over those of others.

    python benchmarks/hausdorff.py [--threads 1 2] [--repeats 5]

Prints JSON. Brute force is `faiss.knn` with k = 1 (float32, the largest of its distances), the other is scipy's
`directed_hausdorff` (float64, one thread, stops early). All take turns in one process; figures are medians over the
repeats, after one turn that is not counted. Beside them stand the ratios of the fastest turns, which other work on the
machine disturbs least: brute force in two threads suffers from it far more than the others do, so that on a busy
machine one thread is the safer comparison. Vectors are of 128 numbers:

- clustered: 100 clusters of deviation 1 around centres of deviation 3, both sets from the same
- nothing to drop: every row of A has one neighbour in B far nearer than any other, at a distance that rises the nearer
  the row lies to the middle of B, so that no row can be told from the farthest before nearly all pairs are looked at
  (without scipy, which would take the better part of a minute a turn)

The claims: at most 0.15 of brute force and faster than scipy at 20,000 x 100,000 clustered, at most 1.5 of scipy's time
at 5,000 x 20,000, and at most 1.3 of brute force where there is nothing to drop.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import directed_hausdorff

from curate.distance import directed
from distill.device import hardware

WIDTH = 128
Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def clustered(a: int, b: int) -> Pair:
    """Both sets from one mixture."""
    generator = np.random.default_rng(0)
    centres = 3 * generator.standard_normal((100, WIDTH), dtype=np.float32)
    one, other = (
        centres[generator.integers(0, 100, rows)] + generator.standard_normal((rows, WIDTH), dtype=np.float32)
        for rows in (a, b)
    )
    return one, other


def nothing_to_drop(a: int, b: int) -> Pair:
    """Each row of A a step of 1 to 1.1 from its own row of B; the rows of B are some 14 apart."""
    generator = np.random.default_rng(0)
    base, step = (generator.standard_normal((rows, WIDTH), dtype=np.float32) for rows in (b, a))
    chosen = base[generator.permutation(b)[:a]]
    chosen = chosen[np.argsort(-np.linalg.norm(chosen, axis=1))]
    length = np.linspace(1, 1.1, a, dtype=np.float32)[:, None]
    return chosen + length * step / np.linalg.norm(step, axis=1, keepdims=True), base


def measure(sets: Pair, *, threads: int, repeats: int, with_scipy: bool) -> dict[str, Any]:
    """Median seconds of each, and their ratios."""
    a_ND, b_MD = sets
    ways: dict[str, Callable[[], float]] = {
        "directed": lambda: directed(a_ND, b_MD, threads=threads).distance,
        "faiss": lambda: float(np.sqrt(faiss.knn(a_ND, b_MD, 1)[0].max())),
    }
    if with_scipy:
        ways["scipy"] = lambda: float(directed_hausdorff(a_ND, b_MD)[0])
    taken: dict[str, list[float]] = {name: [] for name in ways}
    answers = {name: way() for name, way in ways.items()}
    for turn in range(repeats):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            ways[name]()
            taken[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    if not np.isclose(answers["directed"], answers.get("scipy", answers["directed"]), rtol=1e-12, atol=0):
        raise AssertionError(f"they differ: {answers}")
    return {
        "rows": [len(a_ND), len(b_MD)],
        "seconds": {name: round(median, 4) for name, median in medians.items()},
        "fastest_and_slowest": {name: [round(min(s), 4), round(max(s), 4)] for name, s in taken.items()},
        "ratio_to": {name: round(medians["directed"] / medians[name], 3) for name in ways if name != "directed"},
        "ratio_of_the_fastest": {
            name: round(min(taken["directed"]) / min(taken[name]), 3) for name in ways if name != "directed"
        },
        "distance": answers,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    runs: dict[int, dict[str, Any]] = {}
    for threads in options.threads:
        faiss.omp_set_num_threads(threads)
        how = {"threads": threads, "repeats": options.repeats}
        runs[threads] = {
            "clustered": measure(clustered(20_000, 100_000), **how, with_scipy=True),
            "clustered, small": measure(clustered(5_000, 20_000), **how, with_scipy=True),
            "nothing to drop": measure(nothing_to_drop(20_000, 100_000), **how, with_scipy=False),
        }
    versions = {"numpy": np.__version__, "faiss": faiss.__version__, "scipy": scipy.__version__}
    machine = {**hardware(torch.device("cpu")), **versions}
    print(json.dumps({"repeats": options.repeats, "width": WIDTH, "threads": runs, "hardware": machine}, indent=1))


if __name__ == "__main__":
    main()
