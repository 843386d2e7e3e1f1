"""The whole story of curation: ingest, score, select, pack. Each step reuses what is there and still valid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from curate.choice import Choice
from curate.corpora.base import Corpus
from curate.errors import CorpusUnreadable, CorpusUnusable
from curate.ingest import ingest, unread
from curate.protocols import Teacher
from curate.score import score
from curate.selection import Judged, Sides, make_plan, rehearse, select
from curate.views import TeacherViews
from manifests.commit import check_claim
from manifests.progress import Progress, silent
from shards.index import ShardFolder
from shards.pack import pack, plan_of
from shards.selection import SelectionFolder

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The corpora of a selection, by the part that they play; in each, the order is kept."""

    corpora: Sequence[Corpus]
    """what is chosen from"""
    reference: Sequence[Corpus] = ()
    """what distances are measured to"""
    excluded: Sequence[Corpus] = ()
    """what must not come in"""

    def rehearse(self, choice: Choice) -> None:
        """Refuse a choice that does not fit them, before any work."""
        names = [corpus.name for corpus in self.corpora]
        rehearse(choice, names, reference=bool(self.reference), excluded=bool(self.excluded))

    def parts(self) -> list[tuple[Corpus, str]]:
        """All of them, each with what a person calls its part, nothing for those that are chosen from."""
        named = (("", self.corpora), (" (reference)", self.reference), (" (excluded)", self.excluded))
        return [(corpus, part) for part, corpora in named for corpus in corpora]

    def all(self) -> list[Corpus]:
        """All of them."""
        return [corpus for corpus, _ in self.parts()]

    def split(self, of_all: list[_T]) -> tuple[list[_T], list[_T], list[_T]]:
        """What belongs to the corpora, to the reference and to what is excluded, of a list of one for each of all."""
        first = len(self.corpora)
        second = first + len(self.reference)
        return of_all[:first], of_all[first:second], of_all[second:]


@dataclass(frozen=True, kw_only=True)
class Curated:
    """A transfer set, and what was done for it in this run."""

    folder: ShardFolder
    selection: SelectionFolder
    stores: dict[str, ShardFolder]
    decoded: int
    forwards: int
    """images that went through the teacher"""
    shards_written: int
    moved: Path | None
    """where an older set went"""
    unread: str | None
    """what a person should know of samples that could not be read"""


def curate(
    sources: Sources,
    teacher: Teacher,
    choice: Choice,
    *,
    work: Path,
    out: Path,
    views: int = 0,
    licence: str | None = None,
    resize: str | None = None,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    replace: bool = False,
    skip_unreadable: bool = False,
    progress: Progress = silent,
) -> Curated:
    """Make the transfer set ``out`` from ``sources``; the same inputs give the same bytes and the same id.

    With ``views`` the set carries the teacher's logits of that many augmented views of each image; ``licence`` is what
    its cards say of the images. ``resize`` is a rule of `shards.decode.RESIZE`, by default the teacher's own. Raises
    `CorpusUnreadable` if a sample cannot be read (unless ``skip_unreadable``), `CorpusUnusable` if not one image could
    be used, and `OutputConflict` before the teacher is asked anything if ``out`` holds something else.
    """
    device = torch.device(device)
    sources.rehearse(choice)
    answers = views_of(teacher, choice, views, device=device, threads=threads)
    size, rule = teacher.input_size, resize or teacher.resize
    ingested = [
        ingest(corpus, size=size, resize=rule, work=work, threads=threads, progress=progress)
        for corpus in sources.all()
    ]
    message = unread(ingested)
    if message and not skip_unreadable:
        raise CorpusUnreadable(f"{message}, or go on without with --skip-unreadable")
    corpora, reference, excluded = sources.split([result.store for result in ingested])
    stores = {str(store.document["corpus"]): store for store in corpora}
    _check_usable(stores)
    plan = make_plan(choice, stores, teacher, device=device.type, reference=reference, excluded=excluded)
    if not replace:
        check_claim(out, plan=plan_of(plan, answers))
    judged = []
    for store in [*corpora, *reference, *excluded]:
        with progress(f"score {store.document['corpus']}", store.rows()) as advance:
            scores = score(store, teacher, work=work, device=device, threads=threads, advance=advance)
        judged.append(Judged(store=store, scores=scores))
    chosen_from, reference_judged, excluded_judged = sources.split(judged)
    sides = Sides(reference=reference_judged, excluded=excluded_judged)
    selection = select(
        choice, chosen_from, teacher, plan=plan, work=work, sides=sides, threads=threads, progress=progress
    )
    packed = pack(selection, stores, out, views=answers, licence=licence, replace=replace, progress=progress)
    return Curated(
        folder=packed.folder,
        selection=selection,
        stores=stores,
        decoded=sum(result.decoded for result in ingested),
        forwards=sum(each.scores.forwards for each in judged) + (answers.forwards if answers else 0),
        shards_written=packed.shards_written,
        moved=packed.moved,
        unread=message,
    )


def views_of(
    teacher: Teacher, choice: Choice, count: int, *, device: torch.device, threads: int | None = None
) -> TeacherViews | None:
    """Who adds the logits of ``count`` views of each image, or None for 0."""
    if not count:
        return None
    return TeacherViews(teacher=teacher, count=count, seed=choice.seed, device=device, threads=threads)


def _check_usable(stores: dict[str, ShardFolder]) -> None:
    if sum(store.rows() for store in stores.values()):
        return
    seen = sum(store.document["seen"] for store in stores.values())
    raise CorpusUnusable(
        f"none of the {seen:,} samples in {', '.join(stores)} could be used; "
        f'see why: manifests sql "SELECT uri, error FROM samples" {next(iter(stores.values())).path}'
    )
