"""The Croissant file names every file of the set with its hash, and every column of its manifests.

`mlcroissant validate` accepts it; that package is no dependency, so what it checks of ours is checked here.
"""

import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest

from manifests.commit import Ledger
from manifests.read import read_manifest
from shards.croissant import CROISSANT, RECORDS
from shards.index import ShardFolder
from shards.pack import pack
from tests.shards.conftest import Sources


@pytest.fixture
def described(packed: ShardFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((packed.path / CROISSANT).read_text())
    return found


def test_what_the_specification_requires_is_there(packed: ShardFolder, described: dict[str, Any]) -> None:
    assert described["@type"] == "sc:Dataset"
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert described["identifier"] == packed.id
    assert described["license"] == "unknown"
    assert all(described[name] for name in ("@context", "name", "description"))


def test_every_file_has_its_size_and_hash(packed: ShardFolder, described: dict[str, Any]) -> None:
    files = {file["@id"]: file for file in described["distribution"]}
    assert set(files) == set(packed.document["contents"])
    assert len(files) == len(described["distribution"])
    for name, file in files.items():
        data = (packed.path / name).read_bytes()
        assert (file["@type"], file["contentUrl"]) == ("cr:FileObject", name)
        assert file["contentSize"] == f"{len(data)} B"
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["encodingFormat"] == ("application/x-tar" if name.endswith("tar") else "application/x-parquet")


def test_every_column_is_a_field_of_its_type(packed: ShardFolder, described: dict[str, Any]) -> None:
    kinds = {"sc:Text": pa.types.is_dictionary, "sc:Float": pa.types.is_floating}
    kinds |= {"sc:Integer": pa.types.is_integer, "sc:Boolean": pa.types.is_boolean}
    identities = [record["@id"] for record in described["recordSet"]]
    assert identities == ["samples", "selection", "scores"]
    for record, table in zip(described["recordSet"], RECORDS, strict=True):
        rows = read_manifest(packed.path, table)
        assert [field["name"] for field in record["field"]] == rows.column_names
        for field in record["field"]:
            assert field["source"] == {"fileObject": {"@id": table.file}, "extract": {"column": field["name"]}}
            kind = rows.schema.field(field["name"]).type
            assert kinds[field["dataType"]](kind) or (field["dataType"] == "sc:Text" and pa.types.is_string(kind))
        assert record["key"]["@id"] in [field["@id"] for field in record["field"]]


def test_references_lead_to_fields(described: dict[str, Any]) -> None:
    fields = [field for record in described["recordSet"] for field in record["field"]]
    known = {field["@id"] for field in fields}
    assert len(known) == len(fields)
    assert [field["references"]["field"]["@id"] for field in fields if "references" in field] == ["samples/key"] * 2
    assert "samples/key" in known


def test_it_is_committed_and_no_part_of_the_contents(sources: Sources, packed: ShardFolder) -> None:
    assert CROISSANT not in packed.document["contents"]
    record = Ledger(packed.path).read("transfer-set")
    assert record is not None
    assert CROISSANT in [file.name for file in record.files]
    before = (packed.path / CROISSANT).read_bytes()
    pack(sources.selection, sources.stores, packed.path, licence="cc0-1.0")
    assert (packed.path / CROISSANT).read_bytes() == before.replace(b'"unknown"', b'"cc0-1.0"')
