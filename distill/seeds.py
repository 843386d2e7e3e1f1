"""The same run under several seeds: each in a folder of its own, and their mean and spread."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.material import Material
from distill.models.teachers import Classifier
from distill.run import Place, RunConfig, distill
from distill.train import Pace
from manifests.commit import PLAN, write_json
from manifests.errors import OutputConflict

SUMMARY = "seeds.json"
FACTS = ("finished", "student_updates", "teacher_queries", "seconds", "damage", "held_out_damage")
"""what the summary says of each run, as its report does, beside its agreement"""


def distill_seeds(
    material: Material,
    teacher: Classifier,
    run: RunConfig,
    *,
    seeds: Sequence[int],
    out: Path,
    place: Place,
    pace: Pace | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train under each seed in ``out/seed-N`` and summarise; the time of ``pace.stop_after_s`` is for all of them.

    Raises `OutputConflict` where ``out`` is itself a run.
    """
    if (out / PLAN).exists():
        raise OutputConflict(f"{out} is the folder of one run; choose another --out for those of several seeds")
    pace, started, runs = pace or Pace(), time.monotonic(), []
    for seed in seeds:
        left = None
        if pace.stop_after_s is not None:
            left = pace.stop_after_s - (time.monotonic() - started)
            if place.ranks.agree(left <= 0, place.device):  # each has a clock of its own
                break
            left = max(left, 0.0)
        folder = folder_of(out, seed)
        report = distill(
            material,
            teacher,
            replace(run, seed=seed),
            out=folder,
            place=place,
            pace=replace(pace, stop_after_s=left),
            **options,
        )
        if place.ranks.first:
            facts = {name: report[name] for name in FACTS}
            runs.append({"seed": seed, "out": str(folder), **facts, **_agreement(report)})
    summary = {
        "runs": runs,
        "unfinished": len(seeds) - sum(each["finished"] for each in runs),
        **{name: spread([each[name] for each in runs if each["finished"]]) for name in ("last", "chosen")},
    }
    if place.ranks.first:
        write_json(out / SUMMARY, summary)
    return summary


def folder_of(out: Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return out / f"seed-{seed}"


def _agreement(report: dict[str, Any]) -> dict[str, float | None]:
    return {name: report["agreement"][name] for name in ("last", "chosen")}


def spread(values: Sequence[float | None]) -> dict[str, float | int] | None:
    """Mean, sample standard deviation (0 of one value) and number of what is there, or None."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    if not there:
        return None
    sd = statistics.stdev(there) if len(there) > 1 else 0.0
    return {"mean": statistics.fmean(there), "sd": sd, "n": len(there)}
