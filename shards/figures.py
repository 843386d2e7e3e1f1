"""What a transfer set looks like: the figures that the reports of `curate` and `distill` share."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.read import read_batches
from manifests.schema import SCORES, SELECTION
from shards.card import some_classes
from shards.index import ShardFolder
from shards.page import Figure, funnel, histogram, picture, table

BINS = 40
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
    shown, some = some_classes(folder.document["class_histogram"])
    if not shown:
        return []
    rows = [[name, count] for name, count in shown]
    return [table("Classes", ["class", "images"], rows, caption=f"By the teacher's argmax.{some}")]


def _distance(folder: ShardFolder) -> Sequence[Figure]:
    """Histogram of the distances to the nearest sample of the reference, if there was one."""
    largest = max((_largest(batch["nn_dist"]) for batch in _selection(folder, "nn_dist")), default=-1.0)
    if largest < 0:  # no reference was given
        return []
    edges = np.linspace(0, max(largest, 1e-9), BINS + 1)
    series = _counted(((b["selected"], b["nn_dist"]) for b in _selection(folder, "nn_dist")), edges)
    return [
        histogram(
            "Distance to the reference",
            edges.tolist(),
            series,
            x_label="Euclidean, to the nearest sample of the reference",
            caption="Directed Hausdorff distances are the largest of these: SELECT max(nn_dist) FROM selection ...",
        )
    ]


def _selection(folder: ShardFolder, *columns: str) -> Iterator[pa.RecordBatch]:
    return read_batches(folder.path, SELECTION, columns=["selected", *columns])


def _largest(column: pa.Array) -> float:
    """The largest number of a column, -1 where all are NULL."""
    found = pc.max(column).as_py()
    return -1.0 if found is None else float(found)


def _counted(pairs: Iterable[tuple[pa.Array, pa.Array]], edges: NDArray[np.float64]) -> dict[str, list[int]]:
    """Histograms of numbers, of the selected rows and of the others; NULL falls into no bin."""
    counts = np.zeros((2, len(edges) - 1), np.int64)
    for chosen, column in pairs:
        numbers = column.to_numpy(zero_copy_only=False).astype(float)
        numbers = np.minimum(numbers, edges[-1])  # float32 may round ln K up
        selected = chosen.to_numpy(zero_copy_only=False)
        counts += [np.histogram(numbers[mask], edges)[0] for mask in (selected, ~selected)]
    return {"selected": counts[0].tolist(), "left out": counts[1].tolist()}


def _entropy(folder: ShardFolder) -> Figure:
    """Histogram of the teacher's entropy over [0, ln K]."""
    classes = len(folder.document["classes"])
    top = math.log(max(2, classes))
    edges = np.linspace(0, top, BINS + 1)
    scores = read_batches(folder.path, SCORES, columns=["entropy"])  # the same rows, in the same order
    pairs = ((chosen["selected"], score["entropy"]) for chosen, score in zip(_selection(folder), scores, strict=True))
    series = _counted(pairs, edges)
    return histogram(
        "Entropy of the teacher's softmax",
        edges.tolist(),
        series,
        x_label="entropy (nats)",
        caption=f"From 0 (certain) to ln {classes} = {top:.2f} (no idea).",
    )
