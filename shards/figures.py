"""What a transfer set looks like: the figures that the reports of `curate` and `distill` share."""

import math
from collections.abc import Sequence

import numpy as np

from manifests.read import read_manifest
from manifests.schema import SCORES, SELECTION
from shards.index import ShardFolder
from shards.page import Figure, funnel, histogram, picture, table

BINS = 40
CLASSES_SHOWN = 20
SELECTED_MOSAIC = "mosaics/selected.png"
LEFT_OUT_MOSAIC = "mosaics/left-out.png"


def transfer_set_facts(folder: ShardFolder) -> list[tuple[str, str]]:
    """Name-value pairs for the head of a page."""
    document = folder.document
    plan = document["plan"]
    return [
        ("transfer set", folder.id[:12]),
        ("images", f"{folder.rows():,} at {folder.size} px"),
        ("rule", f"{plan['mode']}, budget {plan['budget']:,}, seed {plan['seed']}"),
        ("teacher", document["teacher"]["name"]),
    ]


def transfer_set_figures(folder: ShardFolder) -> Sequence[Figure]:
    """Funnel, corpora, entropy histogram and mosaics of a transfer set."""
    counts = folder.document["counts"]
    figures = [
        funnel(
            "From corpora to transfer set",
            [
                ("seen", counts["seen"], "kept"),
                ("selected", counts["selected"], "kept"),
                ("left out", counts["left_out"], "left"),
                ("quarantined", counts["quarantined"], "bad"),
            ],
            caption="Selected + left out + quarantined = seen. Every sample that is not selected has a reason in "
            "selection.parquet or samples.parquet.",
        ),
        _corpora(folder),
        *_reasons(folder),
        *_classes(folder),
        _entropy(folder),
        *_distance(folder),
    ]
    for title, name in (("Selected", SELECTED_MOSAIC), ("Left out", LEFT_OUT_MOSAIC)):
        if (path := folder.path / name).exists():
            figures.append(picture(title, path.read_bytes(), caption="A seeded draw."))
    return figures


def _corpora(folder: ShardFolder) -> Figure:
    header = ["corpus", "seen", "selected", "left out", "quarantined", "duplicates"]
    rows = [
        [c["corpus"], c["seen"], c["selected"], c["left_out"], c["quarantined"], c["duplicates"]]
        for c in folder.document["corpora"]
    ]
    return table("Corpora", header, rows, caption="Duplicates are among those left out.")


def _reasons(folder: ShardFolder) -> Sequence[Figure]:
    """Why rows were kept and left out, if the selection says so."""
    reasons = folder.document.get("reasons")
    if not reasons:
        return []
    rows = [[reason, count] for reason, count in reasons.items()]
    return [table("Reasons", ["reason", "images"], rows, caption="Of every scored image, as in selection.parquet.")]


def _classes(folder: ShardFolder) -> Sequence[Figure]:
    """How many images of each class the teacher sees in the set, most first; of many classes both ends."""
    classes = sorted(folder.document["class_histogram"].items(), key=lambda item: -item[1])
    if not classes:
        return []
    shown = (
        classes if len(classes) <= CLASSES_SHOWN else [*classes[: CLASSES_SHOWN // 2], *classes[-CLASSES_SHOWN // 2 :]]
    )
    some = "" if shown == classes else f" {CLASSES_SHOWN} of {len(classes)} classes: the fullest and the emptiest."
    rows = [[name, count] for name, count in shown]
    return [table("Classes", ["class", "images"], rows, caption=f"By the teacher's argmax.{some}")]


def _distance(folder: ShardFolder) -> Sequence[Figure]:
    """Histogram of the distances to the nearest sample of the reference, if there was one."""
    rows = read_manifest(folder.path, SELECTION, columns=["selected", "nn_dist"])
    distance = rows["nn_dist"].to_numpy()
    known = np.isfinite(distance)
    if not known.any():
        return []
    selected = rows["selected"].to_numpy()
    edges = np.linspace(0, max(float(distance[known].max()), 1e-9), BINS + 1)
    series = {
        name: np.histogram(distance[known & mask], edges)[0].tolist()
        for name, mask in (("selected", selected), ("left out", ~selected))
    }
    return [
        histogram(
            "Distance to the reference",
            edges.tolist(),
            series,
            x_label="Euclidean, to the nearest sample of the reference",
            caption="Directed Hausdorff distances are the largest of these: SELECT max(nn_dist) FROM selection ...",
        )
    ]


def _entropy(folder: ShardFolder) -> Figure:
    """Histogram of the teacher's entropy over [0, ln K]."""
    classes = len(folder.document["classes"])
    top = math.log(max(2, classes))
    selected = read_manifest(folder.path, SELECTION, columns=["selected"])["selected"].to_numpy()
    entropy = read_manifest(folder.path, SCORES, columns=["entropy"])["entropy"].to_numpy()  # the same rows
    entropy = entropy.astype(float).clip(0, top)  # NULL is NaN, which falls into no bin
    edges = np.linspace(0, top, BINS + 1)
    series = {
        name: np.histogram(entropy[mask], edges)[0].tolist()
        for name, mask in (("selected", selected), ("left out", ~selected))
    }
    return histogram(
        "Entropy of the teacher's softmax",
        edges.tolist(),
        series,
        x_label="entropy (nats)",
        caption=f"From 0 (certain) to ln {classes} = {top:.2f} (no idea).",
    )
