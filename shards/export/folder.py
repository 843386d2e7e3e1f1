"""Image files in one subfolder a class: `SPLIT/CLASS/KEY.png`, and all that is known of them in `SPLIT/metadata.jsonl`.

torchvision's ImageFolder reads `SPLIT`, Hugging Face's `imagefolder` the metadata too.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from manifests.commit import FileFacts, atomic_file, write_bytes
from manifests.provenance import canonical_json
from shards.export.facts import Facts
from shards.export.piece import Piece

UNLABELLED = "unlabelled"
"""folder of images of no class"""
METADATA = "metadata.jsonl"
_UNSAFE = re.compile(
    r'^[.]|^u(?=nlabelled$)|^m(?=etadata[.]jsonl$)|[\x00-\x1f\x7f%/\\:*?"<>|]'
)  # what leads elsewhere, hides, is the name of one of ours, or some system has no name for


def write(out: Path, piece: Piece) -> list[FileFacts]:
    """One file an image."""
    written = []
    for sample in piece.samples:
        name = f"{piece.split}/{path_of(sample.facts['label'], sample.key, piece.extension)}"
        write_bytes(out / name, sample.data, durable=False)
        sha256 = hashlib.sha256(sample.data).hexdigest()
        written.append(FileFacts(name=name, bytes=len(sample.data), sha256=sha256, rows=1))
    os.sync()  # once for all of them, before the record that says they are there
    return written


def path_of(label: str | None, key: str, extension: str) -> str:
    """Path below a split. What no name may be becomes `%2F`, so that two classes never share one."""
    folder = UNLABELLED if label is None else _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", label) or "%"
    return f"{folder}/{key}.{extension}"


def write_metadata(out: Path, split: str, facts: Facts, rows: Sequence[slice], extension: str) -> FileFacts:
    """One JSON line an image, beginning with its `file_name` below the split."""
    name = f"{split}/{METADATA}"
    with atomic_file(out / name) as file:
        for some in rows:
            for row in facts[some]:
                line = {"file_name": path_of(row["label"], row["key"], extension), **row}
                file.write(canonical_json(line).encode() + b"\n")
    return FileFacts(name=name, bytes=file.bytes, sha256=file.sha256, rows=sum(r.stop - r.start for r in rows))
