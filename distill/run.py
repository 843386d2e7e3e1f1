"""A distillation run: from a transfer set and a teacher to a run folder with a student, its figures and a report."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from distill import evaluate
from distill.device import hardware
from distill.errors import DistillError
from distill.methods.base import Config, Method, Setup
from distill.models import build
from distill.models.student import Student
from distill.models.teachers import Classifier, Precision, load_classifier, save_classifier
from distill.recipes import find_method
from distill.report import write_report
from distill.train import Pace, Progressed, train
from manifests.commit import check_claim, claimed, write_bytes, write_json
from manifests.keys import address
from manifests.provenance import fingerprint
from shards.index import ShardFolder
from shards.page import mosaic
from shards.stream import Stream

STUDENT = "student.safetensors"
CHOSEN = "chosen.safetensors"
REPORT = "report.json"
SYNTHETIC_MOSAIC = "mosaics/synthetic.png"
SHOWN = 128  # synthetic images in the mosaic

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


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

    def __post_init__(self) -> None:
        if self.updates is not None and self.updates < 1:
            raise DistillError(f"--updates is {self.updates}; expected at least 1")

    def plan(self, folder: ShardFolder, teacher: Classifier | None, *, device: torch.device) -> dict[str, Any]:
        """What the run's output belongs to; equal plans give equal weights on the same processor."""
        return {
            **asdict(self),
            "transfer_set": folder.id,
            "teacher": teacher.sha256 if teacher else None,
            "device": device.type,
        }

    def steps(self, stream: Stream) -> int:
        """Steps of the whole schedule."""
        if self.updates is not None:
            return math.ceil(self.updates / self.config.updates_per_step)
        return self.config.epochs * stream.batches_per_epoch


def default_out(plan: dict[str, Any]) -> Path:
    """Where a run goes when nobody says: equal plans share a folder, so the same command resumes."""
    return Path("runs") / f"{plan['method']}-{plan['student']}-{fingerprint(plan)[:8]}"


def make_student(name: str, like: Classifier, *, seed: int, dtype: Precision, device: torch.device) -> Student:
    """A fresh student with a teacher's classes and normaliser; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(address(seed, "student", name) >> 1)
        net = build(name, like.num_classes)
    return Student(net, mean=like.mean, std=like.std, dtype=dtype).to(device)


def build_method(run: RunConfig, setup: Setup) -> Method:
    """The run's method, its own networks seeded too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(address(run.seed, "method", run.method) >> 1)
        return find_method(run.method)(setup, run.config)


def distill(
    folder: ShardFolder,
    teacher: Classifier,
    run: RunConfig,
    *,
    out: Path,
    device: torch.device,
    replace: bool = False,
    pace: Pace | None = None,
    progress: Progress = lambda label, total: nullcontext(lambda n: None),
) -> dict[str, Any]:
    """Run or resume ``run`` in ``out`` and return its report.

    The student of the last step is `student.safetensors`; the one that agrees best with the teacher on the held-out
    slice is `chosen.safetensors`. No test label is seen here.
    """
    if teacher.input_size != folder.size:
        raise DistillError(
            f"{folder.path} holds {folder.size} px images, {teacher.name} takes {teacher.input_size} px; "
            f"curate again with this teacher"
        )
    plan = run.plan(folder, teacher, device=device)
    if not replace:
        check_claim(out, plan=plan)
    stream = Stream(folder, split="train", batch_size=run.config.batch_size, seed=run.seed)
    student = make_student(run.student, teacher, seed=run.seed, dtype=run.dtype, device=device)
    setup = Setup(
        teacher=teacher,
        student=student,
        device=device,
        steps=run.steps(stream),
        seed=run.seed,
        flip=teacher.metadata.get("flip", "true") == "true",
    )
    method = build_method(run, setup)
    judge = _Judge(folder, teacher, student, device) if folder.rows("holdout") else None

    def save(name: str) -> None:
        save_classifier(
            out / name,
            student.net,
            arch=run.student,
            mean=teacher.mean,
            std=teacher.std,
            classes=teacher.classes,
            input_size=teacher.input_size,
            dataset=f"transfer set {folder.id}",
            teacher=teacher.sha256,
            method=run.method,
        )

    with claimed(out, plan=plan, replace=replace), progress(f"{run.method} {run.student}", setup.steps) as advance:
        done = train(
            method,
            stream,
            folder=out,
            judge=judge,
            keep_best=lambda: save(CHOSEN),
            pace=pace,
            advance=advance,
        )
        save(STUDENT)
        if (synthetic := method.samples(SHOWN)) is not None:
            images_NCHW = (synthetic * 255).round().to(torch.uint8).cpu().numpy()
            write_bytes(out / SYNTHETIC_MOSAIC, mosaic(images_NCHW))
        report = _report(run, folder, teacher, method, done, judge, device=device)
        write_json(out / REPORT, report)
        write_report(out, folder)
    return report


class _Judge:
    """Agreement with the teacher on the held-out slice; the teacher is asked once."""

    def __init__(self, folder: ShardFolder, teacher: Classifier, student: Student, device: torch.device) -> None:
        self._folder, self._student, self._device = folder, student, device
        self._teacher = evaluate.predictions(lambda x: teacher(x).logits_BK, folder, split="holdout", device=device)
        self.images = len(self._teacher)

    def __call__(self) -> float:
        self._student.net.eval()
        mine = evaluate.predictions(self._student, self._folder, split="holdout", device=self._device)
        self._student.net.train()
        return evaluate.agreement(mine, self._teacher)


def _report(
    run: RunConfig,
    folder: ShardFolder,
    teacher: Classifier,
    method: Method,
    done: Progressed,
    judge: _Judge | None,
    *,
    device: torch.device,
) -> dict[str, Any]:
    config = run.config
    return {
        "run": run.plan(folder, teacher, device=device),
        "transfer_set": str(folder.path),
        "images": folder.rows("train"),
        "teacher": {"name": teacher.name, "sha256": teacher.sha256},
        "finished": done.step == method.setup.steps,
        "steps": done.step,
        "steps_planned": method.setup.steps,
        "student_updates": done.step * config.updates_per_step,
        "teacher_queries": done.step * config.queries_per_step,
        "seconds": round(done.seconds, 1),
        "agreement": {
            "split": "holdout",
            "images": judge.images if judge else 0,
            "last": judge() if judge else None,
            "chosen": done.best,
            "chosen_step": done.best_step,
        },
        "hardware": hardware(device),
    }


def load_run(folder: Path, *, dtype: Precision, device: torch.device) -> dict[str, Classifier]:
    """The students of a run folder by name: last, and chosen where one was chosen."""
    if not (folder / STUDENT).exists():
        raise DistillError(f"{folder} is no finished run (no {STUDENT} in it); make one with `distill train`")
    found = {"last": folder / STUDENT, "chosen": folder / CHOSEN}
    return {n: load_classifier(p, dtype=dtype, device=device) for n, p in found.items() if p.exists()}
