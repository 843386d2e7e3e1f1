"""Images of a run's generator, as many as wanted, to look at or to learn from."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill import checkpoint
from distill.errors import DistillError
from distill.methods.base import Method
from distill.models.teachers import Classifier
from distill.recipes import find_method
from distill.report import read_report
from distill.run import Place, RunConfig, fresh_method
from distill.train import LAST, state_of
from manifests.commit import atomic_file
from manifests.progress import Advance, nothing

CHUNK = 256
"""images made at once"""


def trained_method(run: Path, teacher: Classifier, *, place: Place) -> tuple[Method, dict[str, Any]]:
    """A run's method as its last checkpoint left it, and what it is: the run's plan, and the checkpoint's step.

    Raises `DistillError` for a folder that is no run, or of a method without a generator.
    """
    report = read_report(run)
    if report is None or "transfer_set" not in report or not (run / LAST).exists():
        raise DistillError(f"{run} is no distillation run with a checkpoint ({LAST}); make one with `distill train`")
    plan = report["run"]
    kind = find_method(plan["method"])
    own = {name: plan[name] for name in ("method", "student", "updates", "seed", "dtype")}
    config = RunConfig(config=kind.config_class(**plan["config"]), **own)
    method = fresh_method(config, teacher, steps=report["steps_planned"], place=place)
    if not method.has_generator:
        raise DistillError(f"{run} was trained by {plan['method']}, which has no generator; mosaickd or mad have one")
    there = checkpoint.load(run / LAST, state_of(method))  # a slice that was killed is ahead of the report
    return method, {"run": plan, "step": there["step"]}


def write_images(method: Method, count: int, path: Path, *, advance: Advance = nothing) -> None:
    """Write ``count`` images of the method's generator as one `.npy` array, uint8 (N, H, W, 3), atomically.

    Image n depends on the generator, the run's seed and n alone, but for the last bits.
    """
    with atomic_file(path) as file:
        for number, start in enumerate(range(0, count, CHUNK)):
            made = method.samples(CHUNK, number=number + 1)  # number 0 is what the run's pages show
            if made is None:
                raise AssertionError("a method without a generator was asked for images")
            images_NHWC = (made * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            if images_NHWC.shape[-1] == 1:  # grey teachers see grey; a set holds RGB
                images_NHWC = images_NHWC.repeat(3, axis=-1)
            if start == 0:
                shape = (count, *images_NHWC.shape[1:])
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            chunk = images_NHWC[: count - start]
            file.write(np.ascontiguousarray(chunk).data)
            advance(len(chunk))
