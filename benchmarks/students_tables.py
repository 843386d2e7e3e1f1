"""The tables of benchmarks/students.py in docs/results.md, and which orderings of the papers come out in them."""

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.students_plan import COVERAGE, TIERS, Row
from benchmarks.table1 import PAPER, STUDENT
from distill.methods import METHODS
from manifests.commit import write_bytes

BEGIN, END = "<!-- written by benchmarks/students.py: begin -->", "<!-- end of what it wrote -->"
PENDING = "pending"
APART = 2.0
"""standard errors of a difference of means beyond which it counts"""
Document = Mapping[str, Any]
_CLASSES = tuple(f"classes-{count}" for count in COVERAGE)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An order that a paper prints: of accuracies of rows from worst to best, or of distances of sets, far to near."""

    says: str
    source: str
    tier: str
    order: Sequence[str]
    distance: bool = False


_NAYAK = "Nayak et al. 2021, supplement"
CLAIMS = (
    *(
        claim
        for tier in TIERS
        for claim in (
            Claim(
                says="the more classes a set covers, the better the student",
                source=f"{_NAYAK}, Table 1",
                tier=tier,
                order=[f"kd-{name}" for name in _CLASSES],
            ),
            Claim(
                says="the more classes a set covers, the nearer it is to the training set",
                source=f"{_NAYAK}, Table 1",
                tier=tier,
                order=_CLASSES,
                distance=True,
            ),
        )
    ),
    Claim(
        says="balanced noise is better than noise as drawn, of the same families",
        source=f"{_NAYAK}, Tables 4 and 5",
        tier="mnist",
        order=["kd-noise-mix", "kd-noise-balanced"],
    ),
    Claim(
        says="balanced noise is better than uniform noise",
        source=f"{_NAYAK}, Tables 4 and 5",
        tier="mnist",
        order=["kd-noise", "kd-noise-balanced"],
    ),
    Claim(
        says="natural images are better than noise, both balanced",
        source=f"{_NAYAK}, Table 5",
        tier="mnist",
        order=["kd-noise-balanced", "kd-tiny-scenes"],
    ),
    Claim(
        says="natural images are nearer than noise, both balanced",
        source=f"{_NAYAK}, Table 5",
        tier="mnist",
        order=["noise-balanced", "tiny-scenes"],
        distance=True,
    ),
    Claim(
        says="scenes balanced from Tiny ImageNet are better than scenes",
        source=f"{_NAYAK}, Table 3, with SVHN for scenes",
        tier="mnist",
        order=["kd-scenes", "kd-scenes-tiny"],
    ),
    Claim(
        says="Tiny ImageNet balanced from scenes is better than Tiny ImageNet",
        source=f"{_NAYAK}, Table 3, with SVHN for scenes",
        tier="mnist",
        order=["kd-tiny", "kd-tiny-scenes"],
    ),
    Claim(
        says="the order matters: Tiny ImageNet first is better than scenes first",
        source=f"{_NAYAK}, Table 3, with SVHN for scenes",
        tier="mnist",
        order=["kd-scenes-tiny", "kd-tiny-scenes"],
    ),
    Claim(
        says="an EMA of the generator helps: `mad` is better than `abm`",
        source="Do et al. 2022, Table 2",
        tier="mnist",
        order=["abm", "mad"],
    ),
    Claim(
        says="and better than a memory of past images: `mad` than `dfkd-mem`",
        source="Do et al. 2022, Table 2",
        tier="mnist",
        order=["dfkd-mem", "mad"],
    ),
    Claim(
        says="`mosaickd` is better than `kd` on the same images",
        source="Fang et al. 2021, 61.01 over 47.47",
        tier="mnist",
        order=["kd-tiny", "mosaickd"],
    ),
    Claim(
        says="balanced is better than random",
        source="Fang et al. 2021, 50.50 over 47.47; Nayak et al., Table 3",
        tier="cifar10",
        order=["kd-random", "kd-balanced"],
    ),
    Claim(
        says="the images of highest entropy are better than random ones",
        source="Fang et al. 2021, Algorithm 1 (which prints no figure for `kd`)",
        tier="cifar10",
        order=["kd-random", "kd-entropy-topk"],
    ),
)


def write_tables(page: Path, documents: Mapping[str, Document | None]) -> None:
    """Put the tables in their place in the page, between two comments."""
    before, found, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"{page} has no place for the tables: the lines {BEGIN} and {END}")
    text = "\n\n".join([BEGIN, *_sections(documents), END])
    write_bytes(page, (before + text + after).encode())


def _sections(documents: Mapping[str, Document | None]) -> Iterator[str]:
    for name, tier in TIERS.items():
        document = documents[name] or {"rows": {}, "sets": {}}
        inside = [row for row in tier.rows if row.set in _CLASSES]
        outside = [row for row in tier.rows if row.set not in _CLASSES and row.method == "kd"]
        others = [row for row in tier.rows if row.method != "kd"]
        yield f"### {tier.teacher} to {tier.student}: {name}"
        yield _made_on(document, seeds=tier.seeds)
        header = ["its own training images", "h, paper", "h", "mean of nearest", "student, paper", *_HEADER]
        yield _table(header, (_covering(document, row) for row in sorted(inside, key=lambda row: _count(row.set))))
        header = ["other images", "number", "commonest class", "h", "mean of nearest", *_HEADER]
        yield _table(header, (_set(document, row, tier.sets[row.set].label) for row in outside))
        header = ["method", "on", "settings", "student updates", "teacher queries", "processor time a run", *_HEADER]
        compared = [row for row in outside if row.set in {other.set for other in others}]
        yield _table(header, (_method(document, row, tier.sets[row.set].label) for row in [*compared, *others]))
    yield "### Orderings of the papers"
    yield _table(["said", "by", "on", "seen", "comes out"], (_claimed(claim, documents) for claim in CLAIMS))


_HEADER = ["accuracy, last", "accuracy, chosen", "agreement"]


def _made_on(document: Document, *, seeds: int) -> str:
    rows = list(document["rows"].values())
    if not rows:
        return f"Nothing is there yet; n = {seeds}."
    on, judge = rows[0]["hardware"], rows[0]["teacher"]
    commits = sorted({commit for row in rows for commit in row["commits"]})
    said = (
        f"{on['name']}, {on['threads']} thread, Python {on['python']}, torch {on['torch']}, {rows[0]['dtype']}, beside "
        f"other work; commit {', '.join(commits)}. Teacher {judge['name']}, {100 * judge['test_accuracy']:.2f} %. "
        f"Accuracy, and agreement with the teacher, in % of {rows[0]['test_images']:,} test images, mean +- standard "
        f"deviation; n = {seeds}. {len(rows)} rows are there, {len(document['pending'])} pending."
    )
    return textwrap.fill(said, width=120, break_on_hyphens=False)


def _table(header: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(name: str) -> int:
    return int(name.rpartition("-")[2])


def _accuracies(row: Mapping[str, Any] | None) -> list[str]:
    return [PENDING] * 3 if row is None else [_percent(row[name]) for name in ("last", "chosen", "agreement")]


def _percent(found: Mapping[str, float]) -> str:
    mean = f"{100 * found['mean']:.1f}"
    return mean if found["n"] == 1 else f"{mean} +- {100 * found['sd']:.1f}"


def _distances(document: Document, name: str) -> list[str]:
    """To the set from the training set: the largest, and the mean of the nearest."""
    facts = document["sets"].get(name)
    return [f"{facts['from_training_set'][which]:.2f}" if facts else PENDING for which in ("hausdorff", "mean_of_min")]


def _covering(document: Document, row: Row) -> list[str]:
    classes, found = _count(row.set), document["rows"].get(row.name)
    h, mean = _distances(document, row.set)
    return [f"{classes} classes", f"{PAPER[classes]}", h, mean, f"{STUDENT[classes]}", *_accuracies(found)]


def _set(document: Document, row: Row, label: str) -> list[str]:
    found, facts = document["rows"].get(row.name), document["sets"].get(row.set)
    number = f"{facts['images']:,}" if facts else PENDING
    commonest = f"{100 * found['commonest_class']:.0f} %" if found else PENDING
    return [label, number, commonest, *_distances(document, row.set), *_accuracies(found)]


def _method(document: Document, row: Row, label: str) -> list[str]:
    found = document["rows"].get(row.name)
    words = [PENDING] * 3
    if found:
        counts = (found["student_updates"], found["teacher_queries"])
        words = [*(f"{count:,}" for count in counts), f"{found['processor_seconds_a_run']:.0f} s"]
    label = label if METHODS[row.method].needs_stream else "nothing: synthetic images"
    settings = ", ".join(f"{name} {value}" for name, value in row.settings.items()) or "published"
    return [f"`{row.method}`", label, settings, *words, *_accuracies(found)]


def _claimed(claim: Claim, documents: Mapping[str, Document | None]) -> list[str]:
    seen, verdict = [PENDING], PENDING
    document = documents[claim.tier] or {"rows": {}, "sets": {}}
    known = document["sets"] if claim.distance else document["rows"]
    if all(name in known for name in claim.order):
        if claim.distance:
            far = [known[name]["from_training_set"]["hausdorff"] for name in claim.order]
            seen = [f"{distance:.2f}" for distance in far]
            verdict = "yes" if far == sorted(far, reverse=True) and far[0] > far[-1] else "no"
            verdict += ", with a tie" if len(set(far)) < len(far) else ""
        else:
            found = [known[name]["last"] for name in claim.order]
            seen, verdict = [_percent(of) for of in found], in_order(found)
    return [claim.says, claim.source, claim.tier, ", ".join(seen), verdict]


def in_order(found: Sequence[Mapping[str, float]]) -> str:
    """Whether means rise, each above the one before by more than APART standard errors of their difference.

    >>> low, near, high = ({"mean": mean, "sd": 1.0, "n": 3} for mean in (10, 11, 20))
    >>> in_order([low, high]), in_order([high, low]), in_order([low, near])
    ('yes', 'no', 'not shown')
    >>> in_order([low | {"n": 1}, high | {"n": 1}])
    'yes, but n = 1'
    """
    alone = any(of["n"] == 1 for of in found)
    steps = []
    for worse, better in itertools.pairwise(found):
        error = 0.0 if alone else math.hypot(*(of["sd"] / math.sqrt(of["n"]) for of in (worse, better)))
        rise = better["mean"] - worse["mean"]
        steps.append("yes" if rise > APART * error else "no" if rise < -APART * error else "not shown")
    verdict = next((word for word in ("no", "not shown") if word in steps), "yes")
    return f"{verdict}, but n = 1" if alone else verdict
