"""The one way anything is written: atomic files, commit records, one writer at a time.

temp file in the same folder -> flush, fsync -> os.replace -> fsync the folder -> commit record, last. A unit of work
counts as done only if its record exists, its fingerprint matches and the bytes are there; anything else is redone.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from manifests.errors import Busy, IntegrityError, OutputConflict
from manifests.provenance import canonical_json

PLAN = "plan.json"
"""what an output folder is being made from; written first, so that a half-made folder is never mistaken"""

PART = ".part"
"""end of the name of a file that is being written"""

LOCK = ".lock"
HOLDER = ".lock.json"
"""who holds the lock, for the message to the second run"""


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Say of an error of the system which file it is about, where the system does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


class HashingFile(io.RawIOBase):
    """A file open for writing that hashes and counts what passes through it; sequential writes only."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._digest = hashlib.sha256()
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        with naming(self._raw.name):
            written = self._raw.write(data)
        self._bytes += written
        return written

    def tell(self) -> int:
        return self._bytes

    def flush(self) -> None:
        if not self._raw.closed:
            with naming(self._raw.name):
                self._raw.flush()

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the bytes written so far."""
        return self._digest.hexdigest()

    @property
    def bytes(self) -> int:
        """How many bytes were written so far."""
        return self._bytes


@contextlib.contextmanager
def atomic_file(path: Path | str, *, durable: bool = True) -> Iterator[HashingFile]:
    """Open ``path`` for writing so that it appears whole or not at all.

    The temporary name ends in `.part`, so that no glob for `.tar` or `.parquet` ever sees half a file, and holds the
    process, so that two of them may write one file: the last wins. After an exception it is removed, after a kill the
    next `exclusive` holder of the folder removes it; a file that was there before stays. Not ``durable`` is for what
    can be had again and is checked when it is read: nobody waits for the disk, and a power cut may leave any bytes.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = part.open("wb")
    try:
        file = HashingFile(raw)
        yield file
        with naming(part):
            raw.flush()
            if durable:
                os.fsync(raw.fileno())
            raw.close()
        part.replace(path)
    except BaseException:
        for tidy in (raw.close, part.unlink):  # what went wrong is told, not that it cannot be tidied up either
            with contextlib.suppress(OSError):
                tidy()
        raise
    if durable:
        _fsync_folder(path.parent)


def write_bytes(path: Path | str, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a whole file atomically; see `atomic_file`."""
    with atomic_file(path, durable=durable) as file:
        file.write(data)


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON document atomically: sorted keys, indented, newline at the end."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def _fsync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder; their rename is durable enough
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a commit record says of one file."""

    name: str
    """Path below the folder."""
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """A commit record: the unit of work is done and these are its files."""

    unit: str
    fingerprint: str
    files: Sequence[FileFacts]
    facts: Mapping[str, Any]
    """Anything the next step wants to know without opening the files."""


class Ledger:
    """The commit records of one folder, in `commits/<unit>.json` or another ``place`` in it."""

    def __init__(self, folder: Path, *, place: str = "commits") -> None:
        self.folder = folder
        self._place = folder / place

    def _path(self, unit: str) -> Path:
        return self._place / f"{unit}.json"

    def read(self, unit: str) -> Record | None:
        """The record of a unit, whatever its fingerprint, or None; a record that cannot be read counts as none."""
        try:
            raw = json.loads(self._path(unit).read_bytes())
            return Record(**{**raw, "files": [FileFacts(**f) for f in raw["files"]]})
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def done(self, unit: str, fingerprint: str) -> Record | None:
        """The record of a unit if it is done: same fingerprint, and every file there with its size; else None."""
        record = self.read(unit)
        if record is None or record.fingerprint != fingerprint:
            return None
        return record if all(_size(self.folder / f.name) == f.bytes for f in record.files) else None

    def commit(
        self, unit: str, *, fingerprint: str, files: Sequence[FileFacts] = (), facts: Mapping[str, Any] | None = None
    ) -> Record:
        """Write the record of a unit, after all its files."""
        record = Record(unit=unit, fingerprint=fingerprint, files=files, facts=facts or {})
        write_bytes(self._path(unit), (canonical_json(asdict(record)) + "\n").encode())
        return record

    def verify(self) -> None:
        """Hash every committed file again; raises `IntegrityError` naming the first that differs."""
        for path in sorted(self._place.glob("*.json")):
            record = self.read(path.stem)
            if record is None:
                raise IntegrityError(f"{path} is damaged: not a commit record; run the step again to make it anew")
            for facts in record.files:
                check_file(self.folder / facts.name, bytes=facts.bytes, sha256=facts.sha256)


def check_file(path: Path, *, bytes: int, sha256: str) -> None:
    """Refuse a file whose size or SHA-256 differs from what was committed (`IntegrityError`)."""
    size = _size(path)
    if size is None:
        raise IntegrityError(f"{path} is missing; {bytes:,} bytes were committed")
    if size != bytes:
        raise IntegrityError(f"{path} holds {size:,} bytes; {bytes:,} were committed: it was cut or overwritten")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise IntegrityError(f"{path} is damaged: SHA-256 {found[:16]}..., committed {sha256[:16]}...")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; a second run at the same time is refused (`Busy`), naming the first."""
    _refuse_a_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / HOLDER
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"{folder} is being written by {_holder(holder)}; wait for it, or choose another folder") from None
    try:
        with naming(holder):
            holder.write_text(json.dumps({"pid": os.getpid(), "command": " ".join(sys.argv)}))
        for left in folder.rglob(f"*.[0-9]*{PART}"):  # by a run that was killed
            left.unlink()
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _refuse_a_file(folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise OutputConflict(f"{path} is a file; expected a folder, or a name that is free")


def _holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_text())
        return f"process {facts['pid']} ({facts['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"


@contextlib.contextmanager
def claimed(folder: Path, *, plan: Mapping[str, Any], replace: bool = False) -> Iterator[Path | None]:
    """Hold ``folder`` as the output of ``plan``, or refuse.

    A new or empty folder is taken; one with the same plan is continued; one with another plan, or with anything that
    is not ours, is refused (`OutputConflict`) with the difference named, unless ``replace`` moves it aside.
    Yields where the old folder went, or None.
    """
    if not replace:
        check_claim(folder, plan=plan)  # before the lock: a folder that is refused is left as it was
    with exclusive(folder):
        if not replace:
            check_claim(folder, plan=plan)
        if not _difference(folder, plan):
            write_json(folder / PLAN, plan)
            yield None
            return
        (folder / HOLDER).unlink()
        moved = _aside(folder if folder.name else folder.resolve())  # `--out .` has no name of its own
        folder.resolve().replace(moved)
    with exclusive(folder):
        check_claim(folder, plan=plan)  # another run may have come in between
        write_json(folder / PLAN, plan)
        yield moved


def check_claim(folder: Path, *, plan: Mapping[str, Any]) -> None:
    """Refuse early what `claimed` would refuse (`OutputConflict`), before any work is done."""
    _refuse_a_file(folder)
    if folder.exists() and (difference := _difference(folder, plan)):
        raise OutputConflict(
            f"{folder} {difference}; choose another folder, or pass --replace to move the old one aside"
        )


def _difference(folder: Path, plan: Mapping[str, Any]) -> str | None:
    path = folder / PLAN
    if not path.exists():
        held = sorted(p.name for p in folder.iterdir() if not p.name.startswith((LOCK, PLAN)))
        return f"holds something else ({_some(held, ', ')})" if held else None
    try:
        old, new = (_leaves(dict(json.loads(text))) for text in (path.read_bytes(), canonical_json(plan)))
    except (ValueError, TypeError):
        return f"holds a {PLAN} that is not ours"
    changed = [
        f"{name} was {old.get(name, 'not there')}, now {new.get(name, 'not there')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return f"was made differently: {_some(changed, '; ')}" if changed else None


def _leaves(value: Any, name: str = "") -> dict[str, str]:
    """Each value of a JSON document by its path, such as `corpora.0.store`; lists of plain values stay whole."""
    if isinstance(value, dict) and value:
        parts = value
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        parts = dict(enumerate(value))
    elif value in ({}, []):
        return {}
    else:
        return {name: repr(value)}
    return {k: v for key, part in parts.items() for k, v in _leaves(part, f"{name}.{key}".lstrip(".")).items()}


def _some(words: Sequence[str], separator: str) -> str:
    return separator.join([*words[:3], *([f"and {len(words) - 3} more"] if len(words) > 3 else [])])


def _aside(folder: Path) -> Path:
    number = 1
    while (moved := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return moved
