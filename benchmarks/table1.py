"""Table 1 of the arbitrary-transfer-sets paper in shape: how far is a training set from a transfer set of few classes?

    python benchmarks/table1.py --teacher wrn40_2-cifar10.safetensors --data cifar10/train.parquet
                                [--work .transferset] [--draws 5] [--threads N]

Nayak, Mopuri and Chakraborty (WACV 2021, supplement, Table 1) draw transfer sets of some 10,000 CIFAR-10 training
images from 2, 4, 6, 8 or 10 classes and print a Hausdorff distance of features: 52.25, 49.26, 44.45, 34.72, 8.97. A
transfer set is part of the training set, so this can only be h(train, transfer): the other direction is 0. Writes the
numbers to benchmarks/results/table1.json and a plot to docs/table1.svg. Images are ingested and scored below --work,
once.

Two kinds of draws: of the images of the classes 0 ... n-1, and of n classes and their images. Classes share the 10,000
images evenly.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from curate.corpora import open_corpus
from curate.distance import nearest
from curate.ingest import ingest
from curate.score import score
from curate.vectors import Kind, Vectors, open_vectors
from distill.device import hardware
from distill.models.teachers import load_classifier
from manifests.commit import write_bytes, write_json
from manifests.progress import bar
from manifests.read import read_manifest
from manifests.schema import SAMPLES

ROOT = Path(__file__).resolve().parent.parent
PAPER = {2: 52.25, 4: 49.26, 6: 44.45, 8: 34.72, 10: 8.97}
STUDENT = {2: 19.56, 4: 34.50, 6: 46.08, 8: 58.94, 10: 71.24}  # %, their student's test accuracy
SIZE = 10_000  # images of a transfer set
KINDS: tuple[Kind, ...] = ("features", "logits")
MEASURES = ("hausdorff", "mean_of_min", "q95")


def load(options: argparse.Namespace) -> tuple[dict[Kind, Vectors], NDArray[np.int64], str]:
    """Features and logits of every training image, its class, and the teacher's name."""
    teacher = load_classifier(options.teacher, dtype="float32")
    corpus = open_corpus(f"cifar10=parquet:{options.data}")
    store = ingest(corpus, size=teacher.input_size, work=options.work, threads=options.threads, progress=bar).store
    with bar("score", store.rows()) as advance:
        scored = score(store, teacher, work=options.work, threads=options.threads, advance=advance)
    vectors = {kind: open_vectors(scored.path, kind) for kind in KINDS}
    samples = read_manifest(store.path, SAMPLES, columns=["key", "source_label"])
    order = pc.index_in(vectors["features"].keys, value_set=samples["key"])
    labels = samples["source_label"].take(order).to_pylist()
    return vectors, np.array([teacher.classes.index(label) for label in labels]), teacher.name


def draw(class_N: NDArray[np.int64], classes: Sequence[int], *, seed: Sequence[int]) -> NDArray[np.int64]:
    """SIZE rows of some classes, as even as it gets; all of a class that is too small."""
    generator = np.random.default_rng(seed)
    shares = [SIZE // len(classes) + (n < SIZE % len(classes)) for n in range(len(classes))]
    return np.concatenate(
        [generator.permutation(np.flatnonzero(class_N == c))[:share] for c, share in zip(classes, shares, strict=True)]
    )


def measure(vectors: Mapping[Kind, Vectors], rows: NDArray[np.int64], *, threads: int | None) -> dict[str, Any]:
    """From the whole training set to the transfer set of some rows, which are at no distance from themselves."""
    found: dict[str, Any] = {}
    for kind, whole in vectors.items():
        distance_N = nearest(whole.rows_ND, whole.rows_ND[rows], threads=threads).distance_N
        if distance_N[rows].any():
            raise AssertionError("an image of the transfer set is not its own nearest in it")
        numbers = (distance_N.max(), distance_N.mean(), np.quantile(distance_N, 0.95))
        found[kind] = dict(zip(MEASURES, map(float, numbers), strict=True))
    return found


def summary(draws: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, standard deviation, smallest and largest of each measure over some draws."""

    def spread(numbers: list[float]) -> dict[str, float]:
        found = (statistics.mean(numbers), statistics.stdev(numbers), min(numbers), max(numbers))
        return dict(zip(("mean", "sd", "min", "max"), (round(n, 4) for n in found), strict=True))

    return {kind: {name: spread([d[kind][name] for d in draws]) for name in MEASURES} for kind in KINDS}


def plot(columns: Mapping[int, Mapping[str, Any]]) -> str:
    """Every row over its own value at two classes, as one SVG: theirs and ours have different scales."""
    rows: dict[str, tuple[str, list[float], list[tuple[float, float]]]] = {
        "paper: h of features": ("#888888", list(PAPER.values()), [])
    }
    ours = {
        "h of features": ("#1f6f8b", "features", "hausdorff"),
        "h of logits": ("#c8553d", "logits", "hausdorff"),
        "mean of nearest, features": ("#5b8c3e", "features", "mean_of_min"),
    }
    for label, (colour, kind, name) in ours.items():
        found = [column["draws_of_classes"][kind][name] for column in columns.values()]
        rows[label] = (colour, [f["mean"] for f in found], [(f["min"], f["max"]) for f in found])
    width, height, left, top = 560, 300, 46, 16
    x = [left + 20 + i * (width - left - 60) / (len(columns) - 1) for i in range(len(columns))]
    marks = []
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2):
        at = _y(tick, height, top)
        marks.append(Markup('<path d="M{} {:.1f}H{}" stroke="#ddd"/>').format(left, at, width - 20))
        marks.append(Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(left - 8, at + 4, tick))
    for at, classes in zip(x, columns, strict=True):
        marks.append(Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(at, height + 18, classes))
    for number, (label, (colour, values, spans)) in enumerate(rows.items()):
        places = [(at, _y(value / values[0], height, top)) for at, value in zip(x, values, strict=True)]
        path = "L".join(f"{at:.1f} {to:.1f}" for at, to in places)
        marks.append(Markup('<path d="M{}" fill="none" stroke="{}" stroke-width="2"/>').format(path, colour))
        marks += [Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>').format(*p, colour) for p in places]
        for at, (low, high) in zip(x, spans, strict=False):
            ends = (_y(low / values[0], height, top), _y(high / values[0], height, top))
            beside = at + 5 * (number - 2)  # so that the bars of one place stand side by side
            marks.append(Markup('<path d="M{0:.1f} {1:.1f}V{2:.1f}" stroke="{3}"/>').format(beside, *ends, colour))
        line = height - 76 + 18 * number
        marks.append(Markup('<path d="M{} {}h16" stroke="{}" stroke-width="2"/>').format(left + 12, line - 4, colour))
        marks.append(Markup('<text x="{}" y="{}">{}</text>').format(left + 34, line, label))
    foot = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">classes in the transfer set</text>')
    marks.append(foot.format((left + width) / 2, height + 38))
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12">'
        "<title>Distance from the training set to transfer sets of 2 to 10 classes, over that at 2 classes</title>"
        '<rect width="100%" height="100%" fill="white"/>{}</svg>\n'
    ).format(width, height + 48, Markup("\n").join(marks))


def _y(value: float, height: int, top: int) -> float:
    return height - value / 1.2 * (height - top)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".transferset"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    vectors, class_N, teacher = load(options)
    kinds = len(np.unique(class_N))
    columns: dict[int, dict[str, Any]] = {}
    with bar("measure", len(PAPER) * (1 + options.draws), unit="draws") as advance:
        for count in PAPER:
            rows = draw(class_N, range(count), seed=[options.seed, count])
            first = measure(vectors, rows, threads=options.threads)
            advance(1)
            others = []
            for number in range(options.draws):
                seed = [options.seed, count, 1 + number]
                classes = np.random.default_rng(seed).permutation(kinds)[:count].tolist()
                others.append(measure(vectors, draw(class_N, classes, seed=[*seed, 1]), threads=options.threads))
                advance(1)
            first = {kind: {name: round(n, 4) for name, n in numbers.items()} for kind, numbers in first.items()}
            columns[count] = {"images": len(rows), "first_classes": first, "draws_of_classes": summary(others)}
    report = {
        "classes": columns,
        "paper": {"features_hausdorff": PAPER, "student_accuracy_percent": STUDENT},
        "train_images": len(class_N),
        "teacher": teacher,
        "draws": options.draws,
        "seed": options.seed,
        "hardware": {**hardware(torch.device("cpu")), "numpy": np.__version__},
    }
    write_json(ROOT / "benchmarks" / "results" / "table1.json", report)
    write_bytes(ROOT / "docs" / "table1.svg", plot(columns).encode())
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
