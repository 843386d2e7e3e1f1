"""A distillation run: from a transfer set and a teacher to a run folder with a student, its figures and a report."""

import contextlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch

from distill import evaluate
from distill.device import hardware
from distill.errors import DistillError
from distill.material import Material, Views
from distill.methods.base import Config, Method, Setup
from distill.models import spec
from distill.models.modelspec import plain
from distill.models.student import fresh_student
from distill.models.teachers import Classifier, load_classifier, save_classifier
from distill.models.view import Precision
from distill.ranks import ALONE, Ranks
from distill.recipes import find_method
from distill.report import REPORT, SYNTHETIC_MOSAIC, read_report, write_report
from distill.run_manifest import write_run_manifest
from distill.tensorboard import Board
from distill.train import Pace, Progressed, train
from manifests.commit import claimed, write_bytes, write_json
from manifests.keys import address
from manifests.progress import Progress, silent
from manifests.provenance import fingerprint
from shards.damage import BUDGET, Damage, OnDamage, Skipping, guarded
from shards.device import Residence, choose_residence
from shards.page import mosaic
from shards.sources import Source
from shards.stream import Stream

STUDENT = "student.safetensors"
CHOSEN = "chosen.safetensors"
SHOWN = 128  # synthetic images in the mosaic


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run depends on besides its transfer set and teacher."""

    method: str
    student: str
    config: Config
    updates: int | None = None
    """student updates; None: as many as the config's epochs give"""
    seed: int = 0
    dtype: Precision = "float32"
    compile: bool = False
    """run student and teacher through torch.compile"""
    logits: str = "auto"
    """auto: the teacher's logits that the transfer set carries, where it carries some; live: ask the teacher"""

    def __post_init__(self) -> None:
        if self.updates is not None and self.updates < 1:
            raise DistillError(f"--updates is {self.updates}; expected at least 1")
        if not 0 <= self.seed < 1 << 63:
            raise DistillError(f"--seed is {self.seed}; expected a number from 0 to 2^63 - 1")
        if self.logits not in ("auto", "live"):
            raise DistillError(f"logits is {self.logits!r}; expected auto or live")
        spec(self.student)  # raises UnknownModel
        if find_method(self.method).needs_labels:
            raise DistillError(f"{self.method} needs labels and a transfer set has none; `distill pretrain` runs it")

    def plan(self, material: Material, teacher: Classifier, *, device: torch.device) -> dict[str, Any]:
        """What the run's output belongs to; equal plans give equal weights on the same processor and threads."""
        return {
            **asdict(self),
            "transfer_set": material.id,
            "teacher": teacher.sha256,
            "normaliser": [list(teacher.mean), list(teacher.std)],
            "flip": teacher.flip,
            **({"code": [teacher.code, code]} if (code := spec(self.student).code) or teacher.code else {}),
            "device": device.type,
        }

    def steps(self, stream: Stream | None) -> int:
        """Steps of the whole schedule."""
        if self.updates is not None:
            return math.ceil(self.updates / self.config.updates_per_step)
        return self.config.steps(0 if stream is None else stream.batches_per_epoch)


def default_out(plan: dict[str, Any], *words: str) -> Path:
    """Where a run goes when nobody says: equal plans share a folder, so the same command resumes."""
    return Path("runs") / "-".join([*map(plain, words), fingerprint(plan)[:8]])


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is computed: nothing here changes its result, but for the last bits."""

    device: torch.device
    ranks: Ranks = ALONE
    residence: str = "auto"
    """where the set's pixels lie: auto, device, memory or window"""
    on_damage: str = "refuse"
    """refuse, or skip: go on without damaged images, within a budget"""
    max_bad: float = BUDGET
    """share of the images that may be skipped"""

    def __post_init__(self) -> None:
        for name, known in (("residence", get_args(Residence)), ("on_damage", get_args(OnDamage))):
            if getattr(self, name) not in known:
                option = {"residence": "--resident", "on_damage": "--on-damage"}[name]
                raise DistillError(f"{option} is {getattr(self, name)!r}; expected one of {', '.join(known)}")


def build_method(
    run: RunConfig, material: Material, teacher: Classifier, *, place: Place
) -> tuple[Method, Stream | None, Residence]:
    """The run's method as before its first step, every network seeded, and its stream from the beginning."""
    stream: Stream | None = None
    residence: Residence = "window"
    if find_method(run.method).needs_stream:
        if material.train is None:
            raise DistillError(f"{run.method} learns from images; pass --shards, or take a method without")
        residence = choose_residence(place.residence, material.train, place.device)
        stream = Stream(
            material.train,
            batch_size=run.config.batch_size,
            seed=run.seed,
            rank=place.ranks.rank,
            world=place.ranks.world,
            resident=residence == "memory",
            on_damage=cast("OnDamage", place.on_damage),
            max_bad=place.max_bad,
        )
    views = material.views_for(teacher) if run.logits == "auto" else None
    method = fresh_method(run, teacher, steps=run.steps(stream), place=place, views=views)
    return method, stream, residence


def fresh_method(
    run: RunConfig, teacher: Classifier, *, steps: int, place: Place, views: Views | None = None
) -> Method:
    """The run's method as before its first step, every network seeded."""
    student = fresh_student(
        run.student,
        teacher.num_classes,
        mean=teacher.mean,
        std=teacher.std,
        seed=run.seed,
        dtype=run.dtype,
        device=place.device,
    )
    setup = Setup(
        teacher=teacher,
        student=student,
        device=place.device,
        steps=steps,
        seed=run.seed,
        flip=teacher.flip,
        ranks=place.ranks,
        views=views,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(address(run.seed, "method", run.method) >> 1)  # torch takes 63 bits
        method = find_method(run.method)(setup, run.config)
    if run.compile:
        method.compile()
    return method


def distill(
    material: Material,
    teacher: Classifier,
    run: RunConfig,
    *,
    out: Path,
    place: Place,
    replace: bool = False,
    pace: Pace | None = None,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run or resume ``run`` in ``out`` and return its report; a run that is finished only shows its report again.

    The student of the last step is `student.safetensors`; the one that agrees best with the teacher on the held-out
    slice is `chosen.safetensors`. No test label is seen here. Of several ranks the first writes. With ``tensorboard``
    event files lie beside metrics.jsonl (extra `tensorboard`).
    """
    spec(run.student).check_size(teacher.input_size)
    material.check(teacher)
    plan, first = run.plan(material, teacher, device=place.device), place.ranks.first
    method, stream, residence = build_method(run, material, teacher, place=place)
    with claimed(out, plan=plan, replace=replace) if first else contextlib.nullcontext():
        place.ranks.wait()
        before = read_report(out)
        if before is not None and before["finished"] and (out / STUDENT).exists():
            return before
        _meet_again(stream, before)
        judge = None
        if first and material.holdout is not None:
            judge = _Judge(material.holdout, method, place=place)
        shown = progress(f"{run.method} {run.student}", method.setup.steps, unit="steps")
        with shown if first else silent("", 0) as advance, Board(out) as board:
            done = train(
                method,
                stream,
                folder=out,
                judge=judge,
                judged=material.holdout is not None,
                keep_best=lambda: _save(out / CHOSEN, run, material, method),
                pace=pace,
                resident=residence == "device",
                mirror=board if tensorboard else lambda line: None,
                advance=advance,
            )
        if not first:
            return {}
        report = {"run": plan, "transfer_set": material.place, **_outcome(method, done, judge)}
        report["images"] = stream.rows if stream else 0
        report["damage"] = _told(stream.damage if stream else None)
        report["held_out_damage"] = _told(judge.damage if judge else None)
        _write(out, run, material, method, report)
    return report


def _meet_again(stream: Stream | None, before: Mapping[str, Any] | None) -> None:
    """Read the bad blocks that earlier slices of a run passed over, so that this one's report counts them too."""
    found = (before or {}).get("damage")
    if stream is not None and found:
        for number in found["blocks"]:
            stream.source.read(int(number))


def _told(found: Damage | None) -> dict[str, Any] | None:
    """Damage for a report, or None where there was none."""
    if found is None or not found.blocks:
        return None
    return {**asdict(found), "blocks": {str(n): what for n, what in found.blocks.items()}}


def _write(out: Path, run: RunConfig, material: Material, method: Method, report: dict[str, Any]) -> None:
    """The student, what its generator makes, tables, page, and last the report: it says that the rest is there."""
    _save(out / STUDENT, run, material, method)
    if (synthetic := method.samples(SHOWN)) is not None:
        images_NCHW = (synthetic * 255).round().to(torch.uint8).cpu().numpy()
        write_bytes(out / SYNTHETIC_MOSAIC, mosaic(images_NCHW))
    write_run_manifest(out, report)
    write_report(out, report, material.folder)
    write_json(out / REPORT, report)


class _Judge:
    """Agreement with the teacher on the held-out slice; the teacher is asked once."""

    def __init__(self, holdout: Source, method: Method, *, place: Place) -> None:
        self._holdout = guarded(holdout, cast("OnDamage", place.on_damage), budget=place.max_bad)
        self._method = method
        self._teachers = self._answers(lambda images_BCHW: method.setup.the_teacher(images_BCHW).logits_BK)
        self.images = len(self._teachers)
        self.majority = Counter(self._teachers.values()).most_common(1)[0][1] / self.images
        """what naming the teacher's commonest class every time would agree to"""

    def __call__(self) -> float:
        student = self._method.deployed()
        student.net.eval()
        mine = self._answers(student)
        student.net.train()
        return evaluate.agreement(mine, self._teachers)

    @property
    def damage(self) -> Damage | None:
        """What was passed over in the slice, where that is allowed."""
        return self._holdout.damage if isinstance(self._holdout, Skipping) else None

    def _answers(self, predict: evaluate.Predictor) -> dict[bytes, int]:
        return evaluate.predictions(predict, self._holdout, device=self._method.setup.device)


def _save(path: Path, run: RunConfig, material: Material, method: Method) -> None:
    """The student as it is now, with its teacher's normaliser and classes."""
    teacher, student = method.setup.the_teacher, method.deployed()
    save_classifier(
        path,
        student.net,
        arch=student.arch,
        mean=student.mean,
        std=student.std,
        classes=teacher.classes,
        input_size=teacher.input_size,
        dataset=f"transfer set {material.id}" if material.id else "synthetic images alone",
        teacher=teacher.sha256,
        method=run.method,
        flip=str(teacher.flip).lower(),
        resize=teacher.resize,
    )


def _outcome(method: Method, done: Progressed, judge: _Judge | None) -> dict[str, Any]:
    """What a report says of the training."""
    teacher, config, setup = method.setup.the_teacher, method.config, method.setup
    return {
        "teacher": {"name": teacher.name, "sha256": teacher.sha256},
        "finished": done.ended,
        "steps": done.step,
        "steps_planned": done.step if done.ended else setup.steps,
        "student_updates": done.step * config.updates_per_step,
        "teacher_queries": method.queries(done.step),
        "seconds": round(done.seconds, 1),
        "agreement": {
            "split": "holdout",
            "images": judge.images if judge else 0,
            "majority": judge.majority if judge else None,
            "last": judge() if judge else None,
            "chosen": done.best,
            "chosen_step": done.best_step,
        },
        "ranks": setup.ranks.world,
        "hardware": hardware(setup.device),
    }


def load_run(folder: Path, *, arch: str | None = None, dtype: Precision, device: torch.device) -> dict[str, Classifier]:
    """The students of a run folder by name: last, and chosen where one was chosen."""
    absent = [name for name in (STUDENT, REPORT) if not (folder / name).exists()]
    if absent:
        raise DistillError(f"{folder} is no finished run (no {absent[0]} in it); make one with `distill train`")
    found = {"last": folder / STUDENT, "chosen": folder / CHOSEN}
    return {n: load_classifier(p, arch=arch, dtype=dtype, device=device) for n, p in found.items() if p.exists()}
