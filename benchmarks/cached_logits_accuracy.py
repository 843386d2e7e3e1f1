"""KD from logits that came with the set against a live teacher: are the students as good? LeNet-5 on MNIST, by command.

    python benchmarks/cached_logits_accuracy.py --data DIR [--images 10000] [--views 4] [--updates 1500] [--seeds 0,1,2]
                                                [--work DIR] [--out benchmarks/results/cached-logits-accuracy.json]

`distill pretrain` makes the teacher, `curate select` a random set of MNIST training images with that many views of
each, `distill train` students (`lenet5_half`) from it, once as it is and once with `--logits live`, and `distill eval`
tests them on the official test set. In live training every epoch augments anew; the views come round again. Batches of
64 at a rate of 0.01: in a first try (128, 0.05, temperature 4) one of six students never left chance, a live one.
Beside the difference of the means stands its standard error over seeds. With ``--work`` the same command goes on where
it was.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import parser_of, state
from distill.seeds import spread

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
EPOCHS = 4  # of the teacher


def command(*words: object) -> Any:
    """What one of our commands prints with --json."""
    room, *rest = map(str, words)
    made = subprocess.run(
        [sys.executable, "-m", room, *rest, "--json"], check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    return json.loads(made.stdout)


def accuracies(work: Path, *, data: Path, threads: int, images: int, views: int, updates: int, seeds: str) -> Any:
    """Test accuracy of the last student of each seed, by where the logits were from; and of the teacher."""
    train, test = (f"{name}={data / file}" for name, file in (("mnist", TRAIN), ("mnist-test", TEST)))
    beside = ("--work", work / "work", "--threads", threads)
    teacher = command(
        "distill", "pretrain", "lenet5", "--data", train, "--test", test, "--recipe", "digits", "--epochs", EPOCHS,
        "--no-register", "--out", work / "teacher", *beside,
    )  # fmt: skip
    weights = ("--teacher", "lenet5", "--teacher-weights", work / "teacher" / "teacher.safetensors")
    command(
        "curate", "select", *weights, "--corpus", train, "--mode", "random", "--budget", images, "--views", views,
        "--out", work / "set", *beside,
    )  # fmt: skip
    found: dict[str, list[float]] = {}
    for side, logits in (("cached", "auto"), ("live", "live")):
        out = work / side
        command(
            "distill", "train", "--shards", work / "set", "--student", "lenet5_half", *weights, "--method", "kd",
            "--updates", updates, "--batch-size", 64, "--lr", 0.01, "--logits", logits, "--seeds", seeds,
            "--out", out, "--threads", threads,
        )  # fmt: skip
        folders = sorted(out.glob("seed-*"))
        tested = [command("distill", "eval", folder, "--data", test, *weights, *beside) for folder in folders]
        found[side] = [each["students"]["last"]["accuracy"] for each in tested]
    return teacher, found


def main() -> None:
    """Train, test, print and write."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="MNIST's four files")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--updates", type=int, default=1_500)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)  # as the commands have it
    settings = {name: vars(options)[name] for name in ("data", "threads", "images", "views", "updates", "seeds")}
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        teacher, found = accuracies(work.absolute(), **settings)
    sides = {side: {**(spread(each) or {}), "each": each} for side, each in found.items()}
    error = math.sqrt(sum(side["sd"] ** 2 / side["n"] for side in sides.values()))
    report = {
        "teacher": {"arch": "lenet5", "accuracy": teacher["test_accuracy"]},
        "student": "lenet5_half",
        "test_accuracy": sides,
        "cached_minus_live": {"mean": sides["cached"]["mean"] - sides["live"]["mean"], "standard_error": error},
    }
    options.data, options.work = options.data.name, None
    state(options, torch.device("cpu"), report)


if __name__ == "__main__":
    main()
