"""`croissant.json`: what a transfer set holds, in the words that search engines and loaders of data sets know.

Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html): every file with its size and SHA-256, the
rows of the manifests as record sets.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from manifests.commit import FileFacts
from manifests.schema import SAMPLES, SCORES, SELECTION, Column, Table
from shards.card import description, licence, title

CROISSANT = "croissant.json"
RECORDS = (SAMPLES, SELECTION, SCORES)
FORMATS = {".tar": "application/x-tar", ".parquet": "application/x-parquet"}
CONTEXT: dict[str, Any] = {  # as the specification prints it, so that every reader knows the words
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        word: f"cr:{word}"
        for word in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet"),
            *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
            "transform",
        )
    },
}


def croissant(document: Mapping[str, Any], files: Iterable[FileFacts]) -> str:
    """The text of the file; ``document`` is `transfer-set.json`, ``files`` are its contents."""
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": title(document),
        "description": description(document),
        "identifier": document["id"],
        "license": licence(document),
        "distribution": [_file(facts) for facts in files],
        "recordSet": [_records(table) for table in RECORDS],
    }
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def _file(facts: FileFacts) -> dict[str, Any]:
    ending = facts.name[facts.name.rindex(".") :]
    return {
        "@type": "cr:FileObject",
        "@id": facts.name,
        "name": facts.name,
        "contentUrl": facts.name,
        "contentSize": f"{facts.bytes} B",
        "encodingFormat": FORMATS[ending],
        "sha256": facts.sha256,
    }


def _records(table: Table) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": table.name,
        "name": table.name,
        "description": table.meaning,
        "key": {"@id": f"{table.name}/key"},
        "field": [_field(table, column) for column in table.columns],
    }


def _field(table: Table, column: Column) -> dict[str, Any]:
    shared = column.name == "key" and table is not SAMPLES
    return {
        "@type": "cr:Field",
        "@id": f"{table.name}/{column.name}",
        "name": column.name,
        "description": column.meaning + (f" ({column.unit})" if column.unit else ""),
        "dataType": _kind(column.type),
        "source": {"fileObject": {"@id": table.file}, "extract": {"column": column.name}},
        **({"references": {"field": {"@id": f"{SAMPLES.name}/key"}}} if shared else {}),
    }


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
