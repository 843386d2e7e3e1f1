"""Facts about samples: schema, keys, provenance, atomic writing, and SQL. No torch, no Pillow, no other room."""

from typing import TYPE_CHECKING

from manifests._lazy import lazy

if TYPE_CHECKING:
    from manifests.commit import Ledger as Ledger
    from manifests.commit import atomic_file as atomic_file
    from manifests.errors import TransfersetError as TransfersetError
    from manifests.keys import content_key as content_key
    from manifests.keys import pixel_hash as pixel_hash
    from manifests.provenance import Provenance as Provenance
    from manifests.query import find_manifests as find_manifests
    from manifests.query import run_query as run_query
    from manifests.read import read_manifest as read_manifest
    from manifests.read import read_provenance as read_provenance
    from manifests.schema import SCHEMA_VERSION as SCHEMA_VERSION
    from manifests.schema import TABLES as TABLES
    from manifests.write import write_manifest as write_manifest
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "commit": ("Ledger", "atomic_file"),
            "errors": ("TransfersetError",),
            "keys": ("content_key", "pixel_hash"),
            "provenance": ("Provenance",),
            "query": ("find_manifests", "run_query"),
            "read": ("read_manifest", "read_provenance"),
            "schema": ("SCHEMA_VERSION", "TABLES"),
            "write": ("write_manifest",),
        },
    )
