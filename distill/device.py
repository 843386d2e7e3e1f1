"""Which device and precision a run uses, and what it ran on."""

import os
import platform
from typing import Any, get_args

import torch

from distill.errors import DistillError
from distill.models.teachers import Precision
from manifests.provenance import VERSION


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU; raises `DistillError` for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DistillError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N") from None
    if device.type not in {"cpu", "cuda"}:
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


def hardware(device: torch.device) -> dict[str, Any]:
    """What a figure never travels without."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device.type,
        "name": name,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transferset": VERSION,
    }
