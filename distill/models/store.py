"""The teachers' store: one folder per user that holds weights by architecture and hash."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from distill.errors import BadWeights, UnknownTeacher
from distill.models import MODELS
from distill.models.teachers import read_weights, stated_arch, weights_sha256
from manifests.commit import write_bytes


def store_dir() -> Path:
    """The teachers' folder: under $TRANSFERSET_HOME if set, else in the platform's folder for a user's data."""
    return Path(os.environ.get("TRANSFERSET_HOME") or platformdirs.user_data_dir("transferset")) / "teachers"


def register(path: Path | str, *, arch: str | None = None) -> Path:
    """Copy a weights file, byte for byte, into the store, unless its weights are there; returns the stored file.

    Raises BadWeights; `arch` as for `load_classifier`.
    """
    path = Path(path)
    tensors, metadata = read_weights(path)
    sha256 = weights_sha256(tensors)
    stored = find_by_hash(sha256)
    if stored is None:
        stored = store_dir() / f"{stated_arch(path, metadata, asked=arch)}-{sha256[:12]}.safetensors"
        write_bytes(stored, path.read_bytes())
    return stored


def find_by_hash(sha256: str) -> Path | None:
    """The stored file whose tensors have that hash (read and hashed anew), or None."""
    for path in sorted(store_dir().glob(f"*-{sha256[:12]}.safetensors")):
        try:
            if weights_sha256(read_weights(path)[0]) == sha256:
                return path
        except BadWeights:
            continue  # damaged since: as good as absent, and `register` writes it anew
    return None


def resolve(name: str, *, weights: Path | None = None) -> Path:
    """The weights file that `--teacher name [--teacher-weights FILE]` means.

    FILE if given; else the one stored teacher of that architecture (the starter's own, whose `dataset` begins with
    "builtin:", is never meant); else the one `<name>*.safetensors` in the working folder. Raises UnknownTeacher.
    """
    if name not in MODELS:
        raise UnknownTeacher(f"unknown teacher {name!r}; known: {', '.join(MODELS)}")
    if weights is not None:
        return weights
    stored = _stored(name)
    found = [path for path, metadata in stored.items() if not metadata.get("dataset", "").startswith("builtin:")]
    found = found or sorted(Path().glob(f"{name}*.safetensors"))
    if not found:
        raise UnknownTeacher(
            f"no weights for teacher {name!r} in the store or the working folder;"
            " pass --teacher-weights FILE, or train one with `distill pretrain`"
        )
    if len(found) > 1:
        raise UnknownTeacher(
            f"{len(found)} weights files for teacher {name!r}; pick one with --teacher-weights:"
            f" {', '.join(map(str, found))}"
        )
    return found[0]


def teacher_file(name: str | None, weights: Path | None, *, made_with: str | None) -> Path | None:
    """The weights file that a command means whose input was made with the teacher of hash ``made_with``.

    FILE if given; else that teacher, if it is stored and nobody named another architecture; else what `resolve` finds
    by ``name``; None if that is not given either.
    """
    if weights is not None:
        return weights
    own = find_by_hash(made_with) if made_with else None
    if own is not None and (name is None or own.name.startswith(f"{name}-")):
        return own
    return None if name is None else resolve(name)


def find_starter(arch: str, *, made: Mapping[str, str]) -> Path | None:
    """The stored teacher of an architecture whose metadata say that it was ``made`` just so, or None."""
    stored = _stored(arch)
    return next((path for path, metadata in stored.items() if made.items() <= metadata.items()), None)


def _stored(arch: str) -> dict[Path, dict[str, str]]:
    """The store's files of an architecture and their metadata; a damaged one is as good as absent."""
    found = {}
    for path in sorted(store_dir().glob(f"{arch}-{'[0-9a-f]' * 12}.safetensors")):
        with contextlib.suppress(BadWeights):
            found[path] = read_weights(path)[1]
    return found
