import json
import tomllib
from pathlib import Path

import pytest

import manifests.provenance
from manifests.errors import SchemaMismatch
from manifests.provenance import VERSION, Provenance, canonical_json, fingerprint
from manifests.schema import SCHEMA_VERSION

MADE = Provenance(
    step="score",
    config={"dtype": "float32", "mean": [0.5, 0.25]},
    parents={"store": "ab"},
    teacher={"name": "wrn40_2", "sha256": "cd"},
    transform="resize 32 bilinear",
)


def test_the_version_is_the_distribution_s() -> None:
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == VERSION


def test_one_spelling_of_a_value() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"entropy": float("nan")})


def test_a_fingerprint_depends_on_every_fact_and_not_on_their_order() -> None:
    facts = {"store": "ab", "budget": 5000}
    assert fingerprint(facts) == fingerprint(dict(reversed(facts.items())))
    assert len(fingerprint(facts)) == 64
    assert len({fingerprint(facts), fingerprint({**facts, "budget": 4000}), fingerprint({"store": "ab"})}) == 3


def test_a_new_schema_changes_every_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint({"a": 1})
    monkeypatch.setattr(manifests.provenance, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    assert fingerprint({"a": 1}) != before


def test_a_footer_comes_back() -> None:
    assert Provenance.from_footer(MADE.footer(), where="x") == MADE


def test_a_footer_holds_what_was_said_and_nothing_else() -> None:
    """No time, path, user or host: equal runs give equal bytes."""
    (text,) = MADE.footer().values()
    assert json.loads(text) == {
        "step": "score",
        "config": {"dtype": "float32", "mean": [0.5, 0.25]},
        "parents": {"store": "ab"},
        "teacher": {"name": "wrn40_2", "sha256": "cd"},
        "transform": "resize 32 bilinear",
        "schema_version": SCHEMA_VERSION,
        "tool_version": VERSION,
    }


@pytest.mark.parametrize("metadata", [None, {}, {b"pandas": b"{}"}])
def test_a_foreign_footer_is_refused(metadata: dict[bytes, bytes] | None) -> None:
    with pytest.raises(SchemaMismatch, match=r"^a/x\.parquet was not written by transferset"):
        Provenance.from_footer(metadata, where="a/x.parquet")


def test_another_schema_version_is_refused_with_both_versions() -> None:
    footer = Provenance(step="score", schema_version=99).footer()
    with pytest.raises(SchemaMismatch, match=r"x has schema version 99; this release reads 2, make it again"):
        Provenance.from_footer(footer, where="x")


@pytest.mark.parametrize(
    "text", [b"\xff\x00", b"[1]", b"7", b'{"schema_version": 2}', b'{"schema_version": 2, "q": 1}']
)
def test_a_damaged_footer_is_refused(text: bytes) -> None:
    with pytest.raises(SchemaMismatch, match="x has a footer that is not ours; make it again"):
        Provenance.from_footer({b"transferset": text}, where="x")
