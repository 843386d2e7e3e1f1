"""The `curate` command: ingest corpora, score them, select a transfer set. Wires `distill`'s teachers in.

What the options mean is in options.py; `curate distance` is in distance_cli.py.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate.options import (
    DEFAULT_WORK,
    Corpora,
    Device,
    Dtype,
    Json,
    MaxBad,
    On,
    Resize,
    Teacher,
    Threads,
    Weights,
    Work,
    limits,
)
from curate.tell import check_bad, check_unread, table, tell_forecast, tell_modes, tell_selection
from manifests.console import emit_json, new_app, note, run
from manifests.progress import bar

if TYPE_CHECKING:
    import torch

    from curate.corpora import Corpus
    from distill.models.teachers import Classifier

app = new_app("Choose the images on which a teacher should teach: ingest, score, select, measure.")

MODES = (
    "entropy-topk, confidence-topk, confidence-bottomk, margin-topk, margin-bottomk, energy-topk, energy-bottomk, "
    "dfnd, balanced, balanced-entropy, kcenter, hausdorff, band, random, sql"
)
"""of SELECTORS; here as words, so that `--help` loads no rule"""


@app.command()
def ingest(
    corpus: Corpora = None,
    size: Annotated[int, typer.Option(help="Resolution in px; the teacher's input size.", min=8)] = 32,
    resize: Annotated[
        str, typer.Option(help="antialias, box, plain or imagenet: how images come to size.")
    ] = "antialias",
    work: Work = DEFAULT_WORK,
    threads: Threads = None,
    max_bad: MaxBad = 0.01,
    json: Json = False,
) -> None:
    """Decode corpora once into stores of fixed-size, hashed images."""
    from curate.ingest import ingest as ingest_corpus

    results = [
        ingest_corpus(source, size=size, resize=resize, work=work, threads=threads, progress=bar)
        for source in _open(corpus)
    ]
    documents = [
        {
            "corpus": result.store.document["corpus"],
            "store": str(result.store.path),
            "id": result.store.id,
            "seen": result.store.document["seen"],
            "usable": result.store.rows(),
            "unreadable": result.unreadable,
            "decoded": result.decoded,
        }
        for result in results
    ]
    if json:
        emit_json(documents)
    else:
        table(documents, ["corpus", "seen", "usable", "unreadable", "decoded", "store"])
    check_unread(results)
    check_bad(sum(d["seen"] for d in documents), sum(d["usable"] for d in documents), max_bad, where=work)


@app.command()
def score(
    corpus: Corpora = None,
    teacher: Teacher = "wrn40_2",
    teacher_weights: Weights = None,
    resize: Resize = None,
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
    documents, results = [], []
    for source in _open(corpus):
        results.append(
            ingest_corpus(
                source,
                size=judge.input_size,
                resize=resize or judge.resize,
                work=work,
                threads=threads,
                progress=bar,
            )
        )
        store = results[-1].store
        with bar(f"score {source.name}", store.rows()) as advance:
            result = score_store(store, judge, work=work, device=where, threads=threads, advance=advance)
        documents.append({"corpus": source.name, "scored": store.rows(), "teacher_forwards": result.forwards})
        documents[-1]["scores"] = str(result.path)
    if json:
        emit_json(documents)
    else:
        table(documents, ["corpus", "scored", "teacher_forwards", "scores"])
    check_unread(results)


@app.command()
def modes(json: Json = False) -> None:
    """List the selection rules, what each keeps, and where it comes from."""
    tell_modes(json=json)


@app.command()
def select(
    teacher: Teacher = "wrn40_2",
    teacher_weights: Weights = None,
    corpus: Corpora = None,
    mode: Annotated[
        str | None, typer.Option(help=f"The rule: {MODES}. Default: entropy-topk, or sql with --sql.")
    ] = None,
    budget: Annotated[int, typer.Option(help="Images to select at most.")] = 50_000,
    seed: Annotated[int, typer.Option(help="Of draws: random's, the holdout's, the packing order's.")] = 0,
    holdout: Annotated[float, typer.Option(help="Fraction of the selected kept for choosing a checkpoint.")] = 0.05,
    where: Annotated[
        str | None, typer.Option(help="SQL condition: only such rows. Example: entropy BETWEEN 0.5 AND 1.5")
    ] = None,
    sql: Annotated[str | None, typer.Option(help="A SELECT whose first column is keys: the rule itself.")] = None,
    by: Annotated[str, typer.Option(help="balanced: the order within a class, such as entropy-topk.")] = "random",
    base_limit: Annotated[
        int | None, typer.Option(help="balanced: images of the first corpus looked at, a draw. Default: --budget.")
    ] = None,
    cap: Annotated[list[str] | None, typer.Option(help="NAME=N: at most N images of a corpus; repeat.")] = None,
    floor: Annotated[list[str] | None, typer.Option(help="NAME=N: at least N, while it has them; repeat.")] = None,
    near_duplicates: Annotated[
        float | None, typer.Option(help="Drop what lies this near to an earlier image, as a fraction of the spread.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="SPEC of images that must not come in, such as the test set; repeat.")
    ] = None,
    exclude_within: Annotated[
        float, typer.Option(help="Also drop what lies this near to an excluded image, as a fraction of their spread.")
    ] = 0.0,
    reference: Annotated[
        list[str] | None, typer.Option(help="SPEC that distances are measured to: nn_dist, nn_key; repeat.")
    ] = None,
    on: On = "features",
    resize: Resize = None,
    work: Work = DEFAULT_WORK,
    out: Annotated[Path, typer.Option(help="Folder of the transfer set.")] = Path("transfer-set"),
    replace: Annotated[bool, typer.Option("--replace", help="Move another set in --out aside.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read, reused and written.")] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Go on without the samples that cannot be read.")
    ] = False,
    max_bad: MaxBad = 0.01,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Make a transfer set in one go: ingest, score, select, pack. What is there and valid is reused."""
    from curate.choice import Choice
    from curate.corpora import open_corpus
    from curate.forecast import forecast
    from curate.previews import write_previews
    from curate.run import Sources, curate
    from distill.device import choose_device
    from distill.models.store import register
    from manifests.commit import write_json
    from manifests.provenance import when_and_where

    choice = Choice(
        mode=mode or ("sql" if sql is not None else "entropy-topk"),
        budget=budget,
        seed=seed,
        holdout=holdout,
        where=where,
        sql=sql,
        by=by,
        base_limit=base_limit,
        caps=limits("--cap", cap),
        floors=limits("--floor", floor),
        near_duplicates=near_duplicates,
        exclude_within=exclude_within,
        on=on,
    )
    choice.check_sides(reference=bool(reference), excluded=bool(exclude))
    chosen_device = choose_device(device)
    judge = _teacher(teacher, teacher_weights, starter=not corpus, device=chosen_device, dtype=dtype, threads=threads)
    sources = Sources(  # after the teacher: listing a large corpus takes time
        corpora=_open(corpus),
        reference=list(map(open_corpus, reference or ())),
        excluded=list(map(open_corpus, exclude or ())),
    )
    if dry_run:
        tell_forecast(
            forecast(sources, judge, choice, work=work, out=out, resize=resize, device=chosen_device), json=json
        )
        return
    result = curate(
        sources,
        judge,
        choice,
        work=work,
        out=out,
        resize=resize,
        device=chosen_device,
        threads=threads,
        replace=replace,
        skip_unreadable=skip_unreadable,
        progress=bar,
    )
    write_previews(result.folder, result.selection, result.stores)
    origin = {source.name: source.spec for source in sources.all()}
    write_json(out / "run.json", {"command": sys.argv, "corpora": origin, **when_and_where()})
    if teacher_weights is not None:
        register(teacher_weights, arch=judge.arch)  # so that `distill train` finds it from transfer-set.json
    tell_selection(result, out, json=json)
    counts = result.folder.document["counts"]
    check_bad(counts["seen"], counts["seen"] - counts["quarantined"], max_bad, where=out)


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


def main() -> None:
    """Entry point of the `curate` command."""
    run(app, "curate")
