"""Checkpoints: every part of a run in one safetensors file, written atomically, restored to the bit.

The tensors of a state become the file's tensors; the rest of the state, with a mark where each tensor stood, is JSON in
the file's metadata. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distill.errors import BadCheckpoint
from distill.methods.base import Stateful
from manifests.commit import write_bytes
from manifests.provenance import canonical_json

_TENSOR, _PAIRS, _TUPLE = "$tensor", "$dict", "$tuple"


def save(path: Path, parts: Mapping[str, Stateful], facts: Mapping[str, Any]) -> None:
    """Write the state of all ``parts`` and some JSON-ready ``facts``."""
    tensors: dict[str, Tensor] = {}
    states = {name: _flatten(part.state_dict(), name, tensors) for name, part in parts.items()}
    metadata = {"states": canonical_json(states), "facts": canonical_json(facts)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def load(path: Path, parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Restore all ``parts`` and return the facts; raises `BadCheckpoint` for a damaged file or one of other parts."""
    states, facts, tensors = _read(path)
    if set(states) != set(parts):
        raise BadCheckpoint(
            f"{path} holds {', '.join(sorted(states))}; this run has {', '.join(sorted(parts))}: "
            f"it belongs to another method, choose another --out"
        )
    for name, part in parts.items():
        part.load_state_dict(_rebuild(states[name], tensors))
    return facts


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        return json.loads(metadata["states"]), json.loads(metadata["facts"]), tensors
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadCheckpoint(f"{path} is damaged or no checkpoint ({error}); delete it to start anew") from None


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


def all_finite(parts: Mapping[str, Stateful]) -> bool:
    """Whether every floating-point tensor of every part is finite; waits for the device."""
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        _flatten(part.state_dict(), name, tensors)
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values() if tensor.is_floating_point())
