"""The `distill` command: train a student, evaluate it, pretrain a teacher. Wires curation's readers in for labels.

`train` is in train_cli.py, what is about methods and finished runs in runs_cli.py, what is about networks in
models_cli.py and teachers_cli.py.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill import models_cli, runs_cli, teachers_cli, train_cli
from distill.options import Device, Dtype, Json, Replace, Set, StopAfter, Threads, seconds, set_threads, typed
from manifests.console import emit_json, new_app, note, print_table, run
from manifests.progress import bar

if TYPE_CHECKING:
    from distill.models.teachers import Classifier
    from shards.index import ShardFolder

app = new_app("Train a small student from a transfer set and a teacher.")

STARTER_SIZE = 16
"""px; the digits have 8, and at 16 a WRN-40-2 learns them in well under a minute on two cores"""
STARTER_EPOCHS = 12
STARTER_TEST = "builtin:digits?split=test"
STARTER_TRAIN = "builtin:digits?split=train"

Work = Annotated[Path, typer.Option(help="Folder for what can be made again: corpus stores, scores.")]
DEFAULT_WORK = Path(".transferset")


@app.command("eval")
def evaluate(
    target: Annotated[Path, typer.Argument(help="A run folder, a weights file, or one of your teachers.")],
    data: Annotated[
        str | None, typer.Option(help="Labelled corpus, [NAME=]SPEC; default: a built-in teacher's own test set.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architecture of the networks, if their files do not say it or it is code.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Teacher's architecture or stored name; default: the run's own.")
    ] = None,
    teacher_weights: Annotated[Path | None, typer.Option(help="The teacher's weights file.")] = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Accuracy on labelled data, and agreement with the teacher. The only command that sees test labels."""
    from distill.device import choose_device, choose_dtype
    from distill.evaluation import evaluate_networks, load_target, run_plan, save_evaluation
    from distill.models.store import load_teacher

    where = choose_device(device)
    precision = choose_dtype(dtype, where)
    set_threads(threads)
    networks = load_target(target, arch=arch, dtype=precision, device=where)
    own = (run_plan(target) or {}).get("teacher")
    judge = load_teacher(teacher, teacher_weights, made_with=own, dtype=precision, device=where)
    if own and judge is None:
        note("the run's teacher is not stored, so agreement with it is not known; pass --teacher-weights FILE")
    first = next(iter(networks.values()))
    spec = data or _default_data(judge or first)
    store = _labelled(spec, size=first.input_size, resize=(judge or first).resize, work=work, threads=threads)
    result = evaluate_networks(networks, judge, store, device=where)
    save_evaluation(target, result)
    if json:
        emit_json(result)
        return
    if result["labels_matched_by"] == "position":
        note(f"no class name of {result['corpus']} is the network's; they were matched in order")
    rows = [[n, s["accuracy"], s["agreement"]] for n, s in result["students"].items()]
    if judge:
        stated = judge.metadata.get("test_accuracy")
        name = f"teacher {judge.name}" + (f" (stated {stated})" if stated else "")
        rows.append([name, result["teacher_accuracy"], None])
    print_table(["network", "accuracy", "agreement"], rows)
    print(f"on {result['images']:,} images of {result['corpus']}")


@app.command()
def pretrain(
    model: Annotated[str, typer.Argument(help="Architecture, such as wrn40_2; `distill models` lists them.")],
    data: Annotated[str, typer.Option(help="Labelled training corpus, [NAME=]SPEC.")],
    test: Annotated[str | None, typer.Option(help="Labelled test corpus, [NAME=]SPEC, used once, at the end.")] = None,
    size: Annotated[int | None, typer.Option(help="Resolution in px; default: the architecture's own.", min=8)] = None,
    recipe: Annotated[
        str, typer.Option(help="fast, digits, mosaickd, mad-cifar, mad-tiny-imagenet, mad-food101 or mad-places365.")
    ] = "fast",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a batch.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate of the schedule.")] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Augment with mirrored images; not for digits. Default: the recipe's."),
    ] = None,
    setting: Set = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/pretrain-MODEL-CORPUS-HASH.")] = None,
    work: Work = DEFAULT_WORK,
    register: Annotated[bool, typer.Option(help="Keep the result with your teachers, for --teacher MODEL.")] = True,
    compile: Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")] = False,
    stop_after: StopAfter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    replace: Replace = False,
    json: Json = False,
) -> None:
    """Train a classifier on labelled data: a teacher, or a student's from-scratch baseline."""
    from distill.device import choose_device, choose_dtype
    from distill.models import spec
    from distill.models import store as teachers
    from distill.pretrain import PretrainConfig
    from distill.pretrain import pretrain as train_classifier
    from distill.recipes import configure_teacher
    from distill.run import default_out
    from distill.train import Pace

    where, pace = choose_device(device), Pace(stop_after_s=seconds(stop_after))
    changes = typed(setting, epochs=epochs, batch_size=batch_size, lr=lr, flip=flip)
    job = PretrainConfig(
        model=model,
        config=configure_teacher(recipe, changes),
        recipe=recipe,
        seed=seed,
        dtype=choose_dtype(dtype, where),
        compile=compile,
    )
    size = size or spec(model).input_size
    spec(model).check_size(size)
    if register:
        teachers.store_dir().mkdir(parents=True, exist_ok=True)  # refused now, not after the training
    set_threads(threads)
    store = _labelled(data, size=size, work=work, threads=threads)
    tested = _labelled(test, size=size, work=work, threads=threads) if test else None
    corpus = str(store.document["corpus"])
    out = out or default_out(job.plan(store, device=where), "pretrain", model, corpus)
    report = train_classifier(
        store, job, out=out, device=where, test=tested, dataset=corpus, replace=replace, pace=pace, progress=bar
    )
    kept = teachers.register(report["weights"], arch=model).stem if register and report["finished"] else None
    if json:
        emit_json({"out": str(out), "teacher": kept, **report})
    elif not report["finished"]:
        print(f"{out}: stopped at step {report['steps']:,}; run the same command again to go on")
    else:
        accuracy = report["test_accuracy"]
        tested_on = f", test accuracy {accuracy:.4f} on {report['test_images']:,} images" if tested else ""
        print(f"{report['weights']}: trained in {report['seconds']:,.0f} s{tested_on}")
        used = f"--teacher {kept}" if kept else f"--teacher {model} --teacher-weights {report['weights']}"
        print(f"use it with {used}; report: {out / 'report.html'}")


app.command()(train_cli.train)
app.command()(runs_cli.methods)
app.command()(runs_cli.compare)
app.command()(runs_cli.export)
app.command()(models_cli.models)
app.command()(models_cli.profile)
app.add_typer(teachers_cli.app, name="teachers")


@app.command()
def synthesize(
    run: Annotated[Path, typer.Argument(help="A run of a method with a generator.")],
    count: Annotated[int, typer.Option(help="Images to make.", min=1)] = 10_000,
    out: Annotated[Path, typer.Option(help="Folder of the transfer set.")] = Path("transfer-set-synthetic"),
    mosaic: Annotated[Path | None, typer.Option(help="Also a picture of the first 128, PNG.")] = None,
    holdout: Annotated[float, typer.Option(help="Fraction held out to judge students on.", min=0, max=0.5)] = 0.05,
    teacher_weights: Annotated[Path | None, typer.Option(help="The teacher's weights file, if not stored.")] = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    replace: Replace = False,
    json: Json = False,
) -> None:
    """Let a run's generator make a transfer set: its images, scored by the teacher and packed like any others."""
    from curate.choice import Choice
    from curate.corpora import open_corpus
    from curate.run import Sources, curate
    from distill.device import choose_device, choose_dtype
    from distill.errors import UnknownTeacher
    from distill.evaluation import run_plan
    from distill.models.store import load_teacher
    from distill.run import Place
    from distill.synthesize import trained_method, write_images
    from manifests.commit import write_bytes
    from manifests.provenance import fingerprint
    from shards.page import mosaic as picture

    where = choose_device(device)
    set_threads(threads)
    plan = run_plan(run) or {}
    judge = load_teacher(
        None, teacher_weights, made_with=plan.get("teacher"), dtype=choose_dtype(dtype, where), device=where
    )
    if judge is None:
        raise UnknownTeacher(f"the teacher of {run} is not stored; pass --teacher-weights FILE")
    method, made_by = trained_method(run, judge, place=Place(device=where))
    facts = {**made_by, "count": count}
    path = work / "synthetic" / f"{fingerprint(facts)[:12]}.npy"
    if not path.exists():
        with bar("synthesize", count) as advance:
            write_images(method, count, path, advance=advance)
    if mosaic is not None:
        import numpy as np

        first = np.load(path, mmap_mode="r")[:128]
        write_bytes(mosaic, picture(np.ascontiguousarray(first.transpose(0, 3, 1, 2))))
    made = curate(
        Sources(corpora=[open_corpus(f"synthetic=npy:{path}")]),
        judge,
        Choice(mode="random", budget=count, holdout=holdout),
        work=work,
        out=out,
        device=where,
        threads=threads,
        replace=replace,
        progress=bar,
    )
    rows, counts = made.folder.document["rows"], made.folder.document["counts"]
    if json:
        emit_json({"out": str(out), "id": made.folder.id, "rows": rows, "counts": counts})
    else:
        print(f"{out}: {sum(rows.values()):,} synthetic images ({counts['duplicates']:,} duplicates left out)")


def starter_teacher(arch: str, *, device: str = "auto", threads: int | None = None) -> Path:
    """Weights of the starter's teacher: `arch` trained on scikit-learn's digits, once per user, then cached."""
    from dataclasses import replace

    import torch

    from distill.device import choose_device, choose_dtype
    from distill.models import spec
    from distill.models.modelspec import plain
    from distill.models.store import find_starter, register, store_dir
    from distill.pretrain import PretrainConfig
    from distill.pretrain import pretrain as train_classifier
    from distill.recipes import configure_teacher

    spec(arch).check_size(STARTER_SIZE)
    made = {"dataset": STARTER_TRAIN, "input_size": str(STARTER_SIZE), "epochs": str(STARTER_EPOCHS), "recipe": "fast"}
    if (found := find_starter(arch, made=made)) is not None:
        return found
    note(f"training the starter teacher ({arch} on scikit-learn's digits), once; about half a minute")
    where, folder, threads_before = choose_device(device), store_dir().parent / "starter", torch.get_num_threads()
    train_set, test_set = (
        _labelled(spec, size=STARTER_SIZE, work=folder, threads=threads) for spec in (STARTER_TRAIN, STARTER_TEST)
    )
    job = PretrainConfig(
        model=arch,
        config=replace(configure_teacher("fast", {}), epochs=STARTER_EPOCHS, batch_size=64, flip=False),
        dtype=choose_dtype("auto", where),
    )
    set_threads(1)  # whatever the machine's cores: the same weights, and so the same hash
    report = train_classifier(
        train_set,
        job,
        out=folder / plain(arch),
        device=where,
        test=test_set,
        dataset=STARTER_TRAIN,
        replace=True,
        progress=bar,
    )
    set_threads(threads or threads_before)
    return register(report["weights"], arch=arch)


def _labelled(spec: str, *, size: int, work: Path, threads: int | None, resize: str = "antialias") -> "ShardFolder":
    """Ingest a labelled corpus, all of it: what cannot be read would make another accuracy."""
    from curate.corpora import open_corpus
    from curate.errors import CorpusUnreadable
    from curate.ingest import ingest as ingest_corpus
    from curate.ingest import unread

    corpus = open_corpus(spec)
    result = ingest_corpus(corpus, size=size, resize=resize, work=work, threads=threads, progress=bar)
    if message := unread([result]):
        raise CorpusUnreadable(message)
    store = result.store
    bad = store.document["seen"] - store.rows()
    if bad:
        note(f"{bad:,} of {store.document['seen']:,} samples of {corpus.name} could not be used")
    return store


def _default_data(network: "Classifier") -> str:
    from distill.errors import BadLabels

    if network.metadata.get("dataset") == STARTER_TRAIN:
        note(f"no --data given: using the starter's own test set, {STARTER_TEST}")
        return STARTER_TEST
    raise BadLabels("which labelled images? pass --data [NAME=]SPEC, such as --data test=data/test.parquet")


def main() -> None:
    """Entry point of the `distill` command."""
    run(app, "distill")
