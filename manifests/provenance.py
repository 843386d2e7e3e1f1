"""What made a file: tool version, config, teacher and parent hashes, kept in the Parquet footer.

No time, host, user or path enters a footer, so that equal runs give equal bytes; volatile facts go to `run.json` beside
a transfer set, and to a run's `report.json`.
"""

import datetime as dt
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from manifests.errors import SchemaMismatch
from manifests.schema import SCHEMA_VERSION

VERSION = "0.1.0"  # of the distribution; a test holds it equal to pyproject.toml

_FOOTER_KEY = b"transferset"


def canonical_json(value: Any) -> str:
    """The one JSON spelling of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(facts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over inputs, config and schema version: what a unit of work depends on."""
    return hashlib.sha256(canonical_json({"schema_version": SCHEMA_VERSION, **facts}).encode()).hexdigest()


def when_and_where() -> dict[str, str]:
    """Volatile facts of a run, for its `run.json`: they may differ between runs that give equal bytes."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {"finished": now, "system": platform.platform(), "python": python, "transferset": VERSION}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The facts in a Parquet footer."""

    step: str
    """ingest, score, select or pack."""
    config: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    """Name of each input and the hash of its contents."""
    teacher: Mapping[str, str] | None = None
    """name and sha256 of the teacher's tensors."""
    transform: str | None = None
    """How foreign pixels became stored pixels."""
    schema_version: int = SCHEMA_VERSION
    tool_version: str = VERSION

    def footer(self) -> dict[bytes, bytes]:
        """Key-value metadata for a Parquet footer."""
        return {_FOOTER_KEY: canonical_json(asdict(self)).encode()}

    @classmethod
    def from_footer(cls, metadata: Mapping[bytes, bytes] | None, *, where: str) -> Self:
        """Read a footer back; raises `SchemaMismatch` for a file of another tool or schema version."""
        if not metadata or _FOOTER_KEY not in metadata:
            raise SchemaMismatch(f"{where} was not written by transferset: its footer has no 'transferset' entry")
        try:
            facts = dict(json.loads(metadata[_FOOTER_KEY]))
            version = facts.get("schema_version")
            if version == SCHEMA_VERSION:
                return cls(**facts)
        except (ValueError, TypeError, RecursionError):
            raise SchemaMismatch(f"{where} has a footer that is not ours; make it again with this release") from None
        raise SchemaMismatch(
            f"{where} has schema version {version}; this release reads {SCHEMA_VERSION}, make it again with it"
        )
