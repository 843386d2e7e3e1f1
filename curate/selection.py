"""Select: a rule over the scores of some corpora, written as a selection folder with a decision for every row."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import CorpusUnusable, CurateError, UnknownMode
from curate.protocols import Teacher
from curate.score import ScoreResult, teacher_facts
from curate.select import SELECTORS
from curate.select.decide import Decided, Scored, decide
from manifests.commit import Ledger, exclusive
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_manifest
from manifests.schema import FEATURES, SAMPLES, SCORES, SELECTION
from manifests.write import write_manifest
from shards.index import ShardFolder, seal
from shards.selection import SelectionFolder, open_selection

COUNTS = ("seen", "selected", "left_out", "quarantined", "duplicates")
"""per corpus and in all; duplicates are among those left out"""
VERSION = 1  # raise it when the same scores would give another selection


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to select; validated on construction (`CurateError`)."""

    mode: str = "entropy-topk"
    """a rule of SELECTORS"""
    budget: int = 50_000
    """images at most; the in-domain training size of CIFAR, as in MosaicKD"""
    seed: int = 0
    """of draws: random's, the holdout's, the packing order's"""
    holdout: float = 0.05
    """fraction of the selected images kept for choosing a checkpoint"""

    def __post_init__(self) -> None:
        if self.mode not in SELECTORS:
            raise UnknownMode(f"unknown mode {self.mode!r}; known: {', '.join(SELECTORS)}")
        if self.budget < 1:
            raise CurateError(f"--budget is {self.budget}; expected at least 1 image")
        if not 0 <= self.holdout < 1:
            raise CurateError(f"--holdout is {self.holdout}; expected a fraction from 0 to below 1")


def make_plan(choice: Choice, stores: Mapping[str, ShardFolder], teacher: Teacher, *, device: str) -> dict[str, Any]:
    """What a selection and its transfer set are made from; equal plans give equal bytes."""
    return {
        **asdict(choice),
        "corpora": [{"name": name, "store": store.id} for name, store in stores.items()],
        **teacher_facts(teacher),
        "device": device,
        "select": VERSION,
    }


def select(
    choice: Choice,
    stores: Mapping[str, ShardFolder],
    scores: Mapping[str, ScoreResult],
    teacher: Teacher,
    *,
    plan: Mapping[str, Any],
    work: Path,
) -> SelectionFolder:
    """Write the selection of ``plan`` below ``work``, or take the one that is there.

    ``stores`` and ``scores`` are per corpus name, in the order that decides between duplicates. Raises
    `CorpusUnusable` if no image has a finite score.
    """
    print_ = fingerprint(plan)
    folder = work / "selections" / f"{choice.mode}-{print_[:12]}"
    if Ledger(folder).done("selection", print_):
        return open_selection(folder)
    corpora = [
        Scored(samples=read_manifest(stores[name].path, SAMPLES), scores=read_manifest(scores[name].path, SCORES))
        for name in stores
    ]
    decided = decide(corpora, SELECTORS[choice.mode], budget=choice.budget, seed=choice.seed, holdout=choice.holdout)
    if not pc.any(decided.selection["selected"]).as_py():
        raise CorpusUnusable(
            f"teacher {teacher.name} has no finite answer to any of the {decided.scores.num_rows:,} usable images; "
            "its weights or its normaliser must be wrong"
        )
    made = Provenance(
        step="select",
        config=plan,
        parents={name: store.id for name, store in stores.items()},
        teacher={"name": teacher.name, "sha256": teacher.sha256},
        transform=next(iter(stores.values())).document["transform"],
    )
    with exclusive(folder):
        files = [
            write_manifest(folder, SAMPLES, decided.samples, provenance=made),
            write_manifest(folder, SCORES, decided.scores, provenance=made),
            write_manifest(folder, SELECTION, decided.selection, provenance=made),
            write_manifest(
                folder,
                FEATURES,
                _selected_features(decided, scores.values()),
                provenance=made,
                sizes={"features": teacher.feature_dim},
            ),
        ]
        seal(folder, _document(plan, decided, stores, teacher), kind="selection", files=files, fingerprint=print_)
    return open_selection(folder)


def _selected_features(decided: Decided, scores: Iterable[ScoreResult]) -> pa.Table:
    """Features of the selected rows. A key may lie in several corpora: each row is its own corpus's."""
    selected = decided.selection.filter(decided.selection["selected"]).select(["key"])
    taken = decided.samples.select(["key", "own_key", "corpus_order"]).join(selected, "key", join_type="inner")
    parts = []
    for order, result in enumerate(scores):
        features = read_manifest(result.path, FEATURES)
        keys = taken.filter(pc.equal(taken["corpus_order"], order))["own_key"]
        parts.append(features.filter(pc.is_in(features["key"], value_set=keys.combine_chunks())))
    return pa.concat_tables(parts)


def _document(
    plan: Mapping[str, Any], decided: Decided, stores: Mapping[str, ShardFolder], teacher: Teacher
) -> dict[str, Any]:
    first = next(iter(stores.values()))
    return {
        "plan": dict(plan),
        "stores": {name: store.id for name, store in stores.items()},
        "builtin": all(store.document["builtin"] for store in stores.values()),
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
        **_count(decided, teacher),
    }


def _count(decided: Decided, teacher: Teacher) -> dict[str, Any]:
    """Counts that add up (selected + left out + quarantined = seen), in all and per corpus, and per class."""
    with duckdb.connect() as connection:
        for name in ("samples", "scores", "selection"):
            connection.register(name, getattr(decided, name))
        corpora = connection.sql("""
            SELECT corpus, count(*) AS seen, count(*) FILTER (WHERE selected) AS selected,
                count(*) FILTER (WHERE NOT selected) AS left_out,
                count(*) FILTER (WHERE selected IS NULL) AS quarantined,
                count(*) FILTER (WHERE reason = 'duplicate') AS duplicates
            FROM samples LEFT JOIN selection USING (key) GROUP BY corpus, corpus_order ORDER BY corpus_order
        """).to_arrow_table()
        classes = dict(
            connection.sql("""
                SELECT pred, count(*) FROM scores JOIN selection USING (key) WHERE selected GROUP BY pred ORDER BY pred
            """).fetchall()
        )
    per_corpus = corpora.to_pylist()  # in corpus order
    total = {name: sum(c[name] for c in per_corpus) for name in COUNTS}
    if total["selected"] + total["left_out"] + total["quarantined"] != total["seen"]:
        raise AssertionError(f"counts do not add up: {total}")
    histogram = {name: classes.get(number, 0) for number, name in enumerate(teacher.classes)}
    return {"counts": total, "corpora": per_corpus, "class_histogram": histogram}
