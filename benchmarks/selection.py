"""Selection over many rows: how long a rule's query takes, and writing every row's decision, in how much memory.

    python benchmarks/selection.py [--rows 5000000] [--modes entropy-topk balanced ...] [--budget 50000] [--folder DIR]

Prints JSON: for each mode the seconds of the query, of deciding and writing all manifests (samples, scores, selection:
a decision and a reason for every row), and the processor seconds and peak memory of a process of its own. The scores
are generated, in key order as `curate score` writes them, into --folder (kept, so that a second run finds them) or a
temporary one.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.choice import Choice
from curate.select import SELECTORS
from curate.select.base import Quota
from curate.select.decide import decide
from curate.select.pool import Scored, open_pool
from manifests.provenance import Provenance
from manifests.schema import SAMPLES, SCORES
from manifests.write import ROW_GROUP, manifest_writer

CLASSES = 10
OPTIONS: dict[str, dict[str, Any]] = {
    "band": {"where": "entropy BETWEEN 0.2 AND 0.6"},
    "sql": {"sql": "SELECT key FROM scores WHERE margin < 0.9 ORDER BY entropy DESC, key LIMIT 50000"},
}
GEOMETRIC = ("kcenter", "hausdorff")
"""work on vectors, not on a query: benchmarks/kcenter.py"""


def generate(folder: Path, rows: int) -> None:
    """Samples and scores of one corpus, piece by piece: gamma-distributed entropies, uniform classes and keys."""
    made = Provenance(step="score")
    with (
        manifest_writer(folder, SAMPLES, provenance=made) as samples,
        manifest_writer(folder, SCORES, provenance=made) as scores,
    ):
        for start in range(0, rows, ROW_GROUP):
            number = np.arange(start, min(rows, start + ROW_GROUP))
            generator = np.random.default_rng(start)
            key, other = _keys(number, rows, generator), _keys(number, rows, generator)
            nothing = pa.nulls(len(number), pa.string())
            samples.write(
                pa.table(
                    {"key": key, "uri": [f"{n:09d}.jpg" for n in number], "pixel_hash": other}
                    | {"corpus": pa.repeat("c", len(number)), "status": pa.repeat("ok", len(number))}
                    | dict.fromkeys(("source_label", "error", "duplicate_of"), nothing)
                    | dict.fromkeys(("width", "height"), pa.array(np.full(len(number), 32, np.int32)))
                    | {"shard": number // 20_000, "block": number % 20_000 // 256, "row": number % 256}
                )
            )
            scores.write(_scores(key, generator))


def _scores(key: pa.Array, generator: np.random.Generator) -> pa.Table:
    entropy = generator.gamma(0.5, 0.4, len(key)).clip(0, 2.3).astype(np.float32)
    confidence = np.exp(-entropy)
    numbers = {"entropy": entropy, "confidence": confidence, "margin": confidence / 2, "energy": -3 * entropy}
    pred = generator.integers(0, CLASSES, len(key))
    return pa.table({"key": key, "status": pa.repeat("ok", len(key)), "pred": pred, "self_ce": entropy / 2, **numbers})


def _keys(number: np.ndarray[Any, Any], rows: int, generator: np.random.Generator) -> pa.Array:
    """Ascending 128-bit numbers, one in each of ``rows`` equal intervals, as 32 hex digits."""
    step = np.uint64((1 << 64) // rows - 1)
    high = number.astype(np.uint64) * step + generator.integers(0, step, len(number), dtype=np.uint64)
    low = generator.integers(0, 1 << 63, len(number), dtype=np.uint64)
    digits = np.stack([high, low], 1).astype(">u8").tobytes().hex()
    return pa.array([digits[i : i + 32] for i in range(0, len(digits), 32)])


def measure(folder: Path, mode: str, budget: int) -> dict[str, float]:
    """Seconds of one mode and the peak memory of this process."""
    corpus = Scored(name="c", samples=folder / SAMPLES.file, scores=folder / SCORES.file, vectors={})
    choice = Choice(mode=mode, budget=budget, **OPTIONS.get(mode, {}))
    out = folder / f"out-{os.getpid()}"
    names = [str(n) for n in range(CLASSES)]
    with open_pool([corpus], class_names=names, spill=out / "spill") as pool:
        began = time.perf_counter()
        if choice.where:
            pool.restrict(choice.where)
        picked = SELECTORS[mode].pick(pool, choice, Quota.of(choice, pool.corpora))
        asked = time.perf_counter()
        made = Provenance(step="select")
        decided = decide(pool, picked, seed=0, holdout=0.05, folder=out, provenance=made)
        done = time.perf_counter()
    written = {facts.name: facts.bytes for facts in decided.files}
    shutil.rmtree(out)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "query_s": round(asked - began, 2),
        "decide_and_write_s": round(done - asked, 2),
        "selected": len(picked.rows),
        "written_MB": round(sum(written.values()) / 1e6),
        "processor_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_MB": round(used.ru_maxrss / 1024),
    }


def _measured(folder: Path, modes: list[str], budget: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Each mode in a process of its own, so that its memory is its own."""
    for mode in modes:
        command = [sys.executable, __file__, "--only", mode, "--folder", str(folder), "--budget", str(budget)]
        yield mode, json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    queries = [mode for mode in SELECTORS if mode not in GEOMETRIC]
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--modes", nargs="*", default=queries, choices=queries)
    parser.add_argument("--budget", type=int, default=50_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.folder, options.only, options.budget)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder / f"rows-{options.rows}" if options.folder else Path(name)
        if not (folder / SCORES.file).exists():
            generate(folder, options.rows)
        found = dict(_measured(folder, options.modes, options.budget))
    import torch  # here: it would count as memory of what is measured

    from distill.device import hardware

    million = options.rows / 1e6
    for facts in found.values():
        facts["s_per_million"] = round((facts["query_s"] + facts["decide_and_write_s"]) / million, 3)
    machine = hardware(torch.device("cpu"))
    print(json.dumps({"rows": options.rows, "budget": options.budget, "modes": found, "hardware": machine}, indent=1))


if __name__ == "__main__":
    main()
