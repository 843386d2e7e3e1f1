"""The `curate` command: ingest corpora, score them, select a transfer set. Wires `distill`'s teachers in.

What the options mean is in options.py; `curate distance` is in distance_cli.py.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate.distance_cli import distance
from curate.options import (
    DEFAULT_WORK,
    BaseLimit,
    Budget,
    By,
    Cap,
    Corpora,
    Device,
    DryRun,
    Dtype,
    Exclude,
    ExcludeWithin,
    Floor,
    Holdout,
    Json,
    Licence,
    MaxBad,
    Mode,
    NearDuplicates,
    On,
    Out,
    Reference,
    Replace,
    Resize,
    Seed,
    SkipUnreadable,
    Sql,
    Teacher,
    Threads,
    Views,
    Weights,
    Where,
    Work,
    limits,
)
from curate.tell import check_bad, check_unread, table, tell_forecast, tell_modes, tell_selection
from manifests.console import emit_json, new_app, note, run
from manifests.progress import bar

if TYPE_CHECKING:
    import torch

    from curate.choice import Choice
    from curate.corpora import Corpus
    from curate.run import Curated, Sources
    from distill.models.teachers import Classifier

app = new_app("Choose the images on which a teacher should teach: ingest, score, select, measure.")


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
            "quarantined": result.store.document["seen"] - result.store.rows(),
            "unreadable": result.unreadable,
            "decoded": result.decoded,
        }
        for result in results
    ]
    if json:
        emit_json(documents)
    else:
        table(documents, ["corpus", "seen", "usable", "quarantined", "unreadable", "decoded", "store"])
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
    mode: Mode = None,
    budget: Budget = 50_000,
    seed: Seed = 0,
    holdout: Holdout = 0.05,
    where: Where = None,
    sql: Sql = None,
    by: By = "random",
    base_limit: BaseLimit = None,
    cap: Cap = None,
    floor: Floor = None,
    near_duplicates: NearDuplicates = None,
    exclude: Exclude = None,
    exclude_within: ExcludeWithin = None,
    reference: Reference = None,
    on: On = "features",
    resize: Resize = None,
    work: Work = DEFAULT_WORK,
    out: Out = Path("transfer-set"),
    views: Views = 0,
    licence: Licence = None,
    replace: Replace = False,
    dry_run: DryRun = False,
    skip_unreadable: SkipUnreadable = False,
    max_bad: MaxBad = 0.01,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Make a transfer set in one go: ingest, score, select, pack. What is there and valid is reused."""
    from curate.choice import Choice
    from distill.device import choose_device

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
    where_to = choose_device(device)
    judge = _teacher(teacher, teacher_weights, starter=not corpus, device=where_to, dtype=dtype, threads=threads)
    sources = _sources(corpus, reference, exclude)  # after the teacher: listing a large corpus takes time
    options: dict[str, Any] = {"work": work, "out": out, "views": views, "resize": resize}
    options |= {"replace": replace, "device": where_to}
    if dry_run:
        from curate.forecast import forecast

        tell_forecast(forecast(sources, judge, choice, **options), json=json)
        return
    options |= {"licence": licence, "skip_unreadable": skip_unreadable, "threads": threads}
    result = _make(sources, judge, choice, **options)
    if teacher_weights is not None:
        from distill.models.store import register

        register(teacher_weights, arch=judge.arch)  # so that `distill train` finds it from transfer-set.json
    tell_selection(result, out, json=json)
    counts = result.folder.document["counts"]
    check_bad(counts["seen"], counts["seen"] - counts["quarantined"], max_bad, where=out)


def _make(sources: "Sources", teacher: "Classifier", choice: "Choice", *, out: Path, **options: Any) -> "Curated":
    """Curate, with a page to look at and a note of when and where."""
    from curate.previews import write_previews
    from curate.run import curate
    from manifests.commit import write_json
    from manifests.provenance import when_and_where

    result = curate(sources, teacher, choice, out=out, progress=bar, **options)
    write_previews(result.folder, result.selection, result.stores)
    parts = {"corpora": sources.corpora, "reference": sources.reference, "excluded": sources.excluded}
    origin = {part: {corpus.name: corpus.spec for corpus in corpora} for part, corpora in parts.items()}
    write_json(out / "run.json", {"command": sys.argv, **origin, **when_and_where()})
    return result


def _sources(corpora: list[str] | None, reference: list[str] | None, excluded: list[str] | None) -> "Sources":
    """The corpora asked for, by their part."""
    from curate.corpora import open_corpus
    from curate.run import Sources

    return Sources(
        corpora=_open(corpora),
        reference=[open_corpus(option) for option in reference or ()],
        excluded=[open_corpus(option) for option in excluded or ()],
    )


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


app.command()(distance)


def main() -> None:
    """Entry point of the `curate` command."""
    run(app, "curate")
