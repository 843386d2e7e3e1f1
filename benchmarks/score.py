"""How much of the teacher's own speed `curate score` keeps: images/s of the whole step over the bare forward pass.

    python benchmarks/score.py [--teacher wrn40_2] [--images 4096] [--repeats 3]

Prints JSON. All figures are from one process, one after another, best of the repeats; the network has fresh weights
(speed does not depend on them) and the images are the built-in textures.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from curate.corpora import open_corpus
from curate.ingest import ingest
from curate.score import score
from distill.device import choose_dtype, hardware
from distill.models import build
from distill.models.teachers import load_classifier, save_classifier
from shards.sources import LocalBlocks
from shards.stream import Stream


def best(repeats: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of some repeats."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="wrn40_2")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores, device = os.cpu_count() or 1, torch.device("cpu")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        torch.manual_seed(0)
        card = {"arch": options.teacher, "mean": [0.5] * 3, "std": [0.25] * 3, "input_size": 32}
        save_classifier(work / "t", build(options.teacher, 10), classes=[str(i) for i in range(10)], **card)
        teacher = load_classifier(work / "t", dtype=choose_dtype("auto", device))
        store = ingest(open_corpus(f"textures=builtin:textures?n={options.images}"), size=32, work=work).store
        stream = Stream(LocalBlocks(store), batch_size=256, shuffle=False)
        batches = [torch.from_numpy(batch.images_BCHW) for batch in stream.one_epoch()]
        images = sum(map(len, batches))

        def forward(batch: torch.Tensor) -> None:
            with torch.inference_mode():
                teacher(batch)

        def bare() -> None:
            for batch in batches:
                forward(batch)

        def one_thread_a_batch() -> None:
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(forward, batches))

        def whole() -> None:
            score(store, teacher, work=Path(tempfile.mkdtemp(dir=work)))  # a folder of its own: nothing is reused

        rate = {
            "bare_threads_in_each_layer": images / best(options.repeats, bare),
            "bare_one_thread_a_batch": images / best(options.repeats, one_thread_a_batch),
            "curate_score": store.rows() / best(options.repeats, whole),
        }
    fastest = max(rate["bare_threads_in_each_layer"], rate["bare_one_thread_a_batch"])
    report = {
        "images_per_s": {k: round(v, 1) for k, v in rate.items()},
        "ratio": round(rate["curate_score"] / fastest, 3),
    }
    print(json.dumps({**vars(options), "dtype": teacher.dtype, **report, "hardware": hardware(device)}, indent=1))


if __name__ == "__main__":
    main()
