"""Checkpoints: every part of a run in one safetensors file, written atomically, restored to the bit.

The tensors of a state become the file's tensors; the rest of the state, with a mark where each tensor stood, is JSON in
the file's metadata, beside a checksum of it all. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distill.errors import BadCheckpoint, DamagedCheckpoint, Diverged
from distill.methods.base import Stateful
from manifests.commit import write_bytes
from manifests.provenance import canonical_json

_TENSOR, _PAIRS, _TUPLE = "$tensor", "$dict", "$tuple"


def save(path: Path, parts: Mapping[str, Stateful], facts: Mapping[str, Any]) -> None:
    """Write the state of all ``parts`` and some JSON-ready ``facts``, among them the run's ``step``.

    Raises `Diverged`, naming the tensor, if one is not finite; the file that was there before stays.
    """
    tensors: dict[str, Tensor] = {}
    states = {name: _flatten(part.state_dict(), name, tensors) for name, part in parts.items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise Diverged(
                f"{name} is not finite after step {facts['step']:,}; the last checkpoint is from before, but it would "
                f"happen again: start a new run with a lower --lr, or a lower rate of what it is of"
            )
    texts = {"states": canonical_json(states), "facts": canonical_json(facts)}
    write_bytes(path, safetensors.torch.save(tensors, texts | {"checksum": _checksum(texts, tensors)}))


def load(path: Path, parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Restore all ``parts`` and return the facts; raises `BadCheckpoint` for a damaged file or one of other parts."""
    states, facts, tensors = _read(path)
    if set(states) != set(parts):
        raise BadCheckpoint(
            f"{path} holds {', '.join(sorted(states))}; this run has {', '.join(sorted(parts))}: "
            f"it belongs to another method, choose another --out"
        )
    for name, part in parts.items():
        try:
            part.load_state_dict(_rebuild(states[name], tensors))
            if isinstance(part, torch.optim.Optimizer):
                _lay_out(part)
        except (RuntimeError, ValueError, KeyError):
            raise BadCheckpoint(
                f"{path} holds another {name} than this run's: another release wrote it; delete it to start anew"
            ) from None
    return facts


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give what an optimiser keeps of a parameter the parameter's own layout (channels-last), as it had when saved."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        texts = {name: metadata[name] for name in ("states", "facts")}
        if metadata["checksum"] != _checksum(texts, tensors):
            raise ValueError("its bytes are not those that were written")
        return json.loads(texts["states"]), json.loads(texts["facts"]), tensors
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is damaged or no checkpoint ({error}); delete it to start anew") from None


def _checksum(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Over all that `load` uses; safetensors itself would not notice a flipped bit."""
    digest = xxhash.xxh3_128()
    for name in sorted(texts):
        digest.update(texts[name].encode())
    for name in sorted(tensors):
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON-ready copy of a state; its tensors go to ``tensors`` under their path."""
    match value:
        case Tensor():
            tensors[path] = value.detach().cpu().contiguous().clone()  # clone: safetensors refuses shared memory
            return {_TENSOR: path}
        case Mapping():
            return {_PAIRS: [[key, _flatten(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
        case tuple() | list():
            items = [_flatten(item, f"{path}.{number}", tensors) for number, item in enumerate(value)]
            return {_TUPLE: items} if isinstance(value, tuple) else items
        case None | bool() | int() | float() | str():
            return value
    raise AssertionError(f"{path}: a state of type {type(value).__name__} cannot be saved")


def _rebuild(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$dict": pairs}:
            return {key: _rebuild(item, tensors) for key, item in pairs}
        case {"$tuple": items}:
            return tuple(_rebuild(item, tensors) for item in items)
        case list():
            return [_rebuild(item, tensors) for item in value]
    return value
