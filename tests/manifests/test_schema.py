import re

import pyarrow as pa
import pytest

from manifests.schema import FEATURES, LOGITS, SAMPLES, SCHEMA_VERSION, SCORES, SELECTION, TABLES, Table

EVERY = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
PUBLISHED = {  # what users' SQL relies on; a change here is a new SCHEMA_VERSION
    "samples": "key corpus uri source_label status error duplicate_of width height pixel_hash shard block row",
    "scores": "key status pred confidence entropy margin energy self_ce",
    "features": "key features",
    "logits": "key logits",
    "selection": "key selected split reason rank target_class nn_dist nn_key",
    "shards": "name split bytes sha256 rows blocks",
    "runs": "run method student teacher teacher_sha256 transfer_set images seed config finished steps student_updates "
    "teacher_queries seconds agreement_last agreement_chosen accuracy_last accuracy_chosen evaluated_on device",
    "metrics": "run step name value",
}


def test_published_names_stay() -> None:
    assert SCHEMA_VERSION == 2
    assert {name: " ".join(c.name for c in table.columns) for name, table in TABLES.items()} == PUBLISHED


@EVERY
def test_a_table_says_what_it_holds(table: Table) -> None:
    assert table.meaning
    assert table.file == f"{table.name}.parquet"
    names = [c.name for c in table.columns]
    assert len(set(names)) == len(names)
    for column in table.columns:
        assert re.fullmatch("[a-z][a-z0-9_]*", column.name)
        assert column.meaning
        assert set(column.written_by.split(", ")) <= {"ingest", "score", "select", "pack", "train", "eval"}


@EVERY
def test_only_what_may_be_missing_is_nullable(table: Table) -> None:
    schema = table.arrow_schema()
    assert [field.nullable for field in schema] == [c.nullable for c in table.columns]
    first = schema.field(0)
    assert first.name == {"shards": "name", "runs": "run", "metrics": "run"}.get(table.name, "key")
    assert (first.type, first.nullable) == (pa.string(), False)


def test_numbers_of_a_score_may_be_null_and_the_status_never() -> None:
    schema = SCORES.arrow_schema()
    assert not schema.field("status").nullable
    assert [str(schema.field(n).type) for n in ("pred", "entropy")] == ["int32", "float"]
    assert all(schema.field(n).nullable for n in ("pred", "confidence", "entropy", "margin", "energy"))


@pytest.mark.parametrize("table", [FEATURES, LOGITS], ids=lambda table: table.name)
def test_a_vector_has_its_size_when_a_teacher_is_known(table: Table) -> None:
    assert table.arrow_schema().field(table.name).type == pa.list_(pa.float32())
    assert table.arrow_schema({table.name: 7}).field(table.name).type == pa.list_(pa.float32(), 7)


@EVERY
def test_the_plain_schema_differs_in_dictionaries_alone(table: Table) -> None:
    for plain, field in zip(table.plain_schema(), table.arrow_schema(), strict=True):
        assert (plain.name, plain.nullable) == (field.name, field.nullable)
        assert plain.type == (pa.string() if pa.types.is_dictionary(field.type) else field.type)


def test_words_are_dictionaries() -> None:
    words = {
        t.name: [c.name for c in t.columns if pa.types.is_dictionary(c.type)] for t in (SAMPLES, SCORES, SELECTION)
    }
    assert words == {"samples": ["corpus", "status"], "scores": ["status"], "selection": ["split", "reason"]}
