"""The command `distill train`: what to train on what, said by options, by a file, or both."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from distill.options import Device, Dtype, Json, Replace, Set, StopAfter, Threads, seconds, set_threads
from distill.options import whole_numbers as numbers
from distill.train_options import (
    AllowPipe,
    BatchSize,
    Compile,
    ConfigFile,
    DryRun,
    Epochs,
    Logits,
    Lr,
    MaxBad,
    Method,
    OnDamage,
    Out,
    Recipe,
    Resident,
    Resize,
    Seed,
    Seeds,
    Shards,
    Student,
    Teacher,
    TeacherWeights,
    TensorBoard,
    Updates,
    settings_of,
)
from manifests.console import emit_json, note, print_table
from manifests.progress import bar

if TYPE_CHECKING:
    import torch

    from distill.material import Material
    from distill.models.teachers import Classifier
    from distill.models.view import Precision
    from distill.run import Place, RunConfig

DEFAULT_SET = "transfer-set"


def train(
    context: typer.Context,
    shards: Shards = None,
    student: Student = "wrn16_1",
    method: Method = "kd",
    teacher: Teacher = None,
    teacher_weights: TeacherWeights = None,
    recipe: Recipe = None,
    epochs: Epochs = None,
    updates: Updates = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    setting: Set = None,
    config: ConfigFile = None,  # noqa: ARG001  # its callback has taken it
    seed: Seed = None,
    seeds: Seeds = None,
    out: Out = None,
    logits: Logits = "auto",
    resident: Resident = "auto",
    on_damage: OnDamage = "refuse",
    max_bad: MaxBad = 0.01,
    resize: Resize = "antialias",
    allow_pipe: AllowPipe = False,
    stop_after: StopAfter = None,
    compile: Compile = False,
    tensorboard: TensorBoard = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    replace: Replace = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train a student on a transfer set; the same command again resumes, or shows a finished run."""
    from distill import ranks
    from distill.device import choose_device, choose_dtype
    from distill.errors import DistillError
    from distill.recipes import configure, default_recipe, find_method
    from distill.run import Place, RunConfig
    from distill.tensorboard import check_there
    from distill.train import Pace

    if tensorboard:
        check_there()
    here = ranks.join(device)
    where = choose_device(ranks.own_device(device))
    pace = Pace(stop_after_s=seconds(stop_after))
    if epochs is not None and updates is not None:
        raise DistillError("--epochs and --updates both say how long to train; pass one of them")
    if seed is not None and seeds is not None:
        raise DistillError("--seed and --seeds both say which seeds; pass one of them")
    set_threads(threads)
    asked: dict[str, Any] = {"dtype": choose_dtype(dtype, where), "device": where}
    address = shards or (DEFAULT_SET if find_method(method).needs_stream else None)
    opening: dict[str, Any] = {"resize": resize, "allow_pipe": allow_pipe}
    the_teacher, material = _load(address, teacher, teacher_weights, opening=opening, keep=not dry_run, **asked)
    settings = settings_of(context, setting, epochs=epochs, batch_size=batch_size, lr=lr)
    recipe = recipe or default_recipe(material, tell=note if here.first else lambda line: None)
    config_ = RunConfig(
        method=method,
        student=student,
        config=configure(recipe, method, settings),
        updates=updates,
        seed=seed or 0,
        dtype=asked["dtype"],
        compile=compile,
        logits=logits,
    )
    place = Place(device=where, ranks=here, residence=resident, on_damage=on_damage, max_bad=max_bad)
    options = {"replace": replace, "pace": pace, "tensorboard": tensorboard, "progress": bar}
    work = _Work(material, the_teacher, config_, place, out, options, numbers(seeds) if seeds is not None else [])
    try:
        if dry_run:
            _tell_forecast(work, json=json)
        elif work.seeds:
            _train_seeds(work, json=json)
        else:
            _train_one(work, json=json)
    finally:
        ranks.leave()


class _Work(NamedTuple):
    material: "Material"
    teacher: "Classifier"
    run: "RunConfig"
    place: "Place"
    out: Path | None
    options: dict[str, Any]
    seeds: list[int]
    """empty: one run, of the config's own"""

    @property
    def folder(self) -> Path:
        """Where the run goes, or those of several seeds."""
        from distill.run import default_out

        plan = self.run.plan(self.material, self.teacher, device=self.place.device)
        return self.out or default_out(plan, self.run.method, self.run.student, *(["seeds"] if self.seeds else []))


def _load(
    address: str | None,
    name: str | None,
    weights: Path | None,
    *,
    opening: dict[str, Any],
    keep: bool,
    dtype: "Precision",
    device: "torch.device",
) -> "tuple[Classifier, Material]":
    """The teacher and what it teaches on; a transfer set knows its teacher, tars take the size of theirs."""
    from distill.errors import UnknownTeacher
    from distill.material import Material, names_a_set, open_material
    from distill.models.store import load_teacher, register

    material = Material()
    if address is not None and names_a_set(address):
        material = open_material(address, size=None, **opening)
    own = material.document["teacher"] if material.document else None
    made_with = own["sha256"] if own else None
    teacher = load_teacher(name, weights, made_with=made_with, dtype=dtype, device=device)
    if teacher is None and own:
        raise UnknownTeacher(f"the teacher of {address}, {own['name']}, is not stored; pass --teacher-weights FILE")
    if teacher is None:
        raise UnknownTeacher(
            "which teacher? pass --teacher NAME or --teacher-weights FILE; only a transfer set knows its own"
        )
    if weights is not None and keep:
        register(weights, arch=teacher.arch)  # so that `distill eval` finds it from the run's plan
    if address is not None and material.train is None:
        material = open_material(address, size=teacher.input_size, **opening)
    return teacher, material


def _train_one(work: _Work, *, json: bool) -> None:
    from distill.report import read_report
    from distill.run import distill

    before = read_report(work.folder)
    report = distill(work.material, work.teacher, work.run, out=work.folder, place=work.place, **work.options)
    if not work.place.ranks.first:
        return
    _warn(report)
    if json:
        emit_json({"out": str(work.folder), **report})
    else:
        _tell(work.folder, report, already=before == report)


def _warn(report: Mapping[str, Any]) -> None:
    """Of images that `--on-damage skip` passed over."""
    for name, which in (("damage", "images"), ("held_out_damage", "held-out images")):
        if found := report.get(name):  # a report of an earlier tree has but the first
            note(
                f"{found['images']:,} of {found['of']:,} {which} lie in damaged blocks and were replaced by others: "
                f"see report.json, and `shards verify`"
            )


def _tell(out: Path, report: Mapping[str, Any], *, already: bool) -> None:
    """What came of a run, for a person."""
    done = "finished before, nothing to do" if already else "finished"
    state = done if report["finished"] else f"stopped at step {report['steps']:,} of {report['steps_planned']:,}"
    print(f"{out}: {state}; {report['student_updates']:,} student updates in {report['seconds']:,.0f} s")
    found = report["agreement"]
    if found["images"]:
        chosen = f", chosen {found['chosen']:.4f} (step {found['chosen_step']:,})" if found["chosen_step"] else ""
        print(
            f"agreement with the teacher on {found['images']:,} held-out images: last {found['last']:.4f}{chosen}; "
            f"always naming its commonest class: {found['majority']:.4f}"
        )
    print(f"report: {out / 'report.html'}")


def _train_seeds(work: _Work, *, json: bool) -> None:
    """One run a seed, below one folder; then what they have in common."""
    from distill.seeds import distill_seeds

    summary = distill_seeds(
        work.material, work.teacher, work.run, seeds=work.seeds, out=work.folder, place=work.place, **work.options
    )
    if not work.place.ranks.first:
        return
    for run in summary["runs"]:
        _warn(run)
    if json:
        emit_json({"out": str(work.folder), **summary})
        return
    rows = [[r["seed"], r["student_updates"], r["last"], r["chosen"], r["out"]] for r in summary["runs"]]
    print_table(["seed", "updates", "last", "chosen", "run"], rows)
    for name in ("last", "chosen"):
        if (found := summary[name]) is not None:
            print(f"agreement, {name}: {found['mean']:.4f} (standard deviation {found['sd']:.4f}, n = {found['n']})")
    if summary["unfinished"]:
        note(f"{summary['unfinished']} of {len(work.seeds)} runs are not finished; run the same command again to go on")


def _tell_forecast(work: _Work, *, json: bool) -> None:
    from distill.forecast import forecast
    from distill.seeds import folder_of

    runs = {folder_of(work.folder, seed): dataclasses.replace(work.run, seed=seed) for seed in work.seeds} or {
        work.folder: work.run
    }
    told = {out: forecast(work.material, work.teacher, run, place=work.place, out=out) for out, run in runs.items()}
    states = {str(out): each["state"] for out, each in told.items()}
    found = next(iter(told.values()))
    if json:
        emit_json({**found, "runs": states})
        return
    print_table(["setting", "value"], [[name, str(value)] for name, value in found["settings"].items()])
    print()
    print_table(["what it takes", "number"], [[name, value] for name, value in found["cost"].items()])
    for out, state in states.items():
        print(f"{out}: {state}")
