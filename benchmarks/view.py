"""What a teacher's view costs when only its logits are used: images/s of `Classifier` over those of its bare network.

    python benchmarks/view.py [--models wrn40_2 wrn16_1] [--batch 32] [--pairs 100] [--dtype float32] [--device auto]
                              [--threads N]

Both sides normalise the same uint8 images and run the same weights, in the same precision and layout; the bare
network has no hooks and gives logits alone. In bfloat16 the classifier's side includes what the bare one lacks: its
head, asked again in float32. Prints JSON. The two take turns in one process, in alternating order; the ratio is the
median over pairs of (bare seconds / classifier seconds), with the 95 % interval of that median: a busy machine widens
it, and then more pairs are needed. Beside it stands the ratio of the two medians. What a view costs does not grow with
the batch: the smaller network and batch, the lower the ratio. The claim, for batches that one trains and scores with:
at least 0.99.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from distill.device import choose_device, choose_dtype, hardware
from distill.models import spec
from distill.models.card import Card
from distill.models.teachers import Classifier
from distill.models.view import Precision, normalise

CLASSES = 10


def sides(
    arch: str, *, dtype: Precision, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The bare network and the classifier of the same fresh weights (speed does not depend on them)."""
    model = spec(arch)
    net = model.build(CLASSES).eval().to(device)
    card = Card(
        arch=arch,
        mean=(0.5,) * model.channels,
        std=(0.25,) * model.channels,
        classes=tuple(map(str, range(CLASSES))),
        input_size=model.input_size,
    )
    tensors = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    bare = copy.deepcopy(net, tensors)  # before there are hooks; of the same tensors, so that memory is no difference
    teacher = Classifier(net, model=model, card=card, sha256="", metadata={}, dtype=dtype).to(device)
    low = dtype == "bfloat16"

    def run_bare(images_BCHW: Tensor) -> Tensor:
        x_BCHW = normalise(images_BCHW, teacher.mean_C, teacher.std_C)
        if low:
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low):
            logits_BK: Tensor = bare(x_BCHW)
        return logits_BK

    return run_bare, lambda images_BCHW: teacher(images_BCHW).logits_BK


def seconds(run: Callable[[Tensor], Tensor], images_BCHW: Tensor) -> float:
    """Of one forward."""
    start = time.perf_counter()
    run(images_BCHW)
    if images_BCHW.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(arch: str, *, batch: int, pairs: int, dtype: Precision, device: torch.device) -> dict[str, object]:
    """Both sides in turn, after a warm-up."""
    size = spec(arch).input_size
    images_BCHW = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    bare, view = sides(arch, dtype=dtype, device=device)
    times: dict[str, list[float]] = {"bare": [], "view": []}
    with torch.inference_mode():
        for _ in range(3):
            seconds(bare, images_BCHW), seconds(view, images_BCHW)
        for pair in range(pairs):
            turns = [("bare", bare), ("view", view)]
            for name, run in turns if pair % 2 else reversed(turns):
                times[name].append(seconds(run, images_BCHW))
    ratios = sorted(b / v for b, v in zip(times["bare"], times["view"], strict=True))
    reach = round(0.98 * pairs**0.5)  # ranks: 1.96 deviations of how many of the pairs lie below the true median
    return {
        "images_per_s": {name: round(batch / statistics.median(taken), 1) for name, taken in times.items()},
        "ratio_of_medians": round(statistics.median(times["bare"]) / statistics.median(times["view"]), 4),
        "ratio": round(statistics.median(ratios), 4),
        "interval_95": [
            round(ratios[max(0, pairs // 2 - reach)], 4),
            round(ratios[min(pairs - 1, pairs // 2 + reach)], 4),
        ],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["wrn40_2", "wrn16_1"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    how = {"batch": options.batch, "pairs": options.pairs, "dtype": dtype}
    found = {
        arch: measure(arch, batch=options.batch, pairs=options.pairs, dtype=dtype, device=device)
        for arch in options.models
    }
    print(json.dumps({**how, "models": found, "hardware": hardware(device)}, indent=1))


if __name__ == "__main__":
    main()
