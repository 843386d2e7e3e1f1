"""What a run would do and cost, before anything is computed: its settings, its counts, and what its folder holds."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from distill.material import Material
from distill.models import spec
from distill.models.counts import count
from distill.models.teachers import Classifier
from distill.report import read_report
from distill.run import Place, RunConfig, build_method
from distill.train import LAST
from manifests.commit import check_claim


def forecast(material: Material, teacher: Classifier, run: RunConfig, *, place: Place, out: Path) -> dict[str, Any]:
    """The resolved settings, the cost, and the state of ``out``; refuses what the run would refuse."""
    spec(run.student).check_size(teacher.input_size)
    material.check(teacher)
    check_claim(out, plan=run.plan(material, teacher, device=place.device))
    method, stream, residence = build_method(run, material, teacher, place=place)
    steps, config = method.setup.steps, run.config
    student, size = spec(method.deployed().arch), teacher.input_size
    with torch.device("meta"):
        weight = count(student.build(teacher.num_classes), size=size, channels=student.channels)
    before = read_report(out)
    choosing = config.queries_to_choose(stream.rows if stream else 0)
    return {
        "settings": {
            **asdict(run),
            **run.plan(material, teacher, device=place.device)["config"],
            "residence": residence,
        },
        "cost": {
            "steps": steps,
            "student updates": steps * config.updates_per_step,
            "teacher queries": method.queries(steps),
            **({"teacher queries to choose images, at most": choosing} if choosing else {}),
            "images from the stream": steps * config.batches_per_step * config.batch_size,
            "images in an epoch": stream.rows if stream else 0,
            "student parameters": weight.params,
            "multiply-adds of the student a image": weight.macs,
            **{f"updates of the {name} a step": times for name, times in config.phases.items()},
        },
        "state": _state(out, before),
    }


def _state(out: Path, before: dict[str, Any] | None) -> str:
    if before and before["finished"]:
        return "finished already: the same command shows its report"
    return "would be resumed" if (out / LAST).exists() else "would be started"
