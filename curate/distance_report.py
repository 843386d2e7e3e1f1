"""The page of `curate distance`: the numbers, how they spread, and the pictures that lie farthest from the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.distance import Distances, OneWay
from curate.vectors import Kind, Sample, Vectors
from manifests.commit import write_bytes
from shards.index import open_folder
from shards.page import Figure, histogram, mosaic, picture, render, table
from shards.read import read_block

SHOWN = 8  # pairs a direction, the farthest first
BINS = 40
SIDE = 96  # px at which a small picture is shown


def write_report(path: Path, found: Distances, a: Vectors, b: Vectors, *, kind: Kind) -> None:
    """Write one HTML file; pictures stand in it where the samples' pixels are there."""
    facts = [(name, f"{v.name} ({len(v.rows_ND):,} rows)") for name, v in (("A", a), ("B", b))]
    facts.append((kind, f"{a.rows_ND.shape[1]:,} numbers each"))
    if teacher := a.teacher or b.teacher:
        facts.append(("teacher", teacher["name"]))
    sections = [
        ("Distances", [_numbers(found)]),
        ("From A to B", list(_way(found.a_to_b, a, b, names=("A", "B")))),
        ("From B to A", list(_way(found.b_to_a, b, a, names=("B", "A")))),
    ]
    lead = f"How far each set reaches beyond the other, in the {kind} of its samples."
    write_bytes(path, render(title="Distance", lead=lead, facts=facts, sections=sections).encode())


def _numbers(found: Distances) -> Figure:
    rows = [
        ["h(A, B)", found.a_to_b.directed.distance, found.a_to_b.mean_of_min, found.a_to_b.q95],
        ["h(B, A)", found.b_to_a.directed.distance, found.b_to_a.mean_of_min, found.b_to_a.q95],
        ["symmetric", found.hausdorff, found.mean_of_min, found.q95],
    ]
    return table(
        "",
        ["Euclidean", "Hausdorff", "mean of nearest", "95th percentile of nearest"],
        rows,
        caption="h(A, B): of every row of A the distance to the nearest row of B, and of these the largest. Symmetric: "
        "the larger of both directions.",
    )


def _way(way: OneWay, one: Vectors, other: Vectors, *, names: tuple[str, str]) -> Iterator[Figure]:
    """Histogram, pairs and pictures of one direction."""
    rows, nearest, distances = _farthest(way)
    samples, neighbours = one.samples(rows), other.samples(nearest)
    if way.nearest:
        yield _histogram(way.nearest.distance_N, names)
    yield table(
        f"Farthest of {names[0]}",
        [names[0], f"nearest in {names[1]}", "distance"],
        [[str(s), str(n), d] for s, n, d in zip(samples, neighbours, distances, strict=True)],
        caption="",
    )
    yield from _pictures(f"Farthest of {names[0]}", one, samples)
    yield from _pictures(f"The nearest to each in {names[1]}", other, neighbours)


def _farthest(way: OneWay) -> tuple[list[int], list[int], list[float]]:
    """Rows, their nearest and the distances between, of the farthest few; where only the maximum is known, of it."""
    if way.nearest is None:
        return [way.directed.a_index], [way.directed.b_index], [way.directed.distance]
    rows = np.argsort(-way.nearest.distance_N, kind="stable")[:SHOWN]
    return rows.tolist(), way.nearest.index_N[rows].tolist(), way.nearest.distance_N[rows].tolist()


def _histogram(distance_N: NDArray[np.float64], names: tuple[str, str]) -> Figure:
    edges = np.linspace(0, distance_N.max() or 1.0, BINS + 1)
    counts = np.histogram(distance_N, edges)[0].tolist()
    one, other = names
    caption = f"Every row of {one}, by its distance to the nearest row of {other}; the last bar holds the largest."
    return histogram(f"Distances to {other}", edges.tolist(), {one: counts}, x_label="distance", caption=caption)


def _pictures(title: str, vectors: Vectors, samples: Sequence[Sample]) -> Iterator[Figure]:
    """Their pictures in one row, if every one of them is there."""
    places = [sample.place for sample in samples if sample.place is not None]
    if vectors.home is None or len(places) < len(samples):
        return
    folder = open_folder(vectors.home)
    images = []
    for shard, block, row in places:
        facts = folder.shards[shard]
        images.append(read_block(folder.path / facts.name, facts.blocks[block]).images_NCHW[row])
    scale = max(1, SIDE // folder.size)
    yield picture(title, mosaic(np.stack(images), columns=SHOWN, scale=scale, pad=2), caption=f"From {vectors.name}.")
