"""Which device and precision a run uses, and what it ran on."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from distill.errors import DistillError
from distill.models.view import Precision
from manifests.provenance import VERSION


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU; raises `DistillError` for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DistillError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N") from None
    if device.type != "cuda" and name != "cpu":
        raise DistillError(f"device {name!r} is not supported; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DistillError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def choose_dtype(name: str, device: torch.device) -> Precision:
    """`auto` is bfloat16 where the hardware multiplies it, else float32."""
    for precision in get_args(Precision):
        if name == precision:
            return precision  # type: ignore[no-any-return]  # one of the Literal's own values
    if name != "auto":
        raise DistillError(f"unknown dtype {name!r}; expected auto, float32 or bfloat16")
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch offers no public question
    return "bfloat16" if any(getattr(torch.cpu, a, lambda: False)() for a in asked) else "float32"


@contextlib.contextmanager
def in_words(what: str) -> Iterator[None]:
    """What batches of another size would mend, said to the user; ``what`` is the network, or the run."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DistillError(f"{what} does not fit into memory; take a smaller batch ({_line(error)})") from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DistillError(f"{what} cannot be trained: batch norm needs more than one value a channel") from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def hardware(device: torch.device) -> dict[str, Any]:
    """What a figure never travels without."""
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transferset": VERSION,
    }


def _cpu_name() -> str:
    """The processor's model where the system tells it, else its kind."""
    with contextlib.suppress(OSError):  # only Linux has the file
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
