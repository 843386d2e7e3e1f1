"""What a selection would do, without doing it: what is read, what is there already, what is written, how many bytes."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from curate.choice import Choice
from curate.corpora.base import Corpus, find_files
from curate.errors import CurateError
from curate.ingest import place_of_store, unfinished
from curate.protocols import Teacher
from curate.run import Sources, views_of
from curate.score import place_of_scores
from curate.selection import make_plan, place_of_selection
from manifests.commit import Ledger, check_claim
from manifests.errors import OutputConflict
from manifests.provenance import fingerprint
from shards.decode import Transform
from shards.index import ShardFolder, open_folder
from shards.names import is_pattern
from shards.pack import plan_of

REFUSED = "refused"
REUSE, MAKE, GO_ON = "there, reused", "to be made", "begun, goes on"
UNKNOWN = "there: goes on if it is of the same plan, else refused"
MEGA = 1e6
SAMPLE, SCORE, DECISION = 64, 40, 26  # bytes of a row on disk, about: keys and hashes hardly compress
FLOAT = 4  # bytes of a number in a vector
HALF = 2  # bytes of a view's logit


def forecast(
    sources: Sources,
    teacher: Teacher,
    choice: Choice,
    *,
    work: Path,
    out: Path,
    views: int = 0,
    resize: str | None = None,
    replace: bool = False,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """The steps of `curate.run.curate` in order: state, images, megabytes read and written (estimates).

    The images of score and views are the teacher's forwards. Lists the corpora, as a run would, but decodes, scores and
    writes nothing. How many images a filter or a rule keeps is known only once it is asked: the last steps are upper
    bounds.
    """
    sources.rehearse(choice)
    device = torch.device(device)
    answers = views_of(teacher, choice, views, device=device)
    transform = Transform(size=teacher.input_size, resize=resize or teacher.resize)
    pixels, vectors = 3 * teacher.input_size**2, FLOAT * (teacher.feature_dim + teacher.num_classes)
    stores: list[ShardFolder | None] = []
    ingests, scores = [], []
    for corpus, part in sources.parts():
        step, store = _ingest(corpus, transform, work=work)
        step["what"] = corpus.name + part
        ingests.append(step | _written(step, pixels + SAMPLE))
        folder = place_of_scores(store, teacher, work=work, device=device) if store else None
        step = _step("score", corpus.name + part, _state(*folder, "scores") if folder else MAKE, step["images"])
        scores.append(step | _written(step, vectors + SCORE))
        stores.append(store)
    images = sum(step["images"] for step in ingests[: len(sources.corpora)])
    selecting = _step("select", choice.mode, MAKE, images)
    packing = _step("pack", str(out), MAKE, min(choice.budget, images))
    known = [store for store in stores if store]
    if len(known) < len(stores):
        packing["state"] = UNKNOWN if out.exists() else MAKE
    else:
        corpora, reference, excluded = sources.split(known)
        named = {str(store.document["corpus"]): store for store in corpora}
        plan = make_plan(choice, named, teacher, device=device.type, reference=reference, excluded=excluded)
        selecting["state"] = _state(*place_of_selection(choice, plan, work=work), "selection")
        packing["state"] = _state_of_out(out, plan_of(plan, answers), replace=replace)
    chosen = packing["images"] * (pixels + vectors) + images * (SAMPLE + SCORE + DECISION)
    selecting |= _written(selecting, SAMPLE + SCORE + DECISION)
    packing["writes_MB"] = 0.0 if packing["state"] == REUSE else round(chosen / MEGA, 1)
    asking = []
    if views:
        step = _step("views", f"teacher forwards, {views} of each image", packing["state"], views * packing["images"])
        asking = [step | _written(step, HALF * teacher.num_classes)]
    return [*ingests, *scores, selecting, *asking, packing]


def _step(step: str, what: str, state: str, images: int) -> dict[str, Any]:
    return {"step": step, "what": what, "state": state, "images": images, "reads_MB": None, "writes_MB": 0.0}


def _written(step: Mapping[str, Any], row_bytes: int) -> dict[str, float]:
    return {"writes_MB": 0.0 if step["state"] == REUSE else round(step["images"] * row_bytes / MEGA, 1)}


def _ingest(corpus: Corpus, transform: Transform, *, work: Path) -> tuple[dict[str, Any], ShardFolder | None]:
    folder, print_ = place_of_store(corpus, transform, work=work)
    if Ledger(folder).done("store", print_) and not unfinished(store := open_folder(folder)):
        return _step("ingest", corpus.name, REUSE, store.document["seen"]), store
    step = _step("ingest", corpus.name, _state(folder, print_, "store"), sum(part.count for part in corpus.parts()))
    size = _source_bytes(corpus)
    return step | {"reads_MB": None if size is None else round(size / MEGA, 1)}, None


def _state(folder: Path, print_: str, unit: str) -> str:
    if Ledger(folder).done(unit, print_):
        return REUSE
    return GO_ON if (folder / "commits").exists() else MAKE


def _state_of_out(out: Path, plan: Mapping[str, Any], *, replace: bool) -> str:
    try:
        check_claim(out, plan=plan)
    except OutputConflict as conflict:
        return f"{MAKE}, the old one moved aside" if replace else f"{REFUSED}: {conflict}"
    return _state(out, fingerprint({"plan": plan}), "transfer-set")


def _source_bytes(corpus: Corpus) -> int | None:
    """Bytes of the files of a corpus; None where it has none here."""
    pattern = corpus.spec.partition(":")[2].partition("?")[0]
    path = Path(pattern).expanduser()
    with contextlib.suppress(CurateError, OSError):
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if path.is_file() or is_pattern(pattern):
            return sum(file.size for file in find_files(pattern, ""))
    return None
