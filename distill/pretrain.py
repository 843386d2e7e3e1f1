"""Pretrain: a classifier from labelled data. How teachers are made; the same loop, stream and checkpoints as a run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill import evaluate
from distill.device import hardware
from distill.errors import DistillError
from distill.methods.base import Setup
from distill.methods.supervised import Supervised, SupervisedConfig
from distill.models import spec
from distill.models.student import Student, fresh_student
from distill.models.teachers import Precision, save_classifier, weights_sha256
from distill.report import REPORT
from distill.train import Pace, train
from manifests.commit import claimed, write_json
from manifests.progress import Progress, silent
from shards.index import ShardFolder
from shards.stream import Stream

TEACHER = "teacher.safetensors"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What a classifier depends on besides its data."""

    model: str
    config: SupervisedConfig
    seed: int = 0
    flip: bool = True
    """whether mirrored images keep their class; stored with the weights, so that distillation does the same"""
    dtype: Precision = "float32"

    def __post_init__(self) -> None:
        spec(self.model)  # raises UnknownModel before any image is read


def pretrain(
    data: ShardFolder,
    run: PretrainConfig,
    *,
    out: Path,
    device: torch.device,
    test: ShardFolder | None = None,
    dataset: str,
    replace: bool = False,
    pace: Pace | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train on a labelled store, write `teacher.safetensors` into ``out`` and return the report.

    The normaliser is measured on the data and travels with the weights. ``dataset`` is what the file says it was
    trained on. Test labels are used once, at the end, for the accuracy in float32 that the file states.
    """
    classes = evaluate.class_names(data)
    labels = evaluate.read_labels(data, classes)
    if len(classes) < 2:
        raise DistillError(f"{data.path} has {len(classes)} class(es); expected at least 2 to tell apart")
    tested = evaluate.read_labels(test, classes) if test else None  # refused now, not after the training
    mean, std = channel_statistics(data)
    stream = Stream(data, batch_size=run.config.batch_size, seed=run.seed)
    student = fresh_student(run.model, len(classes), mean=mean, std=std, seed=run.seed, dtype=run.dtype, device=device)
    steps = run.config.epochs * stream.batches_per_epoch
    setup = Setup(teacher=None, student=student, device=device, steps=steps, seed=run.seed, flip=run.flip)
    plan = {**asdict(run), "data": data.id, "device": device.type}
    facts = {"dataset": dataset, "epochs": str(run.config.epochs), "flip": str(run.flip).lower()}
    with claimed(out, plan=plan, replace=replace), progress(f"pretrain {run.model}", steps, unit="steps") as advance:
        done = train(Supervised(setup, run.config), stream, folder=out, labels=labels, pace=pace, advance=advance)
        finished = done.step == steps
        accuracy = _accuracy(student, test, tested, device) if test and tested and finished else None
        if accuracy is not None:
            facts["test_accuracy"] = f"{accuracy:.4f}"
        if finished:
            card = {"arch": run.model, "mean": mean, "std": std, "classes": classes, "input_size": data.size}
            save_classifier(out / TEACHER, student.net, **card, **facts)  # type: ignore[arg-type]  # the card's own types
        report = {
            "run": plan,
            "weights": str(out / TEACHER) if finished else None,
            "sha256": weights_sha256(student.net.state_dict()),
            "finished": finished,
            "steps": done.step,
            "seconds": round(done.seconds, 1),
            "test_accuracy": accuracy,
            "test_images": test.rows() if test else 0,
            "hardware": hardware(device),
        }
        write_json(out / REPORT, report)
    return report


def channel_statistics(folder: ShardFolder) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all images, of pixels in [0, 1]; exact sums of integers."""
    total, squares, count = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for batch in Stream(folder, batch_size=256, shuffle=False, drop_last=False).one_epoch():
        pixels = batch.images_BCHW.astype(np.int64)
        total += pixels.sum(axis=(0, 2, 3))
        squares += (pixels**2).sum(axis=(0, 2, 3))
        count += pixels.size // 3
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))  # a constant channel would divide by 0
    return [round(float(m) / 255, 4) for m in mean], [round(float(s) / 255, 4) for s in std]


def _accuracy(student: Student, test: ShardFolder, labels: evaluate.LabelTable, device: torch.device) -> float:
    student.net.eval()
    student.dtype = "float32"
    found = evaluate.predictions(student, test, device=device)
    return evaluate.agreement(found, labels.as_dict())
