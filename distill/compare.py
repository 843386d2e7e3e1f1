"""Runs side by side: a table, and a page whose curves share their axes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import DistillError
from distill.report import read_report
from distill.run_manifest import run_row
from distill.seeds import SUMMARY, spread
from distill.train import read_metrics
from manifests.provenance import canonical_json
from shards.page import Figure, lines, render, table

SHOWN = ("method", "student", "teacher", "transfer_set", "config")
"""what is told of runs that differ in their seed alone"""
RESULTS = ("agreement_last", "agreement_chosen", "accuracy_last", "accuracy_chosen")


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among ``folders``, below them, and below theirs of several seeds, each once.

    Raises `DistillError` for one without any.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        inside = sorted(folder.glob("*"))
        seeds = [run for path in inside if (path / SUMMARY).exists() for run in sorted(path.glob("seed-*"))]
        runs = [path for path in (folder, *inside, *seeds) if read_report(path) is not None]
        if not runs:
            raise DistillError(f"{folder} is no run and holds none (no report.json); make one with `distill train`")
        found |= dict.fromkeys(run for run in runs if "transfer_set" in (read_report(run) or {}))
    if not found:
        raise DistillError(f"{', '.join(map(str, folders))}: only pretrained teachers; expected distillation runs")
    return list(found)


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """Every run as a row of its manifest, and runs that differ in their seed alone as one row with mean and spread.

    A run that is there twice, under the same plan and seed, counts once in the second.
    """
    rows: list[dict[str, Any]] = []
    groups: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        report = read_report(run) or {}
        rows.append(run_row(run, report) | {"folder": str(run)})
        plan = canonical_json({name: value for name, value in report["run"].items() if name != "seed"})
        groups[plan].setdefault(report["run"]["seed"], rows[-1])
    return {"runs": rows, "groups": [_group([*same.values()]) for same in groups.values()]}


def _group(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, done = rows[0], [row for row in rows if row["finished"]]
    return {
        **{name: first[name] for name in SHOWN},
        "name": first["run"] if len(rows) == 1 else f"{first['method']} {first['student']}",
        "seeds": [row["seed"] for row in rows],
        "finished": len(done),
        **{name: first[name] for name in ("images", "student_updates", "teacher_queries")},
        "seconds": spread([row["seconds"] for row in done]),
        **{name: spread([row[name] for row in done]) for name in RESULTS},
    }


def comparison_page(runs: Sequence[Path], compared: Mapping[str, Any]) -> str:
    """The page of it: the table, and agreement over steps and over student updates."""
    curves, updates = {}, {}
    for run in runs:
        points = [(line["step"], line["agreement"]) for line in read_metrics(run) if "agreement" in line]
        report = read_report(run) or {}
        each = report["student_updates"] / max(1, report["steps"])
        if points:
            curves[str(run)] = points
            updates[str(run)] = [(step * each, value) for step, value in points]
    header = ["runs", "n", "updates", "queries", *[name.replace("_", " ") for name in RESULTS]]
    body = [
        [g["name"], g["finished"], g["student_updates"], g["teacher_queries"], *[in_words(g[n]) for n in RESULTS]]
        for g in compared["groups"]
    ]
    caption = "Mean and sample standard deviation over the seeds of finished runs."
    figures: list[Figure] = [table("Results", header, body, caption=caption)]
    for title, series, label in (
        ("Agreement by step", curves, "step"),
        ("Agreement by student update", updates, "student updates"),
    ):
        figures.append(lines(title, series, x_label=label, y_label="fraction", caption="On the held-out images."))
    return render(
        title="Runs compared",
        lead="What each method made of its images.",
        facts=[("runs", f"{len(runs):,}")],
        sections=[("Outcome", figures)],
    )


def in_words(found: Mapping[str, float | int] | None) -> str:
    """0.5889 or 0.5889 ± 0.0123."""
    if found is None:
        return ""
    return f"{found['mean']:.4f}" + (f" ± {found['sd']:.4f}" if found["n"] > 1 else "")
