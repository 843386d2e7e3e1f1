"""Device and precision: what `auto` means, what is refused, and what a figure is told with."""

import pytest
import torch

from distill.device import choose_device, choose_dtype, hardware
from distill.errors import DistillError
from manifests.provenance import VERSION

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == CUDA


def test_cuda_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda") == CUDA
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DistillError, match="device 'cuda:2' is not there: torch sees 2 CUDA devices"):
        choose_device("cuda:2")


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DistillError, match="device 'cuda' is not there: torch sees 0 CUDA devices"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1"])
def test_unknown_device(name: str) -> None:
    with pytest.raises(DistillError, match=f"unknown device '{name}'; expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize("name", ["mps", "meta", "cpu:3"])
def test_device_that_is_not_supported(name: str) -> None:
    with pytest.raises(DistillError, match=f"device '{name}' is not supported; expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_a_named_dtype_is_taken() -> None:
    assert [choose_dtype(name, CPU) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    with pytest.raises(DistillError, match="unknown dtype 'float16'; expected auto, float32 or bfloat16"):
        choose_dtype("float16", CPU)


@pytest.mark.parametrize(("has_it", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_the_hardware_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_it, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it and not including_emulation)
    assert choose_dtype("auto", CPU) == choose_dtype("auto", CUDA) == expected


def test_a_torch_that_cannot_tell_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert choose_dtype("auto", CPU) == "float32"


def test_hardware_is_what_a_figure_travels_with(monkeypatch: pytest.MonkeyPatch) -> None:
    found = hardware(CPU)
    assert set(found) == {"device", "name", "cpus", "threads", "python", "torch", "transferset"}
    assert (found["device"], found["threads"], found["transferset"]) == ("cpu", torch.get_num_threads(), VERSION)
    assert found["torch"] == torch.__version__
    assert found["name"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: f"{where.type} card")
    assert hardware(CUDA)["name"] == "cuda card"


def test_a_processor_that_says_nothing_has_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("distill.device.Path.read_text", refuse)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert hardware(CPU)["name"] == "riscv64"
