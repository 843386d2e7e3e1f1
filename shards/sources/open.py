"""What an address means: a transfer set here or elsewhere, tars of samples, or a command that writes one."""

import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.commit import PLAN
from manifests.progress import Progress, silent
from shards.errors import ShardError
from shards.index import DOCUMENTS, open_folder
from shards.names import is_pattern, is_url
from shards.sources.base import Source
from shards.sources.local import LocalBlocks

if TYPE_CHECKING:
    from shards.sources.samples import SampleTars

PIPE = "pipe:"
ACCEPTED = (
    "expected the folder or URL of a transfer set, a tar of samples, a folder of them, a quoted pattern such as "
    "'data-{0000..0099}.tar', or pipe:COMMAND where pipes are allowed"
)
_RESIZE = "antialias"


def open_source(
    address: str | Path | Sequence[str | Path],
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
    if not isinstance(address, str | Path):
        return _samples(address, split=split, size=_needed(size, address), resize=resize, progress=progress)
    text = str(address)
    if text.startswith(PIPE):
        if not allow_pipe:
            raise ShardError(f"{text} would run a command, which is not allowed here; allow it if you trust it")
        return _piped(text, split=split, size=_needed(size, text), resize=resize, progress=progress)
    if is_url(text):
        return _stored(_elsewhere(text, split), text, size=size, resize=resize)
    path = Path(text).expanduser()
    if text and any((path / name).exists() for name in (*DOCUMENTS, PLAN)):
        return _stored(LocalBlocks(open_folder(path), split), text, size=size, resize=resize)
    if not text or not (path.is_file() or is_pattern(text) or any(path.glob("*.[tT][aA][rR]"))):
        what = "is a folder with neither a transfer set nor tars in it" if path.is_dir() and text else "is not there"
        raise ShardError(f"{text!r} {what}; {ACCEPTED}")
    return _samples(text, split=split, size=_needed(size, text), resize=resize, progress=progress)


def _needed(size: int | None, address: object) -> int:
    if size is None:
        raise ShardError(f"images in tars come in any size, and none is given for {address}; give it in px, such as 32")
    return size


def _stored(source: Source, address: str, *, size: int | None, resize: str) -> Source:
    """A set whose pixels are made already."""
    if size not in (None, source.size) or resize != _RESIZE:
        raise ShardError(
            f"{address} holds images of {source.size} px, resized when it was made; "
            f"neither size ({size}) nor resize ({resize}) can change them: leave both out, or make the set again"
        )
    return source


def _elsewhere(url: str, split: str | None) -> Source:
    if url.endswith(".tar"):
        raise ShardError(
            f"{url}: tars of samples are streamed from this machine; fetch them, `curate ingest` them, "
            f"or allow pipes and give pipe:COMMAND, such as 'pipe:curl -sSf URL'"
        )
    from shards.sources.remote import RemoteBlocks

    return RemoteBlocks(url, split=split)


def _samples(
    tars: str | Path | Sequence[str | Path], *, split: str | None, size: int, resize: str, progress: Progress
) -> "SampleTars":
    from shards.sources.samples import SampleTars  # here: a transfer set needs no image codec

    return SampleTars(tars, split=split, size=size, resize=resize, progress=progress)


def _piped(text: str, *, split: str | None, size: int, resize: str, progress: Progress) -> Source:
    """The tar that a command writes to its output, whole, in a temporary file that goes with the source."""
    folder = tempfile.TemporaryDirectory(prefix="transferset-")  # lives as long as the source
    tar = Path(folder.name) / "pipe.tar"
    try:
        with tar.open("wb") as file:
            command = text.removeprefix(PIPE)
            done = subprocess.run(command, shell=True, stdout=file, stderr=subprocess.PIPE, check=False)  # noqa: S602  # what the user allowed
        if done.returncode:
            said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
            raise ShardError(
                f"{text} ended with exit code {done.returncode}: {said[-1] if said else 'it says nothing'}"
            )
        source = _samples(tar, split=split, size=size, resize=resize, progress=progress)
    except BaseException as error:
        folder.cleanup()
        if isinstance(error, ShardError):
            raise type(error)(str(error).replace(str(tar), text)) from None
        raise
    source.name = source.name.replace(str(tar), text)
    weakref.finalize(source, folder.cleanup)
    return source
