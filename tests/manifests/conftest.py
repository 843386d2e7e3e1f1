"""A folder with scores, as most tests of this room want it."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from manifests.provenance import Provenance
from manifests.schema import SCORES
from manifests.write import write_manifest

WriteScores = Callable[[Path, int], Path]


def scores_table(rows: int) -> pa.Table:
    """Scores of keys 0, 1, ...: entropy rises from 0 to below 1, every tenth is nonfinite, margin is all NULL."""
    bad = [i % 10 == 9 for i in range(rows)]
    columns = {
        "key": [f"{i:032x}" for i in range(rows)],
        "status": ["nonfinite" if b else "ok" for b in bad],
        "pred": [None if b else i % 10 for i, b in enumerate(bad)],
        "confidence": [None if b else 0.5 for b in bad],
        "entropy": [None if b else i / rows for i, b in enumerate(bad)],
        "margin": [None] * rows,
        "energy": [None if b else -2.25 for b in bad],
        "self_ce": [None if b else 0.125 for b in bad],
    }
    return pa.table(columns, schema=SCORES.plain_schema())


@pytest.fixture
def scores() -> pa.Table:
    """100 rows, unsorted."""
    table = scores_table(100)
    return pa.concat_tables([table.slice(60), table.slice(0, 60)])


@pytest.fixture
def write_scores() -> WriteScores:
    """``write_scores(folder, rows)`` writes scores.parquet and returns the folder."""

    def write(folder: Path, rows: int) -> Path:
        write_manifest(folder, SCORES, scores_table(rows), provenance=Provenance(step="score"))
        return folder

    return write


@pytest.fixture
def store(tmp_path: Path, write_scores: WriteScores) -> Path:
    """A folder with scores.parquet (100 rows) and nothing else."""
    return write_scores(tmp_path / "store", 100)
