"""What a transfer set looks like: the figures that the reports of `curate` and `distill` share."""

import math
from collections.abc import Sequence

import duckdb

from manifests.schema import SCORES, SELECTION
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
        _entropy(folder),
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


def _entropy(folder: ShardFolder) -> Figure:
    """Histogram of the teacher's entropy over [0, ln K]."""
    top = math.log(max(2, len(folder.document["classes"])))
    query = f"""
        SELECT selected, least({BINS - 1}, floor(entropy / {top} * {BINS}))::INTEGER AS bin, count(*)
        FROM read_parquet(?) JOIN read_parquet(?) USING (key) WHERE entropy IS NOT NULL GROUP BY ALL
    """
    with duckdb.connect() as connection:
        paths = [str(folder.path / SCORES.file), str(folder.path / SELECTION.file)]
        found = connection.execute(query, paths).fetchall()
    series = {"selected": [0] * BINS, "left out": [0] * BINS}
    for selected, number, count in found:
        series["selected" if selected else "left out"][number] = count
    edges = [top * i / BINS for i in range(BINS + 1)]
    return histogram(
        "Entropy of the teacher's softmax",
        edges,
        series,
        x_label="entropy (nats)",
        caption=f"From 0 (certain) to ln {len(folder.document['classes'])} = {top:.2f} (no idea).",
    )
