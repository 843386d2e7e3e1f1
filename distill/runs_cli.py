"""Commands about methods and finished runs: `methods`, `compare`, `export`."""

from pathlib import Path
from typing import Annotated

import typer

from distill.options import Json
from manifests.console import emit_json, print_table


def methods(
    name: Annotated[str | None, typer.Argument(help="One of them: with its recipes and every setting.")] = None,
    json: Json = False,
) -> None:
    """List the methods: their paper, what they learn from, and what an update of the student costs."""
    from distill.explain import all_methods, describe

    found = [describe(name)] if name else all_methods()
    if json:
        emit_json(found[0] if name else found)
        return
    if not name:
        header = ["method", "what", "learns from", "queries/update", "source"]
        print_table(header, [[m["method"], m["what"], m["needs"], m["queries_per_update"], m["source"]] for m in found])
        return
    (method,) = found
    phases = ", ".join(f"{times} of the {network}" for network, times in method["phases"].items())
    print(f"{name}: {method['what']}\n{method['source']}")
    print(f"learns from: {method['needs']}; a step is {phases}; recipes: {', '.join(method['recipes'])}\n")
    rows = [[s["name"], s["type"], s["default"], s["meaning"]] for s in method["settings"]]
    print_table(["setting", "type", "default", "meaning"], [[n, t, str(d), m] for n, t, d, m in rows])


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")],
    page: Annotated[Path, typer.Option(help="The page with the curves.")] = Path("comparison.html"),
    json: Json = False,
) -> None:
    """Put runs side by side: a table with mean and spread over seeds, and a page with their curves."""
    from distill.compare import RESULTS, comparison_page, find_runs, in_words
    from distill.compare import compare as compare_runs
    from manifests.commit import write_bytes

    found = find_runs(runs)
    compared = compare_runs(found)
    write_bytes(page, comparison_page(found, compared).encode())
    if json:
        emit_json({**compared, "page": str(page)})
        return
    header = ["runs", "n", "images", "updates", "queries", *[name.replace("_", " ") for name in RESULTS]]
    rows = [
        [g["name"], g["finished"], g["images"], g["student_updates"], g["teacher_queries"]]
        + [in_words(g[name]) for name in RESULTS]
        for g in compared["groups"]
    ]
    print_table(header, rows)
    print(f"page: {page}")


def export(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Annotated[Path, typer.Option(help="File: NAME.safetensors, or NAME.onnx (extra `onnx`).")],
    which: Annotated[
        str | None,
        typer.Option(help="last, or chosen: by agreement on held-out images; default: chosen, if there is one."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a run's student as a file of its own; ONNX takes uint8 pixels and has the normaliser inside."""
    import torch

    from distill.errors import DistillError
    from distill.export import export as export_network
    from distill.run import CHOSEN, STUDENT, load_run

    found = load_run(run, dtype="float32", device=torch.device("cpu"))
    which = which or next(name for name in ("chosen", "last") if name in found)
    if which not in found:
        raise DistillError(f"{run} has no {which!r} student; it has {', '.join(found)}")
    classifier = found[which]
    export_network(classifier, run / (CHOSEN if which == "chosen" else STUDENT), out)
    if json:
        emit_json({"out": str(out), "which": which, "arch": classifier.arch, "sha256": classifier.sha256})
    else:
        shape = f"{len(classifier.classes)} classes, {classifier.input_size} px"
        print(f"{out}: the {which} student, {classifier.arch}, {shape}")
