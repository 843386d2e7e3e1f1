"""The `curate` command: ingest corpora, score them, select a transfer set. Wires `distill`'s teachers in."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.console import emit_json, new_app, note, print_table, run
from manifests.progress import bar

if TYPE_CHECKING:
    import torch

    from curate.corpora import Corpus
    from curate.run import Curated
    from distill.models.teachers import Classifier

app = new_app("Choose the images on which a teacher should teach: ingest, score, select.")

TOO_BAD = 3
"""exit code: done, but more samples were quarantined than --max-bad allows"""

Corpora = Annotated[
    list[str] | None,
    typer.Option("--corpus", help="NAME=SPEC or a path; repeat, in order. Default: the built-in starter corpora."),
]
Teacher = Annotated[str, typer.Option(help="Teacher's architecture, or its name among your teachers.")]
Weights = Annotated[Path | None, typer.Option(help="The teacher's weights file; default: looked up by name.")]
Work = Annotated[Path, typer.Option(help="Folder for what can be made again: stores, scores, selections.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16; auto is bfloat16 where the hardware has it.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; never changes a result. Default: all cores.", min=1)]
MaxBad = Annotated[float, typer.Option(help="Exit 3 if a larger fraction of samples is damaged.", min=0, max=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DEFAULT_WORK = Path(".transferset")


@app.command()
def ingest(
    corpus: Corpora = None,
    size: Annotated[int, typer.Option(help="Resolution in px; the teacher's input size.", min=8)] = 32,
    work: Work = DEFAULT_WORK,
    threads: Threads = None,
    max_bad: MaxBad = 0.01,
    json: Json = False,
) -> None:
    """Decode corpora once into stores of fixed-size, hashed images."""
    from curate.ingest import ingest as ingest_corpus

    documents = []
    for source in _open(corpus):
        result = ingest_corpus(source, size=size, work=work, threads=threads, progress=bar)
        store = result.store
        facts = {"corpus": source.name, "store": str(store.path), "id": store.id, "seen": store.document["seen"]}
        documents.append({**facts, "usable": store.rows(), "decoded": result.decoded})
    if json:
        emit_json(documents)
    else:
        _table(documents, ["corpus", "seen", "usable", "decoded", "store"])
    _check_bad(sum(d["seen"] for d in documents), sum(d["usable"] for d in documents), max_bad, where=work)


@app.command()
def score(
    corpus: Corpora = None,
    teacher: Teacher = "wrn40_2",
    teacher_weights: Weights = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Ask the teacher about every image: prediction, confidence, entropy, margin, energy, features, logits."""
    from curate.ingest import ingest as ingest_corpus
    from curate.score import score as score_store
    from distill.device import choose_device

    where = choose_device(device)
    judge = _teacher(teacher, teacher_weights, starter=not corpus, device=where, dtype=dtype, threads=threads)
    documents = []
    for source in _open(corpus):
        store = ingest_corpus(source, size=judge.input_size, work=work, threads=threads, progress=bar).store
        with bar(f"score {source.name}", store.rows()) as advance:
            result = score_store(store, judge, work=work, device=where, threads=threads, advance=advance)
        documents.append({"corpus": source.name, "scored": store.rows(), "teacher_forwards": result.forwards})
        documents[-1]["scores"] = str(result.path)
    if json:
        emit_json(documents)
    else:
        _table(documents, ["corpus", "scored", "teacher_forwards", "scores"])


@app.command()
def select(
    teacher: Teacher = "wrn40_2",
    teacher_weights: Weights = None,
    corpus: Corpora = None,
    mode: Annotated[str, typer.Option(help="entropy-topk or random.")] = "entropy-topk",
    budget: Annotated[int, typer.Option(help="Images to select at most.")] = 50_000,
    seed: Annotated[int, typer.Option(help="Of draws: random's, the holdout's, the packing order's.")] = 0,
    holdout: Annotated[float, typer.Option(help="Fraction of the selected kept for choosing a checkpoint.")] = 0.05,
    work: Work = DEFAULT_WORK,
    out: Annotated[Path, typer.Option(help="Folder of the transfer set.")] = Path("transfer-set"),
    replace: Annotated[bool, typer.Option("--replace", help="Move another set in --out aside.")] = False,
    max_bad: MaxBad = 0.01,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Make a transfer set in one go: ingest, score, select, pack. What is there and valid is reused."""
    from curate.previews import write_previews
    from curate.run import curate
    from curate.selection import Choice
    from distill.device import choose_device
    from distill.models.store import register
    from manifests.commit import write_json
    from manifests.provenance import when_and_where

    choice = Choice(mode=mode, budget=budget, seed=seed, holdout=holdout)
    where = choose_device(device)
    judge = _teacher(teacher, teacher_weights, starter=not corpus, device=where, dtype=dtype, threads=threads)
    sources = _open(corpus)  # after the teacher: listing a large corpus takes time
    result = curate(
        sources, judge, choice, work=work, out=out, device=where, threads=threads, replace=replace, progress=bar
    )
    write_previews(result.folder, result.selection, result.stores)
    origin = {source.name: source.spec for source in sources}
    write_json(out / "run.json", {"command": sys.argv, "corpora": origin, **when_and_where()})
    if teacher_weights is not None:
        register(teacher_weights, arch=judge.arch)  # so that `distill train` finds it from transfer-set.json
    _tell(result, out, budget=budget, json=json)
    counts = result.folder.document["counts"]
    _check_bad(counts["seen"], counts["seen"] - counts["quarantined"], max_bad, where=out)


def _open(options: list[str] | None) -> list["Corpus"]:
    """The corpora asked for, or the starter's; names must differ."""
    from collections import Counter

    from curate.corpora import STARTER_CORPORA, open_corpus
    from curate.errors import CurateError

    if not options:
        note(f"no --corpus given: using the built-in starter corpora {', '.join(STARTER_CORPORA)}")
    sources = [open_corpus(option) for option in options or [f"{n}=builtin:{n}" for n in STARTER_CORPORA]]
    name, times = Counter(source.name for source in sources).most_common(1)[0]
    if times > 1:
        raise CurateError(f"{times} corpora are called {name!r}; give each its own: --corpus NAME=SPEC")
    return sources


def _teacher(
    name: str, weights: Path | None, *, starter: bool, device: "torch.device", dtype: str, threads: int | None
) -> "Classifier":
    """The teacher asked for; with the starter corpora and no weights, the starter's own."""
    from distill.cli import starter_teacher
    from distill.device import choose_dtype
    from distill.models.store import is_arch, load_teacher

    precision = choose_dtype(dtype, device)
    if is_arch(name) and starter and weights is None:
        weights = starter_teacher(name, device=str(device), threads=threads)
        note(f"no --teacher-weights given: using the starter teacher {weights.stem}, trained on scikit-learn's digits")
    teacher = load_teacher(name, weights, dtype=precision, device=device)
    if teacher is None:
        raise AssertionError("a teacher was named")
    return teacher


def _tell(result: "Curated", out: Path, *, budget: int, json: bool) -> None:
    """What was done, as JSON or as a table and a line."""
    from curate.selection import COUNTS

    document = result.folder.document
    counts = document["counts"]
    work = {"decoded": result.decoded, "teacher_forwards": result.forwards, "shards_written": result.shards_written}
    if result.moved:
        note(f"the old {out} is now {result.moved}")
    if budget > counts["selected"]:
        note(f"--budget {budget:,} is more than the {counts['selected']:,} distinct usable images: all were taken")
    if json:
        keys = ("id", "counts", "corpora", "rows", "class_histogram", "teacher", "plan")
        emit_json({"out": str(out), **{key: document[key] for key in keys}, **work})
        return
    _table([*document["corpora"], {"corpus": "all", **counts}], ["corpus", *COUNTS])
    done = "; ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in work.items())
    print(f"{out}: {result.folder.rows():,} images, id {result.folder.id} ({done})")


def _table(documents: list[dict[str, Any]], columns: list[str]) -> None:
    print_table([c.replace("_", " ") for c in columns], [[d[c] for c in columns] for d in documents])


def _check_bad(seen: int, usable: int, max_bad: float, *, where: Path) -> None:
    if seen - usable > max_bad * seen:
        note(
            f"curate: {seen - usable:,} of {seen:,} samples could not be used, more than --max-bad {max_bad:g} allows;"
        )
        note(f'see which: manifests sql "SELECT corpus, uri, error FROM samples WHERE error IS NOT NULL" {where}')
        raise typer.Exit(TOO_BAD)


def main() -> None:
    """Entry point of the `curate` command."""
    run(app, "curate")
