"""`curate distance`: how far two sets of samples lie apart in a teacher's eyes, and which samples say so."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from curate.options import Json, On, Threads
from manifests.console import emit_json, note, print_table
from manifests.progress import bar

if TYPE_CHECKING:
    from curate.distance import Distances, OneWay
    from curate.vectors import Kind, Sample, Vectors

Place = "a transfer set, a folder of `curate score`, or a .npy, .npz (FILE.npz?key=NAME) or .parquet file"


def distance(
    a: Annotated[str, typer.Argument(metavar="A", help=f"One set: {Place}.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other set, of the same teacher; likewise.")],
    *,
    on: On = "features",
    hausdorff_only: Annotated[
        bool, typer.Option("--hausdorff-only", help="Only the maxima, which are found many times faster.")
    ] = False,
    threads: Threads = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page, with pictures of the farthest samples.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure exact Hausdorff distances between two sets, in both directions, with the samples that attain them.

    Beside each maximum stand the mean and the 95th percentile of the distances to the nearest.
    """
    from curate.distance import hausdorff
    from curate.vectors import check_same_teacher, open_vectors

    kind = _kind(on)
    if report is not None:
        _check_page(report)
    one, other = open_vectors(a, kind), open_vectors(b, kind)
    check_same_teacher(one, other)
    for vectors in (one, other):
        if vectors.left_out:
            note(f"{vectors.name}: left out, as their {kind} are not finite: {vectors.left_out:,}")
    found = hausdorff(one.rows_ND, other.rows_ND, robust=not hausdorff_only, threads=threads, progress=bar)
    if report is not None:
        from curate.distance_report import write_report

        write_report(report, found, one, other, kind=kind)
    if json:
        emit_json(_document(found, one, other, kind=kind))
    else:
        _tell(found, one, other, kind=kind)


def _check_page(path: Path) -> None:
    """Refuse to put a page where something else lies: a device, a link, a file that is no page."""
    from curate.errors import DistanceError

    if path.suffix.lower() not in (".html", ".htm"):
        raise DistanceError(f"--report is {path}; expected a name that ends in .html")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise DistanceError(f"--report is {path}, which is a link, a folder or a device; expected a name that is free")


def _kind(on: str) -> "Kind":
    from curate.errors import DistanceError
    from curate.vectors import Kind

    for kind in get_args(Kind):
        if on == kind:
            return kind  # type: ignore[no-any-return]  # one of the Literal's own values
    raise DistanceError(f"--on {on!r}; expected {' or '.join(get_args(Kind))}")


def _witnesses(way: "OneWay", one: "Vectors", other: "Vectors") -> tuple["Sample", "Sample"]:
    return one.samples([way.directed.a_index])[0], other.samples([way.directed.b_index])[0]


def _tell(found: "Distances", a: "Vectors", b: "Vectors", *, kind: str) -> None:
    """The numbers and the witnesses, for a person."""
    for name, vectors in (("A", a), ("B", b)):
        rows, width = vectors.rows_ND.shape
        typer.echo(f"{name}: {vectors.name}, {kind} of {rows:,} samples ({width:,} numbers each)")
    ways = {"A to B": found.a_to_b, "B to A": found.b_to_a}
    rows = [[name, way.directed.distance, way.mean_of_min, way.q95] for name, way in ways.items()]
    rows.append(["symmetric", found.hausdorff, found.mean_of_min, found.q95])
    header = ["direction", "hausdorff", "mean of min", "q95"]
    shown = len(header) if found.a_to_b.nearest else 2
    typer.echo()
    print_table(header[:shown], [row[:shown] for row in rows])
    typer.echo()
    pairs = (_witnesses(found.a_to_b, a, b), _witnesses(found.b_to_a, b, a))
    print_table(
        ["direction", "the farthest", "its key", "its nearest", "the nearest's key"],
        [[name, str(s), s.key, str(n), n.key] for name, (s, n) in zip(ways, pairs, strict=True)],
    )


def _document(found: "Distances", a: "Vectors", b: "Vectors", *, kind: str) -> dict[str, Any]:
    def way(which: "OneWay", names: str, one: "Vectors", other: "Vectors") -> dict[str, Any]:
        pair = zip(names, _witnesses(which, one, other), strict=True)
        witness = {n: {"row": s.row, "key": s.key, "corpus": s.corpus, "uri": s.uri} for n, s in pair}
        return {**_numbers(which.directed.distance, which), "witness": witness}

    return {
        "on": kind,
        "a": _facts(a),
        "b": _facts(b),
        "a_to_b": way(found.a_to_b, "ab", a, b),
        "b_to_a": way(found.b_to_a, "ba", b, a),
        "symmetric": _numbers(found.hausdorff, found),
    }


def _numbers(hausdorff: float, companions: "OneWay | Distances") -> dict[str, float | None]:
    return {"hausdorff": hausdorff, "mean_of_min": companions.mean_of_min, "q95": companions.q95}


def _facts(vectors: "Vectors") -> dict[str, Any]:
    rows, width = vectors.rows_ND.shape
    teacher = dict(vectors.teacher) if vectors.teacher else None
    return {"name": vectors.name, "rows": rows, "width": width, "left_out": vectors.left_out, "teacher": teacher}
