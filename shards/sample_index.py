"""Where every image of a set of per-sample tars lies, what its label is, and who the set is, from headers and labels.

Nothing else is read, and of each image a few numbers are kept, so that a set of millions is opened and held.
"""

import hashlib
import os
import re
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath, normpath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.progress import Progress, silent
from manifests.provenance import fingerprint
from shards.errors import BlockDamaged, ShardError
from shards.layout import UNKNOWN_LABEL
from shards.names import expand, is_pattern, printable
from shards.tars import Member, Sample, Tar, group, images_of, index_tar, label_text

LABELS = ("cls", "json")
"""extensions of members that state a label; the first that a sample has counts"""
LABEL_BYTES = 16 << 20
"""of such a member, at most: it is read whole when a set is opened"""
NUMBER = re.compile(r"-?[0-9]{1,9}")
"""a label that is a class number: it fits int32"""

Tars = str | Path | Sequence[str | Path]
"""a tar, a folder of tars, a pattern such as `data-{0000..0099}.tar` or `data/*.tar`, or several of these"""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleIndex:
    """The images of a set, numbered through all its tars."""

    id: str
    """32 hex digits over the tars' names and sizes, all their headers, and the labels"""
    name: str
    """what messages call the set"""
    paths: Sequence[Path]
    stamps: Sequence[tuple[int, int]]
    """bytes and time of change (ns) of each tar when it was indexed"""
    tars: NDArray[np.int32]
    """(N,) which tar each image is in, ascending"""
    offsets: NDArray[np.int64]
    """(N,) bytes from the start of its tar to the encoded image"""
    sizes: NDArray[np.int64]
    """(N,) bytes"""
    labels: NDArray[np.int32]
    """(N,), -1 unknown"""
    classes: tuple[str, ...] | None
    """their names, if labels are names"""
    errors: Mapping[int, str]
    """why an image cannot be taken as it lies there, by its number"""

    def check(self, tar: int, file: int) -> None:
        """Refuse (`BlockDamaged`) an open file that is not the one that was indexed."""
        if _stamp(file) != self.stamps[tar]:
            raise BlockDamaged(f"{self.paths[tar]} changed since it was opened; open it again")

    def name_of(self, image: int) -> str:
        """Tar and member, for a message: names are not kept, so the tar's headers are read again."""
        path, offset = self.paths[self.tars[image]], int(self.offsets[image])
        member = next((m.name for m in index_tar(path).members if m.offset == offset), f"byte {offset}")
        return f"{path}: {printable(member)}"


def index_samples(tars: Tars, *, progress: Progress = silent) -> SampleIndex:
    """Read the headers and labels of all tars; raises `TarDamaged` if one is not whole, `ShardError` for no image."""
    paths = find_tars(tars)
    offsets, sizes, codes, images = array("q"), array("q"), array("q"), []
    texts: dict[str | None, int] = {}
    errors: dict[int, str] = {}
    facts: list[tuple[str, int, str]] = []
    stamps: list[tuple[int, int]] = []
    with progress("index", len(paths), unit="tars") as advance:
        for path, name in zip(paths, _names(paths), strict=True):
            before = len(offsets)
            try:
                with path.open("rb", buffering=0) as file:
                    stamps.append(_stamp(file.fileno()))
                    tar = index_tar(path)
                    for member, label in _labelled(tar, path, file.fileno()):
                        if member.error:
                            errors[len(offsets)] = member.error
                        offsets.append(member.offset)
                        sizes.append(member.size)
                        codes.append(texts.setdefault(label, len(texts)))
            except OSError as error:
                raise ShardError(f"{path} cannot be read: {error.strerror}") from None
            facts.append((name, stamps[-1][0], tar.sha256))
            images.append(len(offsets) - before)
            advance(1)
    if not len(offsets):
        raise ShardError(
            f"no image member (KEY.jpg, KEY.png, ...) in {_told(tars)}; "
            f"if these are block shards, give the folder of their set"
        )
    numbers, classes = _numbers(texts)
    labels = numbers[np.array(codes)]
    stated = hashlib.sha256(labels.tobytes()).hexdigest()
    return SampleIndex(
        id=fingerprint({"tars": facts, "labels": stated, "classes": classes})[:32],
        name=_told(tars),
        paths=paths,
        stamps=stamps,
        tars=np.repeat(np.arange(len(paths), dtype=np.int32), images),
        offsets=np.array(offsets),
        sizes=np.array(sizes),
        labels=labels,
        classes=classes,
        errors=errors,
    )


def find_tars(tars: Tars) -> list[Path]:
    """The tars that are meant, each once, in the order of their names; `ShardError` if one is not there."""
    found: set[Path] = set()
    for each in [tars] if isinstance(tars, str | Path) else tars:
        path = Path(each).expanduser()
        if path.is_dir():
            inside = {p for p in path.iterdir() if p.suffix.lower() == ".tar" and p.name[0] != "." and p.is_file()}
            if not inside:
                raise ShardError(f"no *.tar file in the folder {each}")
            found |= inside
        elif path.exists() or not is_pattern(str(each)):
            if not path.is_file():
                raise ShardError(f"no such file: {each}")
            found.add(path)
        else:
            try:
                found |= expand(str(each))
            except (ValueError, FileNotFoundError) as error:
                raise ShardError(str(error)) from None
    if not found:
        raise ShardError("no tar is given; expected at least one")
    whole = {Path(normpath(path.absolute())) for path in found}
    return sorted(whole, key=lambda path: f"{path}/")  # the order that `curate ingest` reads them in


def _told(tars: Tars) -> str:
    """What messages call the tars."""
    if isinstance(tars, str | Path):
        return str(tars)
    return str(tars[0]) if len(tars) == 1 else f"{tars[0]} and {len(tars) - 1} more"


def _names(paths: Sequence[Path]) -> list[str]:
    """Names below the innermost folder that all share: where that lies is no part of a set."""
    root = commonpath([path.parent for path in paths])
    return [printable(path.relative_to(root).as_posix()) for path in paths]


def _stamp(file: int) -> tuple[int, int]:
    stat = os.fstat(file)
    return stat.st_size, stat.st_mtime_ns


def _labelled(tar: Tar, path: Path, file: int) -> Iterator[tuple[Member, str | None]]:
    """The images of a tar, each with what its sample states for a label."""
    for _, sample in group(tar.members):
        if images := images_of(sample):
            label = _label(sample, path, file)
            yield from ((image, label) for image in images)


def _label(sample: Sample, path: Path, file: int) -> str | None:
    extension = next((extension for extension in LABELS if extension in sample), None)
    if extension is None or (member := sample[extension]).error:
        return None
    if member.size > LABEL_BYTES:
        raise ShardError(
            f"{path}: {printable(member.name)} has {member.size:,} bytes; expected a label, at most {LABEL_BYTES:,}"
        )
    return label_text(os.pread(file, member.size, member.offset), is_json=extension == "json")


def _numbers(texts: Collection[str | None]) -> tuple[NDArray[np.int32], tuple[str, ...] | None]:
    """The class number of each text, and the classes' names unless all texts are integers."""
    stated = [text for text in texts if text is not None]
    if all(map(NUMBER.fullmatch, stated)):
        return np.array([UNKNOWN_LABEL if text is None else int(text) for text in texts], np.int32), None
    classes = tuple(sorted(stated))
    place: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    return np.array([place.get(text, UNKNOWN_LABEL) for text in texts], np.int32), classes
