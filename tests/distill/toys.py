"""A teacher, a transfer set and labelled images so small that a training step takes milliseconds."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from curate.corpora import open_corpus
from curate.ingest import ingest
from curate.views import TeacherViews
from distill.material import Material
from distill.methods import METHODS
from distill.models import build, spec
from distill.models.teachers import load_classifier, save_classifier
from distill.run import Place, RunConfig, distill
from distill.train import Pace
from manifests.commit import FileFacts, Ledger, write_json
from shards.index import ShardFolder, open_folder
from shards.pack import pack
from tests.shards import make

SIZE = 8  # px, the least that the networks take
CLASSES = ("blue", "green", "grey", "red")
COLOURS = {"blue": (40, 40, 220), "green": (40, 220, 40), "grey": (128, 128, 128), "red": (220, 40, 40)}
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
CPU = torch.device("cpu")
SHORT = {"generator_steps": 1, "student_steps": 3, "fill": 2, "z_dim": 16}
"""stages of data-free methods that take milliseconds"""
PLACE = Place(device=CPU)


def write_teacher(
    path: Path,
    *,
    arch: str = "wrn16_1",
    seed: int = 0,
    size: int = SIZE,
    classes: Sequence[str] = CLASSES,
    **extra: str,
) -> Path:
    """A weights file of a network that was never trained, with BN statistics of its own and a lively head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build(arch, len(classes))
        with torch.no_grad():
            for _ in range(20):
                net(torch.randn(16, 3, size, size))
            net.get_parameter(f"{spec(arch).head}.weight").mul_(8)  # answers that differ from image to image
    facts = {"test_accuracy": "0.9", **extra}  # as dfnd wants it stated
    save_classifier(path, net, arch=arch, mean=MEAN, std=STD, classes=classes, input_size=size, **facts)
    return path


def write_transfer_set(
    folder: Path,
    weights: Path,
    *,
    train: int = 40,
    holdout: int = 10,
    size: int = SIZE,
    views: int = 0,
    views_seed: int = 0,
) -> ShardFolder:
    """A transfer set chosen for the teacher in ``weights``, in ``folder/transfer-set``, with its logits of views."""
    teacher = load_classifier(weights)
    named: dict[str, Any] = {"name": teacher.name, "sha256": teacher.sha256, "arch": teacher.arch}
    named |= {"mean": list(teacher.mean), "std": list(teacher.std)}
    store = make.write_store(folder / "store", [[train + holdout + 1]], size=size)  # its last has no score
    with mock.patch.object(make, "TEACHER", named):
        budget = train + holdout
        selection = make.write_selection(folder / "selection", [store], budget=budget, holdout=holdout)
    asked = TeacherViews(teacher=teacher, count=views, seed=views_seed, device=CPU, threads=1) if views else None
    return pack(selection, {"one": store}, folder / "transfer-set", views=asked).folder


def say_builtin(folder: Path) -> None:
    """Let a transfer set say that its images came with the program."""
    path, ledger = folder / "transfer-set.json", Ledger(folder)
    write_json(path, {**json.loads(path.read_text()), "builtin": True})
    record, data = ledger.read("transfer-set"), path.read_bytes()
    assert record is not None
    own = FileFacts(name=path.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=0)
    files = [own if facts.name == path.name else facts for facts in record.files]
    ledger.commit("transfer-set", fingerprint=record.fingerprint, files=files)


def write_images(folder: Path, *, classes: Sequence[str] = CLASSES, each: int = 16, seed: int = 0) -> Path:
    """A folder of noisy tiles a class, each of its class's colour."""
    pixels = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = pixels.integers(-30, 30, (SIZE, SIZE, 3))
            tile = np.clip(np.array(COLOURS.get(name, (128, 128, 128))) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(tile).save(folder / name / f"{number}.png")
    return folder


def write_labelled_store(work: Path, images: Path, *, name: str = "tiles", size: int = SIZE) -> ShardFolder:
    """A labelled corpus store of a folder of images."""
    return ingest(open_corpus(f"{name}={images}"), size=size, work=work, threads=1).store


def run_config(method: str, *, seed: int = 0, updates: int | None = None, **settings: Any) -> RunConfig:
    """A run of ``method`` on batches of 8, its settings otherwise the published ones."""
    short = {} if METHODS[method].needs_stream else SHORT
    changes: dict[str, Any] = {"batch_size": 8, "epochs": 2, "lr": 0.05, **short, **settings}
    config = replace(METHODS[method].config_class(), **changes)
    return RunConfig(method=method, student="wrn16_1", config=config, seed=seed, updates=updates)


def train_often(method: str, updates: int, folder: Path, weights: Path, out: Path, **settings: Any) -> None:
    """A run in a process of its own: a line every step, so that others can count them, and a checkpoint every step."""
    torch.set_num_threads(1)
    distill(
        Material.of(open_folder(folder)),
        load_classifier(weights),
        run_config(method, updates=updates, **settings),
        out=out,
        place=PLACE,
        pace=Pace(log_every=1, judge_every=8, save_every_s=0),
    )
