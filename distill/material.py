"""What a student learns from: a transfer set here or elsewhere, other people's tars, or nothing but a generator."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from distill.errors import DistillError
from distill.models.teachers import Classifier
from shards.index import DOCUMENTS, ShardFolder, open_folder
from shards.names import is_pattern, is_url
from shards.sources import LocalBlocks, Source
from shards.sources.open import PIPE, open_source, open_splits

SPLITS = ("train", "holdout")


@dataclass(frozen=True, kw_only=True)
class Views:
    """The augmented views of each image whose logits a set carries: what `crop_and_flip` makes of these."""

    count: int
    seed: int
    flip: bool
    pad: int


@dataclass(frozen=True, kw_only=True)
class Material:
    """Images to learn from and images to judge by; either may be missing."""

    train: Source | None = None
    holdout: Source | None = None
    folder: ShardFolder | None = None
    """the transfer set, if that is what it is; a page of it shows where the images are from"""
    document: Mapping[str, Any] | None = None
    """its `transfer-set.json`"""

    @classmethod
    def of(cls, folder: ShardFolder) -> Self:
        """A transfer set on this machine; raises `DistillError` for a corpus store."""
        if folder.document["kind"] != "transfer-set":
            raise DistillError(f"{folder.path} is a corpus store, not a transfer set; make one with `curate select`")
        there = {split: LocalBlocks(folder, split) for split in SPLITS if folder.rows(split)}
        if "train" not in there:
            raise DistillError(f"{folder.path} has no images to train on; make it again with a larger --budget")
        return cls(train=there["train"], holdout=there.get("holdout"), folder=folder, document=folder.document)

    @property
    def id(self) -> str | None:
        """Hash of its contents."""
        return None if self.train is None else str(self.train.identity["id"])

    def views_for(self, teacher: Classifier) -> Views | None:
        """The views whose logits it carries, if this teacher gave them."""
        stated = (self.document or {}).get("views")
        if not stated or (self.document or {})["teacher"]["sha256"] != teacher.sha256:
            return None
        return Views(**{name: stated[name] for name in ("count", "seed", "flip", "pad")})

    def check(self, teacher: Classifier) -> None:
        """Refuse a teacher that takes other images, or that has another normaliser than when it chose them."""
        for source in (self.train, self.holdout):
            if source is not None and source.size != teacher.input_size:
                raise DistillError(
                    f"{source.name} holds {source.size} px images, {teacher.name} takes {teacher.input_size} px; "
                    f"curate again with this teacher"
                )
        if self.document is None:
            return
        own = self.document["teacher"]
        mine = {"sha256": teacher.sha256, "mean": list(teacher.mean), "std": list(teacher.std)}
        then = {name: own.get(name, fact) for name, fact in mine.items()}  # sets of the first release do not say all
        if then["sha256"] == teacher.sha256 and then != mine:
            raise DistillError(
                f"{self.place} was chosen by {teacher.name} when its mean was {then['mean']} and its std {then['std']};"
                f" now they are {mine['mean']} and {mine['std']}: curate again"
            )

    @property
    def place(self) -> str | None:
        """Where it is."""
        if self.folder is not None:
            return str(self.folder.path.absolute())
        return None if self.train is None else self.train.name


def names_a_set(address: str) -> bool:
    """Whether an address is that of a transfer set, which says its size and teacher, and not of tars, which do not."""
    if address.startswith(PIPE):
        return False
    if is_url(address):
        return not address.partition("?")[0].endswith(".tar")
    path = Path(address).expanduser()
    if path.is_dir():
        return any((path / name).exists() for name in DOCUMENTS) or not any(path.glob("*.tar"))
    return not (path.is_file() or is_pattern(address) or path.suffix == ".tar")


def open_material(address: str, *, size: int | None, resize: str = "antialias", allow_pipe: bool = False) -> Material:
    """What an address names: the folder or URL of a transfer set, or tars of single images (a pattern, a folder).

    Images of tars are brought to ``size`` px by the rule ``resize``, and a seeded draw of 5 % of them is held out.
    """
    if names_a_set(address) and not is_url(address):
        from distill.report import REPORT  # which needs the methods, and they this

        if (Path(address).expanduser() / REPORT).exists():
            raise DistillError(f"{address} is a run of training, not a transfer set; make one with `curate select`")
        return Material.of(open_folder(Path(address).expanduser()))

    if is_url(address):
        train = open_source(address, split="train")
        document: Mapping[str, Any] = train.document  # type: ignore[attr-defined]  # of every set that has a URL
        held_out = open_source(address, split="holdout") if document["rows"].get("holdout") else None
        return Material(train=train, holdout=held_out, document=document)
    train, holdout = open_splits(address, SPLITS, size=size, resize=resize, allow_pipe=allow_pipe)
    return Material(train=train, holdout=holdout)
