"""Score: what the teacher thinks of every stored image, at the teacher's own speed.

A store's shard is a unit of work; batches are the store's blocks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from curate.forwards import look_at
from curate.protocols import Teacher
from manifests.commit import FileFacts, Ledger, exclusive
from manifests.progress import Advance, nothing
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_manifest
from manifests.schema import FEATURES, LOGITS, SCORES
from manifests.write import write_manifest
from shards.index import ShardFacts, ShardFolder
from shards.layout import Block
from shards.read import read_shard

VERSION = 2  # raise it when the same teacher and store would give other numbers
TABLES = (SCORES, FEATURES, LOGITS)


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """A scores folder, and what was done for it."""

    path: Path
    fingerprint: str
    forwards: int
    """images that went through the teacher in this run; 0 when the scores were there already"""


def score(
    store: ShardFolder,
    teacher: Teacher,
    *,
    work: Path,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    advance: Advance = nothing,
) -> ScoreResult:
    """Scores, features and logits of every stored image, in a folder below ``work``; what is valid there is reused."""
    device = torch.device(device)
    folder, print_ = place_of_scores(store, teacher, work=work, device=device)
    ledger = Ledger(folder)
    if ledger.done("scores", print_):
        advance(store.rows())
        return ScoreResult(path=folder, fingerprint=print_, forwards=0)
    made = Provenance(
        step="score", config=_facts(store, teacher, device), parents={"store": store.id}, teacher=_who(teacher)
    )
    sizes = {"features": teacher.feature_dim, "logits": teacher.num_classes}
    forwards, pieces = 0, []
    with exclusive(folder):
        for number, shard in enumerate(store.shards):
            unit, pieces_of = f"part-{number:06d}", [f"parts/{t.name}-{number:06d}.parquet" for t in TABLES]
            pieces.append(pieces_of)
            if ledger.done(unit, print_):
                advance(shard.rows)
                continue
            tables = _score_shard(store, shard, teacher, device=device, threads=threads, advance=advance)
            files = _write(folder, tables, pieces_of, provenance=made, sizes=sizes)
            ledger.commit(unit, fingerprint=print_, files=files)
            forwards += shard.rows
        joined = [
            pa.concat_tables(read_manifest(folder, t, name=p) for p in names)
            for t, names in zip(TABLES, zip(*pieces, strict=True), strict=True)
        ]
        files = _write(folder, joined, [t.file for t in TABLES], provenance=made, sizes=sizes)
        ledger.commit("scores", fingerprint=print_, files=files)
    return ScoreResult(path=folder, fingerprint=print_, forwards=forwards)


def place_of_scores(store: ShardFolder, teacher: Teacher, *, work: Path, device: torch.device) -> tuple[Path, str]:
    """The folder below ``work`` that the scores of a store by a teacher have, and their fingerprint."""
    print_ = fingerprint(_facts(store, teacher, device))
    return work / "scores" / f"{store.document['corpus']}-{teacher.name}-{print_[:12]}", print_


def _facts(store: ShardFolder, teacher: Teacher, device: torch.device) -> dict[str, Any]:
    return {"store": store.id, **teacher_facts(teacher), "device": device.type, "score": VERSION}


def teacher_facts(teacher: Teacher) -> dict[str, Any]:
    """What the scores of a teacher depend on, for fingerprints and provenance."""
    facts = {"teacher": teacher.sha256, "dtype": teacher.dtype, "mean": list(teacher.mean), "std": list(teacher.std)}
    return facts | ({"code": teacher.code} if teacher.code else {})


def _who(teacher: Teacher) -> dict[str, str]:
    return {"name": teacher.name, "sha256": teacher.sha256}


def _write(
    folder: Path, tables: list[pa.Table], names: list[str], *, provenance: Provenance, sizes: dict[str, int]
) -> list[FileFacts]:
    return [
        write_manifest(
            folder,
            table,
            rows,
            provenance=provenance,
            sizes={c.name: sizes[c.name] for c in table.columns if c.name in sizes},
            name=name,
        )
        for table, rows, name in zip(TABLES, tables, names, strict=True)
    ]


def _score_shard(
    store: ShardFolder,
    shard: ShardFacts,
    teacher: Teacher,
    *,
    device: torch.device,
    threads: int | None,
    advance: Advance,
) -> list[pa.Table]:
    """Scores, features and logits tables of one shard."""

    def look(images_BCHW: torch.Tensor, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        view = teacher(images_BCHW)
        return view.logits_BK[: len(block)], view.features_BD[: len(block)]

    keys, logits, features = [], [], []
    blocks = read_shard(store.path, shard)  # results stay on the device until the shard is done
    for block, found in look_at(blocks, look, size=store.size, device=device, threads=threads):
        keys += [key.decode() for key in block.keys]
        logits.append(found[0])
        features.append(found[1])
        advance(len(block))
    if not keys:
        return [table.arrow_schema().empty_table() for table in TABLES]
    logits_NK, features_ND = (torch.cat(parts).cpu().numpy() for parts in (logits, features))
    return [
        pa.table({"key": keys, **score_columns(logits_NK)}),
        pa.table({"key": keys, "features": _vectors(features_ND)}),
        pa.table({"key": keys, "logits": _vectors(logits_NK)}),
    ]


def score_columns(logits_NK: NDArray[np.float32]) -> dict[str, pa.Array]:
    """The columns of a scores manifest (but the key) from logits (N, K), computed in float64.

    Entropy is -sum p log p in nats (MosaicKD, supplement, Algorithm 1), from log-softmax: finite for any finite
    logits. A row with a logit that is not finite gets status nonfinite and NULL everywhere else.
    """
    finite = np.asarray(np.isfinite(logits_NK).all(axis=1))
    logits = np.where(finite[:, None], logits_NK, 0).astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    log_p = (logits - top) - log_sum  # in this order: the size that all logits share must not swallow the sum
    p = np.exp(log_p)
    ranked = np.sort(p, axis=1)
    numbers = {
        "pred": logits.argmax(axis=1).astype(np.int32),
        "confidence": ranked[:, -1].astype(np.float32),
        "entropy": np.maximum(-(p * log_p).sum(axis=1), 0).astype(np.float32),  # a certain row rounds to -1e-17
        "margin": (ranked[:, -1] - ranked[:, -2]).astype(np.float32),
        "energy": -(top + log_sum)[:, 0].astype(np.float32),
        "self_ce": np.log1p(_others(logits)).astype(np.float32),
    }
    status = pa.array(np.where(finite, "ok", "nonfinite"))
    return {"status": status, **{name: pa.array(column, mask=~finite) for name, column in numbers.items()}}


def _others(logits_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over all classes but the argmax of exp(logit - largest): -log of the largest softmax is log1p of it."""
    ranked = np.sort(logits_NK, axis=1)
    others: NDArray[np.float64] = np.exp(ranked[:, :-1] - ranked[:, -1:]).sum(axis=1)
    return others


def _vectors(rows_ND: NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.reshape(-1)), rows_ND.shape[1])
