"""Select: a rule over the scores of some corpora, written as a selection folder with a decision for every row."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.choice import Choice
from curate.errors import CorpusUnusable
from curate.protocols import Teacher
from curate.score import ScoreResult, teacher_facts
from curate.select import SELECTORS
from curate.select.base import Picked, Quota
from curate.select.decide import Decided, decide
from curate.select.filters import drop_excluded, drop_near_duplicates, measure
from curate.select.pool import VECTOR_TABLES, Points, Pool, Scored, open_pool
from manifests.commit import FileFacts, Ledger, check_file, exclusive
from manifests.progress import Progress, silent
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_manifest
from manifests.schema import SAMPLES, SCORES
from manifests.write import write_manifest
from shards.index import ShardFolder, seal
from shards.layout import KEY_DTYPE
from shards.selection import SelectionFolder, open_selection

COUNTS = ("seen", "selected", "left_out", "quarantined", "duplicates")
"""per corpus and in all; duplicates are among those left out"""
SPILL = "spill"
"""what DuckDB puts on disk for a while, in the selection's own folder"""
DROPPED = ("duplicate", "excluded", "near duplicate", "nonfinite", "outside band")
"""reasons of rows that no rule was asked about"""
FEW, MOST = 0.001, 0.999
"""a rule that keeps less or more than these shares of the usable images hardly chooses, and says so"""
SHOWN = 3  # classes named in a note
VERSION = 2  # raise it when the same scores would give another selection


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A corpus with what the teacher thinks of it."""

    store: ShardFolder
    scores: ScoreResult

    @property
    def name(self) -> str:
        """The corpus's name."""
        return str(self.store.document["corpus"])

    def scored(self) -> Scored:
        """Its manifests, after a look at the bytes of those that are read as a whole."""
        for folder, unit, name in ((self.store.path, "store", SAMPLES.file), (self.scores.path, "scores", SCORES.file)):
            record = Ledger(folder).read(unit)
            for facts in record.files if record else ():
                if facts.name == name:
                    check_file(folder / name, bytes=facts.bytes, sha256=facts.sha256)
        return Scored.of(self.name, self.store.path, self.scores.path)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Corpora that are not chosen from, but that the choice is held against."""

    reference: Sequence[Judged] = ()
    """what distances are measured to"""
    excluded: Sequence[Judged] = ()
    """what must not come in, such as the test set"""


def make_plan(
    choice: Choice,
    stores: Mapping[str, ShardFolder],
    teacher: Teacher,
    *,
    device: str,
    reference: Sequence[ShardFolder] = (),
    excluded: Sequence[ShardFolder] = (),
) -> dict[str, Any]:
    """What a selection and its transfer set are made from; equal plans give equal bytes."""
    return {
        **asdict(choice),
        "exclude_within": choice.exclusion if excluded else None,
        "corpora": [{"name": name, "store": store.id} for name, store in stores.items()],
        "reference": [store.id for store in reference],
        "excluded": [store.id for store in excluded],
        **teacher_facts(teacher),
        "device": device,
        "select": VERSION,
    }


def place_of_selection(choice: Choice, plan: Mapping[str, Any], *, work: Path) -> tuple[Path, str]:
    """The folder below ``work`` that the selection of a plan has, and its fingerprint."""
    print_ = fingerprint(plan)
    return work / "selections" / f"{choice.mode}-{print_[:12]}", print_


def rehearse(choice: Choice, corpora: Sequence[str], *, reference: bool, excluded: bool) -> None:
    """Refuse before any work what `select` would refuse after it (`CurateError`): options, conditions, queries."""
    choice.check_sides(corpora, reference=reference, excluded=excluded)
    if choice.where is None and choice.sql is None:
        return
    nothing = {kind: table.arrow_schema({kind: 1}).empty_table() for kind, table in VECTOR_TABLES.items()}
    samples, scores = (table.plain_schema().empty_table() for table in (SAMPLES, SCORES))
    empty = Scored(name="nothing", samples=samples, scores=scores, vectors=nothing)
    nowhere = Points(
        keys=np.empty(0, KEY_DTYPE), corpus_order=np.empty(0, np.int64), rows_ND=np.empty((0, 1), np.float32)
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        open_pool([empty], class_names=(), spill=Path(folder) / SPILL, reference=nowhere) as pool,
    ):
        if reference:
            pool.note_nearest(nowhere, np.empty(0), np.empty(0, np.int64))
        if choice.where is not None:
            pool.restrict(choice.where)
        if choice.sql is not None:
            pool.check_query(choice.sql)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Class names, with its number behind each that is there twice (ImageNet has two kinds of crane)."""
    times = Counter(names)
    return tuple(f"{name} ({n})" if times[name] > 1 else name for n, name in enumerate(names))


def select(
    choice: Choice,
    corpora: Sequence[Judged],
    teacher: Teacher,
    *,
    plan: Mapping[str, Any],
    work: Path,
    sides: Sides | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> SelectionFolder:
    """Write the selection of ``plan`` below ``work``, or take the one that is there.

    ``corpora`` are in the order that decides between duplicates. Raises `CorpusUnusable` if nothing can be selected,
    `CurateError` for options that do not fit the corpora, and `IntegrityError` for damaged manifests.
    """
    folder, print_ = place_of_selection(choice, plan, work=work)
    if Ledger(folder).done("selection", print_):
        return open_selection(folder)
    made = Provenance(
        step="select",
        config=plan,
        parents={corpus.name: corpus.store.id for corpus in corpora},
        teacher={"name": teacher.name, "sha256": teacher.sha256},
        transform=corpora[0].store.document["transform"],
    )
    sides, names = sides or Sides(), distinct(teacher.classes)
    with (
        exclusive(folder),
        open_pool(
            [corpus.scored() for corpus in corpora],
            class_names=names,
            spill=folder / SPILL,
            reference=_points(sides.reference, choice, folder=folder) if sides.reference else None,
            threads=threads,
            progress=progress,
        ) as pool,
    ):
        filters = _filter(pool, choice, sides, folder=folder)
        picked = SELECTORS[choice.mode].pick(pool, choice, Quota.of(choice, pool.corpora))
        if not len(picked.rows):
            raise CorpusUnusable(_why_none(pool, teacher))
        decided = decide(pool, picked, seed=choice.seed, holdout=choice.holdout, folder=folder, provenance=made)
        files = [*decided.files, *_vectors(pool, folder, made)]
        facts = {"filters": filters, "rule": dict(picked.facts), "reasons": decided.reasons}
        document = _document(plan, corpora, teacher) | facts | _count(pool, picked, decided, corpora, names)
        seal(folder, document, kind="selection", files=files, fingerprint=print_)
    return open_selection(folder)


def _points(corpora: Sequence[Judged], choice: Choice, *, folder: Path) -> Points:
    """Vectors of corpora that are not chosen from."""
    spill = folder / f"{SPILL}-of-sides"
    with open_pool([corpus.scored() for corpus in corpora], class_names=(), spill=spill) as pool:
        return pool.points(choice.on)


def _filter(pool: Pool, choice: Choice, sides: Sides, *, folder: Path) -> dict[str, Any]:
    """Drop what may not be picked; how many for which reason."""
    facts: dict[str, Any] = {}
    measure(pool, on=choice.on)
    if choice.where is not None:
        pool.restrict(choice.where)
    if sides.excluded:
        hashes = pa.chunked_array(
            [chunk for corpus in sides.excluded for chunk in _pixel_hashes(corpus.store.path).chunks], pa.string()
        )
        given = _points(sides.excluded, choice, folder=folder) if choice.exclusion else None
        facts["excluded"] = drop_excluded(pool, hashes, given, choice)
    if choice.near_duplicates is not None:
        facts["near_duplicates"] = drop_near_duplicates(pool, choice)
    return facts


def _pixel_hashes(store: Path) -> pa.ChunkedArray:
    return read_manifest(store, SAMPLES, columns=["pixel_hash"])["pixel_hash"].drop_null()


def _vectors(pool: Pool, folder: Path, made: Provenance) -> list[FileFacts]:
    """Features and logits of the selected rows."""
    files = []
    for kind, table in VECTOR_TABLES.items():
        points = pool.points(kind, "picked")
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(points.rows_ND.reshape(-1)), points.rows_ND.shape[1])
        rows = pa.table({"key": points.keys.astype(str), kind: vectors})
        sizes = {kind: points.rows_ND.shape[1]}
        files.append(write_manifest(folder, table, rows, provenance=made, sizes=sizes))
    return files


def _why_none(pool: Pool, teacher: Teacher) -> str:
    usable, finite = pool.count("scores"), pool.count("scores WHERE status = 'ok'")
    if not finite:
        return (
            f"teacher {teacher.name} has no finite answer to any of the {usable:,} usable images; "
            "its weights or its normaliser must be wrong"
        )
    left = pool.count()
    return (
        f"nothing is selected: of {usable:,} usable images {left:,} pass the filters, and the rule keeps none of them"
    )


def _document(plan: Mapping[str, Any], corpora: Sequence[Judged], teacher: Teacher) -> dict[str, Any]:
    first = corpora[0].store
    return {
        "plan": dict(plan),
        "stores": {corpus.name: corpus.store.id for corpus in corpora},
        "builtin": all(corpus.store.document["builtin"] for corpus in corpora),
        "size": first.size,
        "transform": first.document["transform"],
        "teacher": {
            "name": teacher.name,
            "sha256": teacher.sha256,
            "arch": teacher.arch,
            "mean": list(teacher.mean),
            "std": list(teacher.std),
        },
        "classes": list(teacher.classes),
    }


def _count(
    pool: Pool, picked: Picked, decided: Decided, corpora: Sequence[Judged], names: Sequence[str]
) -> dict[str, Any]:
    """Counts that add up (selected + left out + quarantined = seen), in all and per corpus, and per class."""
    twins = dict(
        pool.connection.execute(
            "SELECT corpus_order, count(*) FROM dropped WHERE reason = 'duplicate' GROUP BY corpus_order"
        ).fetchall()
    )
    duplicates_of = [twins.get(order, 0) for order in range(len(corpora))]
    numbers = zip(corpora, pool.per_corpus(picked.rows), duplicates_of, strict=True)
    per_corpus = [
        {
            "corpus": corpus.name,
            "seen": corpus.store.document["seen"],
            "selected": selected,
            "left_out": corpus.store.rows() - selected,
            "quarantined": corpus.store.document["seen"] - corpus.store.rows(),
            "duplicates": duplicates,
        }
        for corpus, selected, duplicates in numbers
    ]
    total = {name: sum(c[name] for c in per_corpus) for name in COUNTS}
    rows = [facts.rows for facts in decided.files]
    wanted = [total["seen"], *[total["selected"] + total["left_out"]] * 2]
    if rows != wanted or sum(decided.reasons.values()) != rows[-1]:
        raise AssertionError(f"rows do not add up: {rows} written, {wanted} counted")
    histogram = {name: decided.classes.get(number, 0) for number, name in enumerate(names)}
    return {"counts": total, "corpora": per_corpus, "class_histogram": histogram}


def notes(document: Mapping[str, Any]) -> list[str]:
    """What a person should know about a selection that did what was asked."""
    counts, plan, rule = document["counts"], document["plan"], document["rule"]
    usable = counts["selected"] + counts["left_out"]
    share = counts["selected"] / usable
    found = [_taken_out(document)] if document["filters"] else []
    asked = usable - sum(document["reasons"].get(reason, 0) for reason in DROPPED)
    if counts["selected"] == asked < plan["budget"]:
        found.append(
            f"--budget {plan['budget']:,} is more than the {counts['selected']:,} images that could be chosen: "
            "all were taken"
        )
    if share < FEW or share > MOST:
        few = "hardly any" if share < FEW else "nearly all"
        found.append(
            f"the rule keeps {few} of what it was given: {counts['selected']:,} of {usable:,} usable images "
            f"({100 * share:.3g} %); compare --budget {plan['budget']:,}"
        )
    return found + _shortfall(rule, last=document["corpora"][-1]["corpus"])


def _taken_out(document: Mapping[str, Any]) -> str:
    """How many images the filters took out."""
    reasons = document["reasons"]
    words = {"excluded": "excluded", "near_duplicates": "near duplicate"}
    said = [f"{reasons.get(words[name], 0):,} {words[name]}" for name in document["filters"]]
    return f"taken out by the filters: {', '.join(said)}"


def _shortfall(rule: Mapping[str, Any], *, last: str) -> list[str]:
    """The classes that the corpora could not fill, the emptiest first, and what would fill them."""
    missing = sorted(rule.get("shortfall", {}).items(), key=lambda item: -item[1])
    found = []
    for name, count in missing[:SHOWN]:
        size, held = rule["size_that_fills"][name], rule["held_back_by"]
        if size is None:
            how = f"{last} has no candidate of it"
        elif held == "--cap":
            how = f"{last} has given its --cap"
        elif held == "--base-limit":
            how = f"about {size:,} images of {last} would have to be looked at: --base-limit {size}"
        else:
            how = f"about {size:,} images like those of {last} would fill it"
        found.append(f"class {name} lacks {count:,} of {rule['class_cap']:,}: {how}")
    if len(missing) > SHOWN:
        found.append(f"{len(missing) - SHOWN} more classes are not full: see rule.shortfall in transfer-set.json")
    return found
