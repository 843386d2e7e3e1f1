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
from distill.models.teachers import save_classifier
from distill.models.view import Precision, luma
from distill.models.weights import read_weights, weights_sha256
from distill.report import REPORT, write_teacher_report
from distill.train import Pace, train
from manifests.commit import claimed, write_json
from manifests.progress import Progress, silent
from manifests.provenance import VERSION
from shards.index import ShardFolder
from shards.sources import LocalBlocks
from shards.stream import Stream

TEACHER = "teacher.safetensors"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What a classifier depends on besides its data."""

    model: str
    config: SupervisedConfig
    recipe: str = "fast"
    """whose settings they are, before changes; for the record"""
    seed: int = 0
    dtype: Precision = "float32"
    compile: bool = False
    """train through torch.compile"""

    def __post_init__(self) -> None:
        spec(self.model)  # raises UnknownModel before any image is read

    def plan(self, data: ShardFolder, *, device: torch.device) -> dict[str, Any]:
        """What the output belongs to; equal plans give equal weights on the same processor and threads."""
        code = spec(self.model).code
        return {**asdict(self), **({"code": code} if code else {}), "data": data.id, "device": device.type}


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
    model = spec(run.model)
    model.check_size(data.size)
    classes = evaluate.class_names(data)
    labels = evaluate.read_labels(data, classes)
    if len(classes) < 2:
        raise DistillError(f"{data.path} has {len(classes)} class(es); expected at least 2 to tell apart")
    tested = evaluate.read_labels(test, classes) if test else None  # refused now, not after the training
    mean, std = channel_statistics(data, channels=model.channels)
    stream = Stream(LocalBlocks(data), batch_size=run.config.batch_size, seed=run.seed)
    student = fresh_student(run.model, len(classes), mean=mean, std=std, seed=run.seed, dtype=run.dtype, device=device)
    if run.compile:
        student.compile()
    steps = run.config.epochs * stream.batches_per_epoch
    setup = Setup(teacher=None, student=student, device=device, steps=steps, seed=run.seed, flip=run.config.flip)
    plan = run.plan(data, device=device)
    with claimed(out, plan=plan, replace=replace), progress(f"pretrain {run.model}", steps, unit="steps") as advance:
        done = train(Supervised(setup, run.config), stream, folder=out, labels=labels, pace=pace, advance=advance)
        finished = done.step == steps
        accuracy = _accuracy(student, test, tested, device) if test and tested and finished else None
        if finished:
            facts = _facts(run, data, dataset=dataset, accuracy=accuracy, test=test)
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
        if finished:
            write_teacher_report(out, report, read_weights(out / TEACHER)[1])
        write_json(out / REPORT, report)
    return report


def _facts(
    run: PretrainConfig,
    data: ShardFolder,
    *,
    dataset: str,
    accuracy: float | None,
    test: ShardFolder | None,
) -> dict[str, str]:
    """The teacher's card beyond what a classifier needs: how it was made and how good it is. No times: equal bytes."""
    facts = {
        "dataset": dataset,
        "dataset_id": data.id,
        "images": str(data.rows()),
        "recipe": run.recipe,
        **{name: str(value) for name, value in asdict(run.config).items()},
        "flip": str(run.config.flip).lower(),
        "seed": str(run.seed),
        "dtype": run.dtype,
        "transferset": VERSION,
    }
    if test is not None and accuracy is not None:
        facts |= {"test_accuracy": f"{accuracy:.4f}", "test_images": str(test.rows())}
    return facts


def channel_statistics(folder: ShardFolder, *, channels: int = 3) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all images, of pixels in [0, 1]; of luma for one channel.

    Exact sums of integers for RGB, of float64 for luma.
    """
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for batch in Stream(LocalBlocks(folder), batch_size=256, shuffle=False, tail="short").one_epoch():
        if channels == 1:
            pixels = luma(torch.from_numpy(batch.images_BCHW).double()).numpy()
        else:
            pixels = batch.images_BCHW.astype(np.int64)
        total += pixels.sum(axis=(0, 2, 3))
        squares += (pixels**2).sum(axis=(0, 2, 3))
        count += pixels.size // channels
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))  # a constant channel would divide by 0
    return [round(float(m) / 255, 4) for m in mean], [round(float(s) / 255, 4) for s in std]


def _accuracy(student: Student, test: ShardFolder, labels: evaluate.LabelTable, device: torch.device) -> float:
    student.net.eval()
    student.dtype = "float32"
    with torch.compiler.set_stance("force_eager"):  # compiling for another mode and size is not worth its minute
        found = evaluate.predictions(student, LocalBlocks(test), device=device)
    return evaluate.agreement(found, labels.as_dict())
