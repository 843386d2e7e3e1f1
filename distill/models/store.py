"""The teachers' store: one folder per user that holds weights by architecture and hash."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch

from distill.errors import BadWeights, DamagedWeights, UnknownModel, UnknownTeacher
from distill.models import MODELS, spec
from distill.models.external import canonical
from distill.models.teachers import Classifier, classifier_of, load_classifier, stored_name
from distill.models.view import Precision
from distill.models.weights import read_metadata, read_weights, serialise, weights_sha256
from manifests.commit import write_bytes

_DIGITS = 12  # of the hash in a stored name
_STARTER = "builtin:"  # how the `dataset` of the starter's own teacher begins: never meant by an architecture's name


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file in the store."""

    path: Path
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.path.stem

    @property
    def arch(self) -> str:
        """Its architecture; a file kept by an earlier version may say it by its name alone."""
        return self.metadata.get("arch") or self.name[: -_DIGITS - 1]


def store_dir() -> Path:
    """The teachers' folder: under $TRANSFERSET_HOME if set, else in the platform's folder for a user's data."""
    return Path(os.environ.get("TRANSFERSET_HOME") or platformdirs.user_data_dir("transferset")) / "teachers"


def register(path: Path | str, *, arch: str | None = None, facts: Mapping[str, str] | None = None) -> Path:
    """Take a weights file into the store, unless its weights are there; returns the stored file.

    What is stored says everything of itself: its own metadata, ``facts`` over them (`mean`, `std`, `classes`, ...; as
    strings, see card.py), and what the architecture adds. A file that says all that already is copied byte for byte.
    What is told of weights that are there already, by ``facts`` or by the file itself, takes the place of what was told
    before. Raises as `load_classifier` does; `arch` as there.
    """
    path = Path(path)
    tensors, metadata = read_weights(path)
    before = _told_before(weights_sha256(tensors), arch or metadata.get("arch"))
    told_all = {**before, **metadata, **(facts or {})}
    made = classifier_of(tensors, told_all, arch=arch or before.get("arch"), source=str(path))
    whole = made.metadata | made.card.to_metadata()
    stored = store_dir() / f"{made.name}.safetensors"
    if not _holds(stored, made.sha256) or read_metadata(stored) != whole:
        kept = {name: tensor for name, tensor in tensors.items() if name in made.net.state_dict()}
        says_all = metadata.items() >= whole.items() and kept.keys() == tensors.keys()
        write_bytes(stored, path.read_bytes() if says_all else serialise(kept, whole))
    return stored


def _told_before(sha256: str, arch: str | None) -> Mapping[str, str]:
    """The facts of the stored teacher of those tensors, and that architecture if one is named; none if unclear."""
    same = [stored for stored in teachers() if stored.name.endswith(f"-{sha256[:_DIGITS]}")]
    found = [stored for stored in same if arch is None or stored.arch == canonical(arch)]
    return found[0].metadata if len(found) == 1 and _holds(found[0].path, sha256) else {}


def teachers() -> list[Stored]:
    """What the store holds, by name; a damaged file is as good as absent."""
    found = []
    for path in _files():
        with contextlib.suppress(BadWeights):
            found.append(Stored(path=path, metadata=read_metadata(path)))
    return found


def damaged() -> list[Path]:
    """Files of the store that cannot be read any more."""
    sound = {teacher.path for teacher in teachers()}
    return [path for path in _files() if path not in sound]


def _files() -> list[Path]:
    return sorted(store_dir().glob(f"*-{'[0-9a-f]' * _DIGITS}.safetensors"))


def find(name: str) -> Stored:
    """The stored teacher of that architecture, or of that name or a beginning of it that reaches into its hash.

    Raises UnknownTeacher unless it is exactly one.
    """
    return _one(_called(name), name, "the store")


def remove(name: str) -> Path:
    """Delete a stored teacher; returns the file that was. Raises UnknownTeacher, see `find`."""
    path = next((path for path in damaged() if path.stem == name), None) or find(name).path
    path.unlink()
    return path


def find_by_hash(sha256: str) -> Path | None:
    """The stored file whose tensors have that hash (read and hashed anew), or None."""
    paths = sorted(store_dir().glob(f"*-{sha256[:_DIGITS]}.safetensors"))
    return next((path for path in paths if _holds(path, sha256)), None)


def _holds(path: Path, sha256: str) -> bool:
    """Whether a file's tensors have that hash; one that is damaged since is as good as absent."""
    with contextlib.suppress(BadWeights):
        return weights_sha256(read_weights(path)[0]) == sha256
    return False


def resolve(name: str) -> Path:
    """The weights file that `--teacher name` means.

    The stored teacher that `find` finds; else the one file in the working folder that is called by
    that name, with or without something after it, and is .safetensors or .pth. Raises UnknownTeacher.
    """
    if found := _called(name):
        return _one(found, name, "the store").path
    begin = stored_name(name, "").removesuffix("-")
    files = [path for suffix in ("safetensors", "pth") for path in Path().glob(f"*.{suffix}")]
    here = sorted(path for path in files if _begins(path.stem, begin))
    if not here:
        stored = ", ".join(teacher.name for teacher in teachers())
        raise UnknownTeacher(
            f"no weights for teacher {name!r} in the store ({stored or 'empty'}) or the working folder;\n"
            "pass --teacher-weights FILE, keep one with `distill teachers add FILE`, or train one: `distill pretrain`"
        )
    return _one([Stored(path=path, metadata={}) for path in here], name, "the working folder").path


def teacher_file(name: str | None, weights: Path | None, *, made_with: str | None) -> Path | None:
    """The weights file that a command means whose input was made with the teacher of hash ``made_with``.

    FILE if given; else that teacher, if it is stored and nobody named another; else what `resolve` finds by ``name``;
    None if that is not given either.
    """
    if weights is not None:
        return weights
    own = find_by_hash(made_with) if made_with else None
    if own is not None and (
        name is None or _is_named(name, own.stem) or stored_name(canonical(name), "") == own.stem[:-_DIGITS]
    ):
        return own
    return None if name is None else resolve(name)


def load_teacher(
    name: str | None,
    weights: Path | None,
    *,
    made_with: str | None = None,
    dtype: Precision = "float32",
    device: torch.device | str = "cpu",
) -> Classifier | None:
    """The teacher that a command means, see `teacher_file`, or None. Raises UnknownTeacher, and as `load_classifier`.

    A stored file whose tensors are no longer those that its name tells is refused as DamagedWeights.
    """
    arch = name if name is not None and is_arch(name) else None
    path = teacher_file(name, weights, made_with=made_with)
    if path is None:
        return None
    stored = next((stored for stored in teachers() if stored.path == path), None)
    if stored:
        arch = stored.arch  # code too: it is in the store because the user named it
    teacher = load_classifier(path, arch=arch, dtype=dtype, device=device)
    if stored:
        check_sound(path, teacher.sha256)
    return teacher


def check_sound(path: Path, sha256: str) -> None:
    """Raise DamagedWeights unless ``sha256``, the hash of a stored file's tensors, is the one that its name begins."""
    if not path.stem.endswith(sha256[:_DIGITS]):
        raise DamagedWeights(
            f"the stored teacher {path.stem} is damaged: the hash of its tensors now begins {sha256[:_DIGITS]};\n"
            f"delete it with `distill teachers remove {path.stem}` and add it again"
        )


def is_arch(name: str) -> bool:
    """Whether a name is an architecture's, and not a stored teacher's own. Raises UnknownTeacher if it is neither."""
    try:
        return bool(spec(name))
    except UnknownModel as error:
        names = [teacher.name for teacher in teachers()]
        if any(_is_named(name, stored) for stored in names):
            return False
        yours = f"; your own: {', '.join(names)}" if names else ""
        raise UnknownTeacher(str(error).replace("unknown model", "unknown teacher") + yours) from None


def find_starter(arch: str, *, made: Mapping[str, str]) -> Path | None:
    """The stored teacher of an architecture whose metadata say that it was ``made`` just so, or None."""
    wanted = {"arch": arch, **made}.items()
    return next((teacher.path for teacher in teachers() if wanted <= teacher.metadata.items()), None)


def _called(name: str) -> list[Stored]:
    """The stored teachers that a name means: by architecture all but the starter's, or by their own name."""
    found = teachers()
    by_arch = [teacher for teacher in found if teacher.arch == canonical(name) and not _is_starter(teacher)]
    return by_arch or [teacher for teacher in found if _is_named(name, teacher.name)]


def _is_named(name: str, stored: str) -> bool:
    """Whether a name is a stored file's own, or a beginning of it that reaches into its hash."""
    return stored.startswith(name) and len(name) > len(stored) - _DIGITS


def _begins(stem: str, begin: str) -> bool:
    """Whether a file is called by a name that ends there: `alexnet` begins alexnet-cifar10, but not alexnet_half."""
    longer = [other for other in MODELS if other.startswith(begin) and other != begin]
    cut = stem.startswith(begin) and not stem[len(begin) : len(begin) + 1].isalnum()
    return cut and not any(stem.startswith(other) for other in longer)


def _is_starter(teacher: Stored) -> bool:
    return teacher.metadata.get("dataset", "").startswith(_STARTER)


def _one(found: list[Stored], name: str, where: str) -> Stored:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UnknownTeacher(f"no teacher {name!r} in {where}; `distill teachers` lists them")
    options = ", ".join(teacher.name if where == "the store" else str(teacher.path) for teacher in found)
    how = "name one of them: --teacher" if where == "the store" else "pick one with --teacher-weights:"
    raise UnknownTeacher(f"{len(found)} teachers {name!r} in {where}; {how} {options}")
