"""Weights files: safetensors as written here, and the `.pth` files that people have, read without running code.

A network is known by the hash of its tensors, so that equal weights are one teacher whatever their file is called,
however it wraps them and in whichever precision it holds them.
"""

import hashlib
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from distill.errors import BadWeights, WrongArchitecture

_COUNTER = "num_batches_tracked"  # BN's step counter: no use after training, so neither saved, hashed nor asked for
_SHOWN = 3  # differences that a message names before it only counts
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network")  # under which trainers keep the state dict
_PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # how torch.save's files begin: since torch 1.6, and before
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SCALARS: list[Any] = [  # what makes numpy numbers, which some trainers save beside the weights; it runs no code
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # 1 and 2
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]
_TYPES = (*_FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A weights file's tensors, by their plain names, and its metadata (a `.pth` file has none). Raises BadWeights.

    Floating-point tensors are float32, whatever the file holds; BN's step counters are left out.
    """
    if not path.is_file():
        raise BadWeights(f"no weights file {str(path)!r}; expected a safetensors or .pth file")
    blob = path.read_bytes()  # not memory-mapped: weights must not change when somebody overwrites the file
    try:
        tensors, metadata = safetensors.torch.load(blob), split_header(blob)[0].get("__metadata__") or {}
    except (SafetensorError, KeyError):  # KeyError: numbers of a type that torch lacks
        if not blob.startswith((_ZIP, _PICKLE)):
            raise BadWeights(
                f"{str(path)!r} is not a whole safetensors file, and not a .pth file either; copy or download it again"
            ) from None
        tensors, metadata = _state_dict(path, _unpickle(path, blob)), {}
    used = {name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTER)}
    if strange := next((name for name, tensor in used.items() if not _is_plain(tensor)), None):
        kind = f"{used[strange].dtype} {used[strange].layout} {used[strange].device}".replace("torch.", "")
        raise BadWeights(f"{str(path)!r}: {strange} is a tensor of another kind ({kind}); expected dense real numbers")
    return {name: t.detach().float() if t.dtype in _FLOATS else t.detach() for name, t in used.items()}, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose tensors are not read. Raises BadWeights."""
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, FileNotFoundError):
        raise BadWeights(f"{str(path)!r} is not a whole safetensors file") from None


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in _TYPES


def _unpickle(path: Path, blob: bytes) -> Any:
    """The tensors and plain values of a `.pth` file; nothing that it asks to be run is run."""
    try:
        if blob.startswith(_ZIP) and (part := zipfile.ZipFile(io.BytesIO(blob)).testzip()):
            raise zipfile.BadZipFile(f"checksum of {part}")  # which torch does not look at
        quiet = warnings.catch_warnings(action="ignore")  # on kinds of pickle that it then refuses
        with quiet, torch.serialization.safe_globals(_SCALARS):
            return torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  # a damaged file leads torch into errors of every kind
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in text:
            raise BadWeights(_needs_code(path, text)) from None
        why = f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
        raise BadWeights(f"{str(path)!r} is damaged, or no .pth file ({why}); copy or download it again") from None


def _needs_code(path: Path, text: str) -> str:
    """What to say of a file that `weights_only` refuses with that text, a page of which only the reason matters."""
    called = re.search(r"GLOBAL (\S+)", text)
    other = re.search(r"Unsupported operand \d+|TorchScript|Can only .*|Trying to .*", text)
    why = f"it asks for {called[1]}" if called else other[0] if other else text.splitlines()[0]
    return (
        f"{str(path)!r} holds more than tensors ({why}), and code from a file is never run here.\nIf you trust its"
        " maker, save its tensors alone where its code can be imported: x = torch.load(FILE, weights_only=False);"
        " torch.save(x.state_dict(), NEW), or x['model'] and the like if x is a dict"
    )


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in a `.pth` file: bare, or wrapped as trainers wrap it. Raises BadWeights."""
    found = content
    if isinstance(content, dict):
        found = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), content)
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        names = f" of {', '.join(map(str, list(content)[:5])) or 'nothing'}" if isinstance(content, dict) else ""
        raise BadWeights(
            f"{str(path)!r} holds no state dict but a {type(content).__name__}{names}; expected names and tensors,"
            f" alone or under {', '.join(map(repr, _WRAPPERS))}"
        )
    state = {str(name): tensor for name, tensor in found.items()}
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and little-endian bytes, in name order; BN's step counters are left out."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if not name.endswith(_COUNTER):
            tensor = tensors[name].detach().cpu().contiguous()
            header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
            digest.update(json.dumps(header).encode() + b"\n")
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parameters(tensors: Mapping[str, Tensor]) -> int:
    """How many numbers were learned by gradients: all but batch norm's running statistics."""
    return sum(t.numel() for name, t in tensors.items() if not name.endswith(("running_mean", "running_var")))


def plain_state(net: nn.Module) -> dict[str, Tensor]:
    """A network's state as `read_weights` gives it: floating-point tensors in float32, on the CPU."""
    state = {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items() if not name.endswith(_COUNTER)}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with its metadata in name order (the library's own order changes from run to run)."""
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}  # it refuses shared memory
    header, data = split_header(safetensors.torch.save(whole, dict(metadata)))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks that the data start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data


def split_header(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """A whole safetensors file's header (8 bytes of its length, then JSON) and the data after it."""
    end = 8 + int.from_bytes(blob[:8], "little")
    return json.loads(blob[8:end]), blob[end:]


def check_fits(tensors: Mapping[str, Tensor], net: nn.Module, *, what: str, source: str) -> None:
    """Compare names and shapes with what ``net`` wants. Raises WrongArchitecture, which names at most three."""
    wanted = net.state_dict()
    want = {name: tuple(tensor.shape) for name, tensor in wanted.items() if not name.endswith(_COUNTER)}
    have = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(_COUNTER)}
    other = [f"{name} is {have[name]}, not {want[name]}" for name in want if have.get(name, want[name]) != want[name]]
    absent = [f"{name} is absent" for name in want if name not in have]
    unknown = [f"{name} is unknown" for name in have if name not in want]
    if other or absent or unknown:
        raise WrongArchitecture(
            f"{source} is not {what}: {len(other)} tensors of another shape, {len(absent)} absent,"
            f" {len(unknown)} unknown,\nsuch as: {'; '.join(_some(other, absent, unknown))}"
        )


def _some(*kinds: list[str]) -> list[str]:
    """A few differences, of each kind one before a second of any."""
    first, rest = [kind[0] for kind in kinds if kind], [text for kind in kinds for text in kind[1:]]
    return [*first, *rest][:_SHOWN]
