"""Sides that take turns in one process, and what is said of them: medians, and ratios of what lay side by side.

Beside wall-clock stands processor time: on one thread of a quiet machine the two are the same, and other users of a
busy one move the second far less.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from curate.choice import Choice
from curate.corpora import open_corpus
from curate.run import Sources, curate
from distill.device import hardware
from distill.material import Material
from distill.models import build
from distill.models.teachers import Classifier, load_classifier, save_classifier
from distill.models.view import Precision

CLASSES = 10
COMMIT = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
).stdout.strip()
"""when the code was loaded: a long run may end under another"""


class Took(NamedTuple):
    """Seconds of one turn."""

    wall: float
    cpu: float
    """of all threads of the process"""


def clocks(device: torch.device) -> Took:
    """What both say now, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Took(time.perf_counter(), time.process_time())


def took(run: Callable[[], object], device: torch.device) -> Took:
    """Time of one call."""
    before = clocks(device)
    run()
    after = clocks(device)
    return Took(after.wall - before.wall, after.cpu - before.cpu)


def take_turns(
    sides: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device, warm_up: int = 1
) -> dict[str, list[Took]]:
    """Each side ``repeats`` times, one after another, every second time in the other order."""
    for _ in range(warm_up):
        for run in sides.values():
            run()
    times: dict[str, list[Took]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, run in sides.items() if turn % 2 == 0 else reversed([*sides.items()]):
            times[name].append(took(run, device))
    return times


def rates(times: Sequence[Took], *, count: float) -> dict[str, Any]:
    """``count`` of something a turn: how many a second, median and range of the turns."""
    per_s = sorted(count / each.wall for each in times)
    return {
        "per_s": round(statistics.median(per_s), 4),
        "range": [round(per_s[0], 4), round(per_s[-1], 4)],
        "per_cpu_s": round(statistics.median(count / each.cpu for each in times), 4),
    }


def ratio(numerator: Sequence[Took], denominator: Sequence[Took], *, scale: float = 1.0) -> dict[str, Any]:
    """Seconds over seconds, turn by turn: median and range, of wall-clock and of processor time."""
    found: dict[str, Any] = {"turns": len(numerator)}
    for name in Took._fields:
        pairs = zip(numerator, denominator, strict=True)
        ratios = sorted(scale * getattr(above, name) / getattr(below, name) for above, below in pairs)
        found[name] = round(statistics.median(ratios), 4)
        found[f"{name}_range"] = [round(ratios[0], 4), round(ratios[-1], 4)]
    return found


def fresh_teacher(folder: Path, arch: str, *, dtype: Precision, device: torch.device) -> Classifier:
    """A teacher of fresh weights, on which speed does not depend."""
    torch.manual_seed(0)
    path = folder / f"{arch}.safetensors"
    card: dict[str, Any] = {"arch": arch, "mean": [0.5] * 3, "std": [0.25] * 3, "input_size": 32}
    save_classifier(path, build(arch, CLASSES), classes=[str(number) for number in range(CLASSES)], **card)
    return load_classifier(path, dtype=dtype, device=device)


def textures(folder: Path, teacher: Classifier, *, images: int, device: torch.device, views: int = 0) -> Material:
    """A transfer set of generated images, none held out, with the teacher's logits of that many views of each."""
    sources = Sources(corpora=[open_corpus(f"textures=builtin:textures?n={images}")])
    choice = Choice(mode="random", budget=images, holdout=0)
    made = curate(sources, teacher, choice, work=folder / "work", out=folder / "set", views=views, device=device)
    return Material.of(made.folder)


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """With the options of all of these benchmarks."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    return parser


def state(options: argparse.Namespace, device: torch.device, report: Mapping[str, Any]) -> None:
    """Print the report with what a figure never travels without, and write it where that is asked for."""
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    facts = {"hardware": hardware(device), "commit": COMMIT, "load": round(os.getloadavg()[0], 1)}
    text = json.dumps({"settings": settings, **report, **facts}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
