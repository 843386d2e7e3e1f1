"""A distillation run: from a transfer set and a teacher to a run folder with a student, its figures and a report."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from distill import evaluate
from distill.device import hardware
from distill.errors import DistillError
from distill.methods.base import Config, Method, Setup
from distill.models import spec
from distill.models.modelspec import plain
from distill.models.student import fresh_student
from distill.models.teachers import Classifier, load_classifier, save_classifier
from distill.models.view import Precision
from distill.recipes import find_method
from distill.report import REPORT, SYNTHETIC_MOSAIC, read_report, write_report
from distill.train import Pace, Progressed, train
from manifests.commit import claimed, write_bytes, write_json
from manifests.keys import address
from manifests.progress import Progress, silent
from manifests.provenance import fingerprint
from shards.index import ShardFolder
from shards.page import mosaic
from shards.sources import LocalBlocks
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

    def __post_init__(self) -> None:
        if self.updates is not None and self.updates < 1:
            raise DistillError(f"--updates is {self.updates}; expected at least 1")
        spec(self.student)  # raises UnknownModel
        if find_method(self.method).needs_labels:
            raise DistillError(f"{self.method} needs labels and a transfer set has none; `distill pretrain` runs it")

    def plan(self, folder: ShardFolder, teacher: Classifier, *, device: torch.device) -> dict[str, Any]:
        """What the run's output belongs to; equal plans give equal weights on the same processor and threads."""
        return {
            **asdict(self),
            "transfer_set": folder.id,
            "teacher": teacher.sha256,
            "normaliser": [list(teacher.mean), list(teacher.std)],
            "flip": teacher.flip,
            **({"code": [teacher.code, code]} if (code := spec(self.student).code) or teacher.code else {}),
            "device": device.type,
        }

    def steps(self, stream: Stream) -> int:
        """Steps of the whole schedule."""
        if self.updates is not None:
            return math.ceil(self.updates / self.config.updates_per_step)
        return self.config.epochs * stream.batches_per_epoch


def default_out(plan: dict[str, Any], *words: str) -> Path:
    """Where a run goes when nobody says: equal plans share a folder, so the same command resumes."""
    return Path("runs") / "-".join([*map(plain, words), fingerprint(plan)[:8]])


def build_method(
    run: RunConfig, folder: ShardFolder, teacher: Classifier, *, device: torch.device
) -> tuple[Method, Stream]:
    """The run's method as before its first step, every network seeded, and its stream from the beginning."""
    stream = Stream(LocalBlocks(folder, "train"), batch_size=run.config.batch_size, seed=run.seed)
    student = fresh_student(
        run.student,
        teacher.num_classes,
        mean=teacher.mean,
        std=teacher.std,
        seed=run.seed,
        dtype=run.dtype,
        device=device,
    )
    setup = Setup(
        teacher=teacher,
        student=student,
        device=device,
        steps=run.steps(stream),
        seed=run.seed,
        flip=teacher.flip,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(address(run.seed, "method", run.method) >> 1)  # torch takes 63 bits
        return find_method(run.method)(setup, run.config), stream


def distill(
    folder: ShardFolder,
    teacher: Classifier,
    run: RunConfig,
    *,
    out: Path,
    device: torch.device,
    replace: bool = False,
    pace: Pace | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run or resume ``run`` in ``out`` and return its report; a run that is finished only shows its report again.

    The student of the last step is `student.safetensors`; the one that agrees best with the teacher on the held-out
    slice is `chosen.safetensors`. No test label is seen here.
    """
    spec(run.student).check_size(folder.size)
    if teacher.input_size != folder.size:
        raise DistillError(
            f"{folder.path} holds {folder.size} px images, {teacher.name} takes {teacher.input_size} px; "
            f"curate again with this teacher"
        )
    own = folder.document["teacher"]
    mine = {"sha256": teacher.sha256, "mean": list(teacher.mean), "std": list(teacher.std)}
    then = {name: own.get(name, fact) for name, fact in mine.items()}  # sets of the first release do not say all
    if then["sha256"] == teacher.sha256 and then != mine:
        raise DistillError(
            f"{folder.path} was chosen by {teacher.name} when its mean was {then['mean']} and its std {then['std']};"
            f" now they are {mine['mean']} and {mine['std']}: curate again"
        )
    plan = run.plan(folder, teacher, device=device)
    method, stream = build_method(run, folder, teacher, device=device)
    setup = method.setup
    with claimed(out, plan=plan, replace=replace):
        before = read_report(out)
        if before is not None and before["finished"] and (out / STUDENT).exists():
            return before
        judge = _Judge(folder, setup) if folder.rows("holdout") else None
        with progress(f"{run.method} {run.student}", setup.steps, unit="steps") as advance:
            done = train(
                method,
                stream,
                folder=out,
                judge=judge,
                keep_best=lambda: _save(out / CHOSEN, run, folder, setup),
                pace=pace,
                advance=advance,
            )
        _save(out / STUDENT, run, folder, setup)
        if (synthetic := method.samples(SHOWN)) is not None:
            images_NCHW = (synthetic * 255).round().to(torch.uint8).cpu().numpy()
            write_bytes(out / SYNTHETIC_MOSAIC, mosaic(images_NCHW))
        report = {"run": plan, "transfer_set": str(folder.path.absolute()), **_outcome(method, done, judge)}
        report["images"] = folder.rows("train")
        write_report(out, report, folder)
        write_json(out / REPORT, report)  # last: it says that the rest is there
    return report


class _Judge:
    """Agreement with the teacher on the held-out slice; the teacher is asked once."""

    def __init__(self, folder: ShardFolder, setup: Setup) -> None:
        self._folder, self._setup = folder, setup
        self._teachers = self._answers(lambda images_BCHW: setup.the_teacher(images_BCHW).logits_BK)
        self.images = len(self._teachers)
        self.majority = Counter(self._teachers.values()).most_common(1)[0][1] / self.images
        """what naming the teacher's commonest class every time would agree to"""

    def __call__(self) -> float:
        net = self._setup.student.net.eval()
        mine = self._answers(self._setup.student)
        net.train()
        return evaluate.agreement(mine, self._teachers)

    def _answers(self, predict: evaluate.Predictor) -> dict[bytes, int]:
        return evaluate.predictions(predict, self._folder, split="holdout", device=self._setup.device)


def _save(path: Path, run: RunConfig, folder: ShardFolder, setup: Setup) -> None:
    """The student as it is now, with its teacher's normaliser and classes."""
    teacher = setup.the_teacher
    save_classifier(
        path,
        setup.student.net,
        arch=run.student,
        mean=setup.student.mean,
        std=setup.student.std,
        classes=teacher.classes,
        input_size=teacher.input_size,
        dataset=f"transfer set {folder.id}",
        teacher=teacher.sha256,
        method=run.method,
        flip=str(teacher.flip).lower(),
        resize=teacher.resize,
    )


def _outcome(method: Method, done: Progressed, judge: _Judge | None) -> dict[str, Any]:
    """What a report says of the training."""
    teacher, config, steps = method.setup.the_teacher, method.config, method.setup.steps
    return {
        "teacher": {"name": teacher.name, "sha256": teacher.sha256},
        "finished": done.step == steps,
        "steps": done.step,
        "steps_planned": steps,
        "student_updates": done.step * config.updates_per_step,
        "teacher_queries": done.step * config.queries_per_step,
        "seconds": round(done.seconds, 1),
        "agreement": {
            "split": "holdout",
            "images": judge.images if judge else 0,
            "majority": judge.majority if judge else None,
            "last": judge() if judge else None,
            "chosen": done.best,
            "chosen_step": done.best_step,
        },
        "hardware": hardware(method.setup.device),
    }


def load_run(folder: Path, *, arch: str | None = None, dtype: Precision, device: torch.device) -> dict[str, Classifier]:
    """The students of a run folder by name: last, and chosen where one was chosen."""
    absent = [name for name in (STUDENT, REPORT) if not (folder / name).exists()]
    if absent:
        raise DistillError(f"{folder} is no finished run (no {absent[0]} in it); make one with `distill train`")
    found = {"last": folder / STUDENT, "chosen": folder / CHOSEN}
    return {n: load_classifier(p, arch=arch, dtype=dtype, device=device) for n, p in found.items() if p.exists()}
