"""Weights files: every form that people have loads as the same tensors; nothing in one is run; damage is told."""

import argparse
import collections
import hashlib
import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from distill.errors import BadWeights, WrongArchitecture
from distill.models import build
from distill.models.teachers import classifier_of, load_classifier
from distill.models.weights import (
    check_fits,
    parameters,
    plain_state,
    read_metadata,
    read_weights,
    serialise,
    weights_sha256,
)

State = dict[str, Tensor]
FACTS = {"mean": "0.5,0.4,0.3", "std": "0.25,0.2,0.1"}
WAY_OUT = "x = torch.load(FILE, weights_only=False); torch.save(x.state_dict(), NEW), or x['model']"


@pytest.fixture(scope="module")
def state() -> State:
    """A network's own state dict, with BN's counters; its numbers are exact in half precision too."""
    torch.manual_seed(0)
    net = build("wrn16_1", 2)
    net(torch.randn(4, 3, 8, 8))
    return {name: t.half().to(t.dtype) for name, t in net.state_dict().items()}


def trainer(state: State) -> dict[str, Any]:
    """What a training script saves beside the weights."""
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [150, 180])
    progress = {"epoch": 240, "best_acc": torch.tensor(94.2), "optimizer": optimizer.state_dict()}
    return {"arch": "wrn16_1", **progress, "scheduler": schedule.state_dict(), "model": state}


def named(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def cast(dtype: torch.dtype) -> Callable[[State], Any]:
    return lambda state: {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}


def flattened(state: State) -> State:
    """Every tensor a view of one: files of optimisers that keep their parameters in one piece."""
    flat = torch.cat([tensor.flatten().float() for tensor in state.values()])
    pieces = torch.split(flat, [tensor.numel() for tensor in state.values()])
    return {name: piece.view(t.shape) for (name, t), piece in zip(state.items(), pieces, strict=True)}


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "ordered, with versions": lambda _: build("wrn16_1", 2).state_dict(),
    "state_dict": lambda state: {"epoch": 3, "arch": "wrn16_1", "state_dict": state, "best_acc1": torch.tensor(0.9)},
    "model": trainer,
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "net": lambda state: {"net": state, "acc": 94.2, "epoch": 3},
    "module.": named("module."),
    "_orig_mod.": named("_orig_mod."),
    "module._orig_mod.": named("module._orig_mod."),
    "_orig_mod.module.": named("_orig_mod.module."),
    "model of module.": lambda state: {"model": named("module.")(state)},
    "float16": cast(torch.float16),
    "float64": cast(torch.float64),
    "parameters": lambda state: {n: nn.Parameter(t, requires_grad=t.is_floating_point()) for n, t in state.items()},
    "views of one": flattened,
    "transposed in memory": lambda state: {n: t.mT.contiguous().mT if t.ndim > 1 else t for n, t in state.items()},
    "without counters": lambda state: {n: t for n, t in state.items() if "num_batches" not in n},
}  # fmt: skip


def saved(content: Any, path: Path, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


# what people have


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_classifier(state: State, tmp_path: Path, form: str, zipped: bool) -> None:
    content = FORMS[form](state)
    if form == "ordered, with versions":
        content.update(state)
        assert isinstance(content, collections.OrderedDict)
    tensors, metadata = read_weights(saved(content, tmp_path / "t.pth", zipped=zipped))
    assert metadata == {}
    assert {n: tuple(t.shape) for n, t in tensors.items()} == {
        n: tuple(t.shape) for n, t in state.items() if not n.endswith("num_batches_tracked")
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert not any(tensor.requires_grad for tensor in tensors.values())
    teacher = classifier_of(tensors, FACTS, arch="wrn16_1", source="t.pth")
    assert teacher.sha256 == weights_sha256(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain_state(teacher.net).items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_safetensors_of_any_precision_are_the_same(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "t.safetensors"
    safetensors.torch.save_file(cast(dtype)(state), path, {"arch": "wrn16_1", **FACTS})
    tensors, metadata = read_weights(path)
    assert weights_sha256(tensors) == weights_sha256(state) == load_classifier(path).sha256
    assert metadata == read_metadata(path) == {"arch": "wrn16_1", **FACTS}


def test_bfloat16_is_read_too(tmp_path: Path) -> None:
    path = saved({"a": torch.tensor([1.5], dtype=torch.bfloat16), "b": torch.tensor([3])}, tmp_path / "t.pth")
    tensors = read_weights(path)[0]
    assert [(t.dtype, t.tolist()) for t in tensors.values()] == [(torch.float32, [1.5]), (torch.int64, [3])]


@pytest.fixture(scope="module")
def real_images(shared: Path) -> tuple[Tensor, Tensor]:
    """500 test images of CIFAR-10 and what the teacher's own file answers."""
    table = pq.read_table(shared / "data" / "cifar10" / "test.parquet").slice(0, 500)
    pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()]
    images_BCHW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits_BK = load_classifier(shared / "teachers" / "wrn40_2-cifar10.safetensors")(images_BCHW).logits_BK
    assert (logits_BK.argmax(1) == torch.tensor(table["label"].to_pylist())).float().mean() > 0.84
    return images_BCHW, logits_BK


_OTHERS = ("bare", "state_dict", "_orig_mod.module.", "float64", "views of one", "legacy")


@pytest.mark.parametrize("form", ["model", *(pytest.param(form, marks=pytest.mark.slow) for form in _OTHERS)])
def test_the_real_teacher_in_every_form_answers_bit_for_bit(
    shared: Path, real_images: tuple[Tensor, Tensor], tmp_path: Path, form: str
) -> None:
    tensors, metadata = read_weights(shared / "teachers" / "wrn40_2-cifar10.safetensors")
    path = saved(FORMS.get(form, FORMS["bare"])(tensors), tmp_path / "t.pth", zipped=form != "legacy")
    facts = {name: metadata[name] for name in ("mean", "std", "classes")}
    again = classifier_of(read_weights(path)[0], facts, arch="wrn40_2", source="t.pth")
    assert again.sha256 == weights_sha256(tensors)
    images_BCHW, logits_BK = real_images
    with torch.inference_mode():
        assert torch.equal(again(images_BCHW).logits_BK, logits_BK)


# files that ask for code to be run


class Evil:
    """Unpickled as others would, it makes a file."""

    def __init__(self, how: str, marker: Path) -> None:
        code = f"open({str(marker)!r}, 'w').close()"
        calls: dict[str, tuple[Any, ...]] = {
            "os.system": (os.system, (f"touch '{marker}'",)),
            "eval": (eval, (code,)),
            "exec": (exec, (code,)),
            "open": (open, (str(marker), "w")),
        }
        self._call = calls[how]

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def in_a_zip(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def in_legacy(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


WRITERS: dict[str, Callable[[Any], bytes]] = {
    "zip": in_a_zip,
    "legacy": in_legacy,
    "pickle 2": lambda content: pickle.dumps(content, 2),
    "pickle 5": lambda content: pickle.dumps(content, 5),
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of the proof that it is live
@pytest.mark.parametrize("how", ["os.system", "eval", "exec", "open"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_malicious_file_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, how: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # not even where the user has told torch to
    path, marker = tmp_path / "t.pth", tmp_path / "marker"
    blob = WRITERS[writer]({"args": Evil(how, marker), "state_dict": {"fc.weight": torch.ones(2)}})
    path.write_bytes(blob)
    with pytest.raises(BadWeights) as caught:
        read_weights(path)
    assert not marker.exists()
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{str(path)!r} holds more than tensors (")
    assert first.endswith("), and code from a file is never run here.")
    assert WAY_OUT in second
    if writer != "pickle 5":  # a dialect that torch does not read as far as the call
        asked = {"os.system": f"{os.system.__module__}.system", "open": "io.open"}.get(how, how)
        assert f"(it asks for {asked})" in first
    if writer in ("zip", "legacy"):
        torch.load(path, weights_only=False)
    else:
        pickle.loads(blob)
    assert marker.exists()  # it was live


def test_a_text_pickle_is_no_weights_file(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "t.pth").write_bytes(pickle.dumps(Evil("os.system", marker), 0))
    with pytest.raises(BadWeights, match="is not a whole safetensors file, and not a"):
        read_weights(tmp_path / "t.pth")
    assert not marker.exists()


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.bool_])
def test_numpy_numbers_beside_the_weights_do_no_harm(tmp_path: Path, kind: type[np.generic]) -> None:
    for name, write in (("zip", in_a_zip), ("legacy", in_legacy)):
        (tmp_path / name).write_bytes(write({"model": {"a": torch.ones(2)}, "best_acc": kind(1)}))
        tensors, _ = read_weights(tmp_path / name)
        assert tensors["a"].tolist() == [1.0, 1.0]


class Renamed(collections.OrderedDict[str, Tensor]):
    """An OrderedDict of somebody's own."""


@pytest.mark.parametrize("write", [in_a_zip, in_legacy])
@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "torch.nn.modules.container.Sequential"),
        ({"model": {"a": torch.ones(1)}, "opt": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        (Renamed(a=torch.ones(1)), r"\S+\.Renamed"),
    ],
)
def test_what_a_file_asks_for_is_named(tmp_path: Path, content: Any, asked: str, write: Callable[[Any], bytes]) -> None:
    (tmp_path / "t.pth").write_bytes(write(content))
    with pytest.raises(BadWeights, match=rf"holds more than tensors \(it asks for {asked}\), and code") as caught:
        read_weights(tmp_path / "t.pth")
    assert len(str(caught.value).splitlines()) == 2
    assert "PyTorch 2.6" not in str(caught.value)


def test_the_way_out_leads_out(tmp_path: Path) -> None:
    """As the message says, for a whole network and for a dict of things."""
    net = nn.Sequential(nn.Linear(2, 2))
    whole = torch.load(saved(net, tmp_path / "whole.pth"), weights_only=False)
    torch.save(whole.state_dict(), tmp_path / "1.pth")
    things = {"model": net.state_dict(), "opt": argparse.Namespace(lr=0.1)}
    thing = torch.load(saved(things, tmp_path / "things.pth"), weights_only=False)
    torch.save(thing["model"], tmp_path / "2.pth")
    hashes = {weights_sha256(read_weights(tmp_path / name)[0]) for name in ("1.pth", "2.pth")}
    assert hashes == {weights_sha256(net.state_dict())}


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # it is deprecated; files of it are about
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "t.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(BadWeights, match=r"holds more than tensors \(TorchScript\)(.|\n)*x.state_dict\(\)"):
        read_weights(tmp_path / "t.pt")


# files without a state dict


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(1)], "holds no state dict but a list; expected names and tensors, alone or under 'state_dict', "),
        (torch.ones(1), "holds no state dict but a Tensor;"),
        (None, "holds no state dict but a NoneType;"),
        ({}, "holds no state dict but a dict of nothing;"),
        ({"epoch": 3, "lr": 0.1}, "holds no state dict but a dict of epoch, lr;"),
        ({"model": {}, "epoch": 3}, "holds no state dict but a dict of model, epoch;"),
        ({"model": {"a": torch.ones(1), "b": 2}}, "holds no state dict but a dict of model;"),
        ({"a": torch.ones(1).to_sparse()}, r": a is a tensor of another kind \(float32 sparse_coo cpu\); expected"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, r": a is a tensor of another kind \(complex64 strided cpu\)"),
        ({"a": torch.ones(1, device="meta")}, r": a is a tensor of another kind \(float32 strided meta\)"),
    ],
)  # fmt: skip
def test_no_state_dict(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(BadWeights, match=words):
        read_weights(saved(content, tmp_path / "t.pth"))


# damage


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(BadWeights, match=r"no weights file '.*'; expected a safetensors or .pth file"):
            read_weights(path)


@pytest.mark.parametrize("blob", [b"", b"\0", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_another_kind_of_file(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "t.pth").write_bytes(blob)
    with pytest.raises(BadWeights, match=r"t.pth' is not a whole safetensors file, and not a .pth file either"):
        read_weights(tmp_path / "t.pth")
    with pytest.raises(BadWeights, match="is not a whole safetensors file"):
        read_metadata(tmp_path / "t.pth")


SMALL = {"conv.weight": torch.arange(64.0).view(4, 4, 2, 2), "bn.weight": torch.ones(4)}
BLOBS = {
    "zip": in_a_zip({"model": SMALL, "epoch": 3}),
    "legacy": in_legacy({"model": SMALL, "epoch": 3}),
    "safetensors": serialise(SMALL, {"arch": "wrn16_1"}),
}


@pytest.mark.parametrize("kind", BLOBS)
def test_a_cut_file_is_told(tmp_path: Path, kind: str) -> None:
    path, blob = tmp_path / "t.pth", BLOBS[kind]
    for length in {*range(1, len(blob), 23), len(blob) - 1}:
        path.write_bytes(blob[:length])
        with pytest.raises(BadWeights, match=r"t.pth' (is damaged, or no .pth|is not a whole|holds more than)"):
            read_weights(path)


@pytest.mark.parametrize("kind", BLOBS)
def test_a_changed_byte_is_told_or_seen_in_the_hash(tmp_path: Path, kind: str) -> None:
    """Of what is inside, only a zip knows its checksums; nothing else than BadWeights comes out, and no warning."""
    path, blob, told = tmp_path / "t.pth", BLOBS[kind], 0
    for position in range(0, len(blob), 3):
        changed = bytearray(blob)
        changed[position] ^= 0x11
        path.write_bytes(changed)
        try:
            tensors, _ = read_weights(path)
        except BadWeights:
            told += 1
        else:
            assert kind != "zip" or weights_sha256(tensors) == weights_sha256(SMALL), position
    assert told > 10


def test_a_changed_weight_in_a_zip_is_told(tmp_path: Path) -> None:
    changed = bytearray(BLOBS["zip"])
    changed[changed.index(SMALL["conv.weight"].numpy().tobytes()) + 7] ^= 1
    (tmp_path / "t.pth").write_bytes(changed)
    torch.load(tmp_path / "t.pth", weights_only=True)  # torch itself does not see it
    with pytest.raises(
        BadWeights, match=r"damaged, or no .pth file \(BadZipFile: checksum of .*data/0\); copy or down"
    ):
        read_weights(tmp_path / "t.pth")


# identity


def test_hash_by_hand_and_what_changes_it() -> None:
    """Pinned: stored hashes must go on meaning the same weights."""
    golden = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor([3], dtype=torch.int16)}
    by_hand = b'["a", "int16", [1]]\n\x03\x00["b", "float32", [1, 2]]\n\x00\x00\x80\x3f\x00\x00\x00\x40'
    assert weights_sha256(golden) == hashlib.sha256(by_hand).hexdigest()
    counted = golden | {"bn.num_batches_tracked": torch.tensor(7)}
    assert weights_sha256(counted) == weights_sha256(golden)
    others = [
        golden | {"b": torch.tensor([[1.0], [2.0]])},
        golden | {"b": torch.tensor([[1.0, 2.5]])},
        golden | {"b": torch.tensor([[1.0, 2.0]], dtype=torch.float16)},
        {"c": golden["b"], "a": golden["a"]},
    ]
    assert len({weights_sha256(other) for other in [golden, *others]}) == 5


def test_serialised_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    metadata = {f"note{i}": str(i) for i in range(8)}  # the library writes metadata in an order that changes
    first = serialise(SMALL, metadata)
    assert all(serialise(SMALL, dict(reversed(metadata.items()))) == first for _ in range(5))
    header = first[8 : 8 + int.from_bytes(first[:8], "little")]
    assert list(json.loads(header)["__metadata__"]) == sorted(metadata)
    assert len(header) % 8 == 0
    (tmp_path / "t.safetensors").write_bytes(first)
    assert read_metadata(tmp_path / "t.safetensors") == metadata
    assert weights_sha256(read_weights(tmp_path / "t.safetensors")[0]) == weights_sha256(SMALL)


def test_tensors_that_share_memory_are_serialised(tmp_path: Path) -> None:
    flat = torch.arange(6.0)
    shared = {"a": flat[:4].view(2, 2).T, "b": flat[2:]}
    assert safetensors.torch.load(serialise(shared, {}))["a"].tolist() == [[0, 2], [1, 3]]


def test_a_networks_state_is_float32_and_its_integers_stay() -> None:
    net = nn.BatchNorm1d(2).double()
    net.register_buffer("index", torch.tensor([2**40]))
    found = plain_state(net)
    assert {name: str(tensor.dtype) for name, tensor in found.items()} == {
        **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), "torch.float32"),
        "index": "torch.int64",
    }
    assert parameters(found | {"fc.weight": torch.ones(3, 2)}) == 2 + 2 + 1 + 6


# what must fit


def test_a_mismatch_names_three_at_most() -> None:
    have = {name: torch.ones(t.shape) for name, t in build("wrn16_2", 2).state_dict().items()}
    with pytest.raises(WrongArchitecture) as caught:
        check_fits(have, build("wrn40_1", 2), what="a wrn40_1 with 2 classes", source="t.pth")
    first, second = str(caught.value).splitlines()
    assert first.startswith("t.pth is not a wrn40_1 with 2 classes: ")
    assert "of another shape, 120 absent, 1 unknown" in first  # 12 more blocks of 10 tensors; block1's shortcut
    assert second.startswith("such as: ")
    assert second.count(";") == 2
    assert "is (32, 16, 3, 3), not (16, 16, 3, 3)" in second


def test_a_mismatch_of_names_alone() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    have = {**net.state_dict(), "1.scale": torch.ones(1)}
    del have["0.bias"], have["1.num_batches_tracked"]
    with pytest.raises(WrongArchitecture) as caught:
        check_fits(have, net, what="a toy", source="x")
    assert str(caught.value) == (
        "x is not a toy: 0 tensors of another shape, 1 absent, 1 unknown,\n"
        "such as: 0.bias is absent; 1.scale is unknown"
    )
