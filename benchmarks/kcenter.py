"""How long greedy k-center takes, and how well it covers, beside the plain loop that takes one point a step.

    python benchmarks/kcenter.py [--sizes 2000/20000 5000/100000 50000/200000] [--plain 2000/20000] [--threads 2]

Prints JSON; processor seconds count all threads, and say more than seconds on a machine that others use too. The
features are a mixture of Gaussians of several widths, float32. The plain loop updates every distance after each step,
by a matrix-vector product in float64; its order is the exact one, so radii are compared with its own.
"""

import argparse
import json
import os
import resource
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curate.cover import greedy_cover
from distill.device import hardware

Features = NDArray[np.float32]


def size(text: str) -> tuple[int, int]:
    """`5000/100000` -> 5,000 of 100,000."""
    count, of = text.split("/")
    return int(count), int(of)


def clustered(count: int, dim: int, clusters: int) -> Features:
    """A mixture of Gaussians: means N(0, 1), widths 0.2 to 1 a coordinate, drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    means, widths = rng.normal(size=(clusters, dim)), rng.uniform(0.2, 1, clusters)
    cluster = rng.integers(0, clusters, count)
    features: Features = rng.standard_normal((count, dim), np.float32)
    features *= widths[cluster, None]
    features += means[cluster]
    return features


def plain(features_ND: Features, count: int) -> tuple[list[int], float]:
    """The points and the covering radius of greedy k-center, one point a step."""
    points_ND = features_ND - features_ND.mean(axis=0, dtype=np.float64)
    square_N = np.square(points_ND).sum(axis=1)
    worth_N, gap_N = square_N, np.full(len(points_ND), np.inf)
    chosen = list[int]()
    for _ in range(count):
        chosen.append(int(worth_N.argmax()))
        apart_N = square_N + square_N[chosen[-1]] - points_ND @ (2 * points_ND[chosen[-1]])
        worth_N = gap_N = np.minimum(gap_N, apart_N)
    return chosen, float(np.sqrt(gap_N.max()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=size, default=[(2000, 20_000), (5000, 100_000), (50_000, 200_000)])
    parser.add_argument("--plain", type=size, default=(2000, 20_000), help="size of the comparison")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for count, of in options.sizes:
        features, batches = clustered(of, options.dim, options.clusters), list[int]()
        start, busy = time.perf_counter(), time.process_time()
        found = greedy_cover(features, count, threads=options.threads, advance=batches.append)
        took = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - busy}
        radius = {str(k): round(float(found.radius[k - 1]), 6) for k in (1, count // 10, count // 2, count) if k}
        steps = {"batches": len([b for b in batches if b]), "largest_batch": max(batches)}
        took = {name: round(value, 2) for name, value in took.items()}
        runs.append({"count": count, "of": of, **took, "radius": radius, **steps})
    count, of = options.plain
    features = clustered(of, options.dim, options.clusters)
    start = time.perf_counter()
    chosen, radius_of_plain = plain(features, count)
    between = time.perf_counter()
    found = greedy_cover(features, count, threads=options.threads)
    seconds = time.perf_counter() - between
    comparison = {
        "count": count,
        "of": of,
        "plain_seconds": round(between - start, 2),
        "seconds": round(seconds, 2),
        "radius_ratio": float(found.radius[-1]) / radius_of_plain,
        "same_order": found.chosen.tolist() == chosen,
    }
    setting = {"dim": options.dim, "clusters": options.clusters, "threads": options.threads}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    report = {**setting, "runs": runs, "plain_greedy": comparison, "peak_memory_mb": peak}
    print(json.dumps({**report, "hardware": hardware(torch.device("cpu"))}, indent=1))


if __name__ == "__main__":
    main()
