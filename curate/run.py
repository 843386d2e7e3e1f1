"""The whole story of curation: ingest, score, select, pack. Each step reuses what is there and still valid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from curate.corpora.base import Corpus
from curate.errors import CorpusUnusable
from curate.ingest import ingest
from curate.protocols import Teacher
from curate.score import score
from curate.selection import Choice, make_plan, select
from manifests.commit import check_claim
from manifests.progress import Progress, silent
from shards.index import ShardFolder
from shards.pack import pack
from shards.selection import SelectionFolder


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


def curate(
    corpora: Sequence[Corpus],
    teacher: Teacher,
    choice: Choice,
    *,
    work: Path,
    out: Path,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> Curated:
    """Make the transfer set ``out`` from ``corpora``; the same inputs give the same bytes and the same id.

    Raises `CorpusUnusable` if not one image could be used, and `OutputConflict` before the teacher is asked anything
    if ``out`` holds something else.
    """
    device = torch.device(device)
    stores: dict[str, ShardFolder] = {}
    decoded = forwards = 0
    for corpus in corpora:
        ingested = ingest(corpus, size=teacher.input_size, work=work, threads=threads, progress=progress)
        stores[corpus.name] = ingested.store
        decoded += ingested.decoded
    _check_usable(stores)
    plan = make_plan(choice, stores, teacher, device=device.type)
    if not replace:
        check_claim(out, plan=plan)
    scores = {}
    for name, store in stores.items():
        with progress(f"score {name}", store.rows()) as advance:
            scores[name] = score(store, teacher, work=work, device=device, threads=threads, advance=advance)
        forwards += scores[name].forwards
    selection = select(choice, stores, scores, teacher, plan=plan, work=work)
    with progress("pack", selection.document["counts"]["selected"]) as advance:
        packed = pack(selection, stores, out, replace=replace, advance=advance)
    return Curated(
        folder=packed.folder,
        selection=selection,
        stores=stores,
        decoded=decoded,
        forwards=forwards,
        shards_written=packed.shards_written,
        moved=packed.moved,
    )


def _check_usable(stores: dict[str, ShardFolder]) -> None:
    if sum(store.rows() for store in stores.values()):
        return
    seen = sum(store.document["seen"] for store in stores.values())
    raise CorpusUnusable(
        f"none of the {seen:,} samples in {', '.join(stores)} could be used; "
        f'see why: manifests sql "SELECT uri, error FROM samples" {next(iter(stores.values())).path}'
    )
