"""Reader of webdataset tars: samples are members that share a key, the path up to the first dot of the base name.

`?image=EXT[,EXT]` says which members are the images, whatever they are called, and `?label=EXT` which is the label
(`?label=`: none). Otherwise every member named like an image is one, and `.cls` or else `.json` is the label.

Each tar is indexed once by its headers (`shards.tars`); members are then read by their offsets, so any part can be read
alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

from curate.corpora.base import Item, Part, SourceFile, files_identity, find_files, is_container, split, split_options
from curate.errors import CorpusDamaged, CorpusEmpty, UnknownCorpus
from shards.errors import ShardError, TarDamaged
from shards.names import is_pattern, printable
from shards.tars import Member, Sample, group, images_of, index_tar, label_text

_NO_MEMBER = "the sample has no such member"


class _Wanted(NamedTuple):
    images: tuple[str, ...] | None  # extensions in lower case; None: those of images
    labels: tuple[str, ...]  # the first that a sample has


class _Sample(NamedTuple):
    uri: str
    tar: str  # name of the tar in the corpus
    image: Member
    label: Member | None
    label_is_json: bool


class WdsCorpus:
    """Images as members of webdataset tars."""

    scheme = "wds"
    classes = None
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        self.name, self.spec = name, f"wds:{path}"
        pattern, self._options = split_options("wds", path, ("image", "label"))
        self._wanted = _wanted(self._options)
        self._files = find_files(pattern, ".tar")
        self._tars = {file.name: file for file in self._files}

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is a tar, a folder of tars, or a pattern that ends in `.tar`."""
        if path.is_dir():
            return any(is_container(entry, ".tar") for entry in path.iterdir())
        return path.name.lower().endswith(".tar") and (path.is_file() or is_pattern(str(path)))

    def identity(self) -> str:
        """Over the tars' relative names, sizes and times of change, and the options."""
        return files_identity(self.scheme, self._files, self._options)

    @cached_property
    def _samples(self) -> list[_Sample]:
        samples = [sample for file in self._files for sample in sorted(_index(file, self._wanted))]
        if all(sample.image.error == _NO_MEMBER for sample in samples):
            examples = ", ".join(f"KEY.{extension}" for extension in self._wanted.images or ("jpg", "png", "..."))
            raise CorpusEmpty(f"corpus {self.name!r}: no image member ({examples}) in {self.spec}")
        return samples

    def parts(self) -> list[Part]:
        """Samples in uri order, PART_SIZE a part. Reads every header of every tar, the first time."""
        return split(self._samples)

    def read(self, part: Part) -> Iterator[Item]:
        """The image members' bytes; labels are a member's text or, if it ends in json, its "label" or "cls"."""
        with ExitStack() as stack:
            opened: dict[str, BinaryIO] = {}
            for sample in part.where:
                if sample.tar not in opened:
                    opened[sample.tar] = stack.enter_context(self._tars[sample.tar].path.open("rb"))
                yield _item(sample, opened[sample.tar])


def _item(sample: _Sample, file: BinaryIO) -> Item:
    label = None
    if sample.label is not None and not sample.label.error:
        label = label_text(_content(sample.label, file), is_json=sample.label_is_json)
    if sample.image.error:
        return Item(uri=sample.uri, data=None, label=label, error=sample.image.error)
    return Item(uri=sample.uri, data=_content(sample.image, file), label=label)


def _content(member: Member, file: BinaryIO) -> bytes:
    file.seek(member.offset)
    data = file.read(member.size)
    if len(data) != member.size:
        raise CorpusDamaged(
            f"{file.name} changed while it was read: {len(data)} of {member.size} bytes at byte {member.offset}"
        )
    return data


def _wanted(options: Mapping[str, str]) -> _Wanted:
    images = tuple(dict.fromkeys(options["image"].lower().split(","))) if "image" in options else None
    labels = tuple(options["label"].lower().split()) if "label" in options else ("cls", "json")
    if "" in (images or ()):
        raise UnknownCorpus("wds: image= names no extension; expected e.g. image=jpg or image=left.png,right.png")
    return _Wanted(images, labels)


def _index(file: SourceFile, wanted: _Wanted) -> Iterator[_Sample]:
    """Samples of one tar, in its own order."""
    try:
        members = index_tar(file.path).members
    except TarDamaged as error:
        raise CorpusDamaged(str(error)) from None
    except ShardError as error:
        raise UnknownCorpus(str(error)) from None
    seen: dict[str, int] = {}
    for key, sample in group(members):
        label = next((extension for extension in wanted.labels if extension in sample), None)
        for image in _images(key, sample, wanted.images):
            seen[image.name] = seen.get(image.name, 0) + 1
            uri = f"{file.name}/{printable(image.name)}" + (f"#{seen[image.name]}" if seen[image.name] > 1 else "")
            is_json = label is not None and label.endswith("json")
            yield _Sample(uri, file.name, image, sample[label] if label is not None else None, is_json)


def _images(key: str, sample: Sample, wanted: tuple[str, ...] | None) -> list[Member]:
    """The images of a sample, all of them: it may be a stereo pair. One that lacks those wanted is not passed over."""
    if wanted is None:
        return images_of(sample)
    found = [sample[extension] for extension in wanted if extension in sample]
    return found or [Member(f"{key}.{wanted[0]}", 0, 0, _NO_MEMBER)]
