"""What `distill eval` does: accuracy of the networks of a run, or of one weights file, on labelled images."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from distill.device import hardware
from distill.errors import BadLabels, BadWeights, UnknownTeacher, UnsupportedSize
from distill.evaluate import agreement, predictions, read_labels
from distill.models.store import load_teacher
from distill.models.teachers import Classifier, load_classifier
from distill.models.view import Precision
from distill.pretrain import TEACHER
from distill.report import read_report, write_report
from distill.run import load_run
from distill.run_manifest import write_run_manifest
from manifests.commit import PLAN, write_json
from manifests.errors import TransfersetError
from shards.index import ShardFolder, open_folder
from shards.sources import LocalBlocks


def run_plan(target: Path) -> dict[str, Any] | None:
    """The plan of a run folder, or None for a weights file."""
    path = target / PLAN
    return dict(json.loads(path.read_bytes())) if path.exists() else None


def load_target(
    target: Path, *, arch: str | None = None, dtype: Precision, device: torch.device
) -> dict[str, Classifier]:
    """The networks to evaluate, by name: a run's last and chosen student, a pretrained teacher, or the one in a file.

    ``arch`` as for `load_classifier`.
    """
    if (target / TEACHER).exists():
        target = target / TEACHER
    if target.is_dir():
        return load_run(target, arch=arch, dtype=dtype, device=device)
    if not target.exists():
        return {str(target): _named(str(target), dtype=dtype, device=device)}
    return {target.stem: load_classifier(target, arch=arch, dtype=dtype, device=device)}


def _named(name: str, *, dtype: Precision, device: torch.device) -> Classifier:
    """One of the user's teachers, by name. Raises BadWeights."""
    with suppress(UnknownTeacher):
        if (found := load_teacher(name, None, dtype=dtype, device=device)) is not None:
            return found
    raise BadWeights(f"{name} does not exist; expected a run folder, a weights file or one of your teachers")


def evaluate_networks(
    networks: Mapping[str, Classifier], teacher: Classifier | None, store: ShardFolder, *, device: torch.device
) -> dict[str, Any]:
    """Accuracy of each network and of the teacher, and each one's agreement with the teacher.

    Raises BadLabels unless the store has labels and all name the same classes, UnsupportedSize for a store of images
    of another size than they take.
    """
    first = next(iter(networks.values()))
    for other in [*networks.values(), *([teacher] if teacher else [])]:
        if other.classes != first.classes:
            raise BadLabels(
                f"{other.name} names other classes than {first.name} ({', '.join(other.classes[:3])}, ... and "
                f"{', '.join(first.classes[:3])}, ...): they cannot be compared; pass the student's own teacher"
            )
        if other.input_size != store.size:
            raise UnsupportedSize(
                f"{other.name} takes {other.input_size} px images; {store.path} holds {store.size} px"
            )
    labels = read_labels(store, first.classes)
    truth = labels.as_dict()
    theirs = _predict(teacher, store, device) if teacher else None
    students = {}
    for name, network in networks.items():
        mine = _predict(network, store, device)
        students[name] = {
            "sha256": network.sha256,
            "accuracy": agreement(mine, truth),
            "agreement": agreement(mine, theirs) if theirs else None,
        }
    return {
        "corpus": store.document["corpus"],
        "store": store.id,
        "images": store.rows(),
        "labels_matched_by": labels.matched_by,
        "students": students,
        "teacher": {"name": teacher.name, "sha256": teacher.sha256} if teacher else None,
        "teacher_accuracy": agreement(theirs, truth) if theirs else None,
        "dtype": first.dtype,
        "hardware": hardware(device),
    }


def save_evaluation(target: Path, result: Mapping[str, Any]) -> None:
    """Keep a run's evaluation beside its report, and put it on the page; nothing to keep for a weights file."""
    if not target.is_dir():
        return
    write_json(target / f"eval-{result['corpus']}.json", result)
    report = read_report(target)
    if report is not None and "transfer_set" in report:  # else a pretrained teacher's, whose page is about its training
        write_run_manifest(target, report)
        write_report(target, report, _transfer_set(report))


def _transfer_set(report: Mapping[str, Any]) -> ShardFolder | None:
    """The transfer set of a run, if it is still where it was."""
    if report["transfer_set"] is None:
        return None
    with suppress(TransfersetError):
        folder = open_folder(report["transfer_set"])
        if folder.id == report["run"]["transfer_set"]:
            return folder
    return None


def _predict(network: Classifier, store: ShardFolder, device: torch.device) -> dict[bytes, int]:
    return predictions(lambda images: network(images).logits_BK, LocalBlocks(store), device=device)
