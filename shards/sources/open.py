"""What an address means: a transfer set here or elsewhere, tars of samples, or a command that writes one."""

import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.commit import PLAN
from manifests.progress import Progress, silent
from shards.errors import ShardError
from shards.index import DOCUMENTS, EXPORT, open_folder
from shards.names import is_pattern, is_url
from shards.sources.base import Source
from shards.sources.local import LocalBlocks

if TYPE_CHECKING:
    from shards.sample_index import SampleIndex

Address = str | Path | Sequence[str | Path]
PIPE = "pipe:"
ACCEPTED = (
    "expected the folder or URL of a transfer set, a tar of samples, a folder of them, a quoted pattern such as "
    "'data-{0000..0099}.tar', or pipe:COMMAND where pipes are allowed"
)
_RESIZE = "antialias"


def open_source(
    address: Address,
    *,
    split: str | None,
    size: int | None = None,
    resize: str = _RESIZE,
    allow_pipe: bool = False,
    progress: Progress = silent,
) -> Source:
    """The images of one split of what ``address`` means, or of all.

    Tars of samples (a list is of them) need the ``size`` (px) at which to stream them, and are resized by the rule
    ``resize``; a transfer set has its own, and is refused if another is wanted. `pipe:COMMAND` runs in a shell, once,
    if ``allow_pipe``; the tar that it writes lies in a temporary file for as long as the source lives.

    Raises `ShardError` for anything else, and what the sources raise.
    """
    return open_splits(address, [split], size=size, resize=resize, allow_pipe=allow_pipe, progress=progress)[0]


def open_splits(
    address: Address,
    splits: Sequence[str | None],
    *,
    size: int | None = None,
    resize: str = _RESIZE,
    allow_pipe: bool = False,
    progress: Progress = silent,
) -> list[Source]:
    """As `open_source`, several splits at once: tars are indexed and a command is run but once for them."""
    text = str(address) if isinstance(address, str | Path) else None
    if text is None:
        return _samples(address, splits, size=size, resize=resize, progress=progress)
    if text.startswith(PIPE):
        if not allow_pipe:
            allowing = "--allow-pipe, or allow_pipe=True in Python, if you trust it"
            raise ShardError(f"{text} would run a command, which is not allowed here; {allowing}")
        return _piped(text, splits, size=size, resize=resize, progress=progress)
    if is_url(text):
        return [_stored(_elsewhere(text, split), text, size=size, resize=resize) for split in splits]
    path = Path(text).expanduser()
    planned = (path / PLAN).exists() and not (path / EXPORT).exists()  # a set that is not finished, or an export
    if text and (planned or any((path / name).exists() for name in DOCUMENTS)):
        folder = open_folder(path)
        return [_stored(LocalBlocks(folder, split), text, size=size, resize=resize) for split in splits]
    if not text or not (path.is_file() or is_pattern(text) or any(path.glob("*.[tT][aA][rR]"))):
        what = "is a folder with neither a transfer set nor tars in it" if path.is_dir() and text else "is not there"
        raise ShardError(f"{text!r} {what}; {ACCEPTED}")
    return _samples(text, splits, size=size, resize=resize, progress=progress)


def _stored(source: Source, address: str, *, size: int | None, resize: str) -> Source:
    """A set whose pixels are made already."""
    if size not in (None, source.size) or resize != _RESIZE:
        raise ShardError(
            f"{address} holds images of {source.size} px, resized when it was made; "
            f"neither size ({size}) nor resize ({resize}) can change them: leave both out, or make the set again"
        )
    return source


def _elsewhere(url: str, split: str | None) -> Source:
    if url.partition("?")[0].endswith(".tar"):
        raise ShardError(
            f"{url}: tars of samples are streamed from this machine; fetch them, `curate ingest` them, "
            f"or allow pipes and give pipe:COMMAND, such as 'pipe:curl -sSf URL'"
        )
    from shards.sources.remote import RemoteBlocks

    return RemoteBlocks(url, split=split)


def _samples(
    tars: Address, splits: Sequence[str | None], *, size: int | None, resize: str, progress: Progress
) -> list[Source]:
    from shards.sample_index import index_samples

    px = _size_of_tars(size, resize, tars)
    return _of_index(index_samples(tars, progress=progress), splits, size=px, resize=resize)


def _size_of_tars(size: int | None, resize: str, address: Address) -> int:
    """Refuse what cannot be streamed before anything is read or run."""
    from shards.decode import Transform  # here: a transfer set needs no image codec

    if size is None:
        raise ShardError(f"images in tars come in any size, and none is given for {address}; give it in px, such as 32")
    return Transform(size=size, resize=resize).size


def _of_index(index: "SampleIndex", splits: Sequence[str | None], *, size: int, resize: str) -> list[Source]:
    from shards.sources.samples import SampleTars

    return [SampleTars(index, split=split, size=size, resize=resize) for split in splits]


def _piped(
    text: str, splits: Sequence[str | None], *, size: int | None, resize: str, progress: Progress
) -> list[Source]:
    """The tar that a command writes to its output, whole, in a temporary file that goes with the sources."""
    from shards.sample_index import index_samples

    px = _size_of_tars(size, resize, text)
    folder = Path(tempfile.mkdtemp(prefix="transferset-"))  # lives as long as the index
    tar = folder / "pipe.tar"
    try:
        _run(text, tar)
        index = replace(index_samples(tar, progress=progress), name=text)
        found = _of_index(index, splits, size=px, resize=resize)
    except BaseException as error:
        _remove(folder, os.getpid())
        if isinstance(error, ShardError):
            raise type(error)(str(error).replace(str(tar), text)) from None
        raise
    weakref.finalize(index, _remove, folder, os.getpid())
    return found


def _remove(folder: Path, maker: int) -> None:
    """Remove a folder in the process that made it; one that was forked from it may let go of it earlier."""
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)


def _run(text: str, tar: Path) -> None:
    """Run the command of a `pipe:`, its output into ``tar``."""
    with tar.open("wb") as file:
        command = text.removeprefix(PIPE)
        done = subprocess.run(command, shell=True, stdout=file, stderr=subprocess.PIPE, check=False)  # noqa: S602  # it was allowed
    if done.returncode:
        said = done.stderr.decode("utf-8", "backslashreplace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it says nothing")
        raise ShardError(f"{text} ended with exit code {done.returncode}: {last}")
