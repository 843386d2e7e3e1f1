"""A run as rows: `runs.parquet` and `metrics.parquet`, so that `manifests sql` answers across methods and seeds."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from distill.train import read_metrics
from manifests.provenance import Provenance, canonical_json
from manifests.schema import METRICS, RUNS
from manifests.write import write_manifest


def write_run_manifest(run: Path, report: Mapping[str, Any]) -> None:
    """Write both manifests of a run folder, from its report, its metrics.jsonl and its latest evaluation."""
    plan = report["run"]
    parents = {"teacher": plan["teacher"], **({"transfer_set": plan["transfer_set"]} if plan["transfer_set"] else {})}
    made = Provenance(step="train", config=plan, parents=parents, teacher=report["teacher"])
    name = run.resolve().name
    rows = pa.Table.from_pylist([run_row(run, report)], schema=RUNS.plain_schema())
    write_manifest(run, RUNS, rows, provenance=made)
    metrics = pa.Table.from_pylist([*_metrics(name, run)], schema=METRICS.plain_schema())
    write_manifest(run, METRICS, metrics, provenance=made)


def run_row(run: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """A run's row of `runs.parquet`."""
    evaluation = _evaluation(run)
    plan, agreement = report["run"], report["agreement"]
    students = evaluation["students"] if evaluation else {}
    return {
        "run": run.resolve().name,
        **{column: plan[column] for column in ("method", "student", "transfer_set", "seed")},
        "teacher": report["teacher"]["name"],
        "teacher_sha256": report["teacher"]["sha256"],
        "config": canonical_json(plan["config"]),
        **{column: report[column] for column in ("images", "finished", "steps", "student_updates", "teacher_queries")},
        "seconds": report["seconds"],
        "agreement_last": agreement["last"],
        "agreement_chosen": agreement["chosen"],
        "accuracy_last": students.get("last", {}).get("accuracy"),
        "accuracy_chosen": students.get("chosen", {}).get("accuracy"),
        "evaluated_on": evaluation["corpus"] if evaluation else None,
        "device": report["hardware"]["name"],
    }


def _evaluation(run: Path) -> dict[str, Any] | None:
    """The latest of a run's evaluations."""
    found = sorted(run.glob("eval-*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return dict(json.loads(found[-1].read_bytes())) if found else None


def _metrics(name: str, run: Path) -> Iterator[dict[str, Any]]:
    for line in read_metrics(run):
        for key, number in numbers(line).items():
            value = number if math.isfinite(number) else None
            yield {"run": name, "step": line["step"], "name": key, "value": value}


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """What a line of metrics.jsonl says beside its step, as numbers by name; of a generator `synthetic.entropy`, ..."""
    nested = {f"synthetic.{key}": value for key, value in line.get("synthetic", {}).items()}
    named = {**line, **nested}
    return {key: float(value) for key, value in named.items() if key != "step" and isinstance(value, int | float)}
