"""The pages of runs: what was learned from, how it went, and what came out. Derived from the run folder alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.train import read_metrics
from manifests.commit import write_bytes
from shards.figures import transfer_set_facts, transfer_set_figures
from shards.index import ShardFolder
from shards.page import Figure, lines, picture, render, table

REPORT = "report.json"
PAGE = "report.html"
SYNTHETIC_MOSAIC = "mosaics/synthetic.png"
_FACTS = {"step", "updates", "seconds", "agreement", "synthetic"}  # what a metrics line says besides loss terms
_LOOK = ("classes", "entropy", "effective_classes", "kl_now", "kl_before")  # of every generator: telemetry.py


def read_report(run: Path) -> dict[str, Any] | None:
    """report.json of a run folder, which is written last, or None."""
    path = run / REPORT
    return dict(json.loads(path.read_bytes())) if path.exists() else None


def write_report(run: Path, report: Mapping[str, Any], folder: ShardFolder | None) -> None:
    """Write `report.html` from ``report``, and the run's metrics.jsonl, mosaic and any eval-*.json.

    ``folder`` is its transfer set; None, where that is gone, leaves the set's section out.
    """
    metrics, plan = read_metrics(run), report["run"]
    sections = [("Outcome", [*_evaluations(run), *_agreement(report, metrics)]), ("Training", _training(metrics))]
    if generator := [*_looks(metrics), *_mosaic(run)]:
        sections.append(("Generator", generator))
    if folder is not None:
        sections.append(("Transfer set", list(transfer_set_figures(folder))))
    page = render(
        title=f"{plan['method']}: {report['teacher']['name']} to {plan['student']}",
        lead="A student trained without its teacher's data.",
        facts=[
            ("method", plan["method"]),
            ("student", plan["student"]),
            ("student updates", f"{report['student_updates']:,}"),
            ("teacher queries", f"{report['teacher_queries']:,}"),
            ("time", f"{report['seconds']:,.0f} s on {report['hardware']['name']}"),
            *(
                transfer_set_facts(folder)
                if folder is not None
                else [("transfer set", (plan["transfer_set"] or "none: synthetic images alone")[:32])]
            ),
        ],
        sections=sections,
    )
    write_bytes(run / PAGE, page.encode())


def write_teacher_report(run: Path, report: Mapping[str, Any], card: Mapping[str, str]) -> None:
    """Write the page of a pretrained classifier; ``card`` is its weights file's metadata."""
    plan = report["run"]
    facts = [("architecture", plan["model"]), ("trained on", f"{int(card['images']):,} images of {card['dataset']}")]
    if report["test_accuracy"] is not None:
        facts.append(("test accuracy", f"{_percent(report['test_accuracy'])} of {report['test_images']:,} images"))
    page = render(
        title=f"{plan['model']} on {card['dataset']}",
        lead="A classifier trained on labelled data.",
        facts=[*facts, ("time", f"{report['seconds']:,.0f} s on {report['hardware']['name']}")],
        sections=[
            ("Training", _training(read_metrics(run))),
            ("Card", [table("The weights file", ["name", "value"], sorted(card.items()), caption="Its metadata.")]),
        ],
    )
    write_bytes(run / PAGE, page.encode())


def _evaluations(run: Path) -> list[Figure]:
    figures = []
    for path in sorted(run.glob("eval-*.json")):
        result = json.loads(path.read_bytes())
        rows: list[list[Any]] = [["teacher", _percent(result["teacher_accuracy"]), ""]]
        rows += [
            [f"student ({name})", _percent(s["accuracy"]), _percent(s["agreement"])]
            for name, s in result["students"].items()
        ]
        caption = f"On {result['images']:,} labelled images of {result['corpus']}."
        figures.append(table("Accuracy", ["network", "accuracy", "agreement with teacher"], rows, caption=caption))
    return figures


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def _agreement(report: Mapping[str, Any], metrics: list[dict[str, Any]]) -> list[Figure]:
    """How often student and teacher name the same class; nothing for a transfer set without a held-out slice."""
    agreement = report["agreement"]
    if not agreement["images"]:
        return []
    points = [(line["step"], line["agreement"]) for line in metrics if "agreement" in line]
    caption = (
        f"On the {agreement['images']:,} held-out images of the transfer set. Last {_percent(agreement['last'])}"
        + (f"; chosen {_percent(agreement['chosen'])}, at step {agreement['chosen_step']:,}." if points else ".")
    )
    title = "Agreement with the teacher"
    return [lines(title, {"student": points}, x_label="step", y_label="fraction", caption=caption)]


def _training(metrics: list[dict[str, Any]]) -> list[Figure]:
    names = sorted({name for line in metrics for name in line} - _FACTS)
    figures = []
    for name in names:
        points = [(line["step"], line[name]) for line in metrics if name in line]
        figures.append(lines(name, {name: points}, x_label="step", y_label="loss", caption="Mean since the last line."))
    return figures


def _looks(metrics: list[dict[str, Any]]) -> list[Figure]:
    """Whether a generator collapses, or the student forgets what it made."""
    looks = [(line["step"], line["synthetic"]) for line in metrics if "synthetic" in line]
    if not looks:
        return []

    def over(*names: str) -> dict[str, list[tuple[float, float]]]:
        return {
            name.replace("_", " "): [(s, look[name]) for s, look in looks if look.get(name) is not None]
            for name in names
        }

    watched = sorted({name for _, look in looks for name in look} - {*_LOOK})
    shown = [
        (
            "Classes in its images",
            ("effective_classes",),
            "classes",
            "e to the entropy of the teacher's mean answer: 1 is collapse.",
        ),
        ("Entropy of the teacher", ("entropy",), "nats", "Mean over its images."),
        (
            "Forgetting",
            ("kl_now", "kl_before"),
            "KL (nats)",
            "Teacher and student on its images now, and on those it made before.",
        ),
        *[(name.replace("_", " "), (name,), "", "As the method measures it.") for name in watched],
    ]
    figures = [lines(t, over(*names), x_label="step", y_label=unit, caption=c) for t, names, unit, c in shown]
    counts = sorted(enumerate(looks[-1][1]["classes"]), key=lambda pair: (-pair[1], pair[0]))
    caption = f"What the teacher sees in {sum(n for _, n in counts):,} of its images at the last look."
    figures.append(table("Classes at the end", ["class", "images"], [[k, n] for k, n in counts[:20]], caption=caption))
    return figures


def _mosaic(run: Path) -> list[Figure]:
    path = run / SYNTHETIC_MOSAIC
    if not path.exists():
        return []
    return [picture("Synthetic", path.read_bytes(), caption="What the generator makes of one fixed z.")]
