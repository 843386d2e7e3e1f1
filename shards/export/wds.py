"""Per-sample webdataset tars, as the field trains from: `KEY.png`, `KEY.cls` (the class's number), `KEY.json`."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from manifests.commit import FileFacts, atomic_file
from manifests.provenance import canonical_json
from shards.export.piece import Piece, Sample
from shards.layout import TAR_END


def write(out: Path, piece: Piece) -> list[FileFacts]:
    """One tar, `SPLIT-000000.tar`; the same images give the same bytes. An image of no class has no `.cls`."""
    name = f"{piece.split}-{piece.number:06d}.tar"
    with atomic_file(out / name) as file:
        for sample in piece.samples:
            for extension, data in _members(sample, piece.extension):
                info = tarfile.TarInfo(f"{sample.key}.{extension}")
                info.size, info.mtime, info.mode = len(data), 0, 0o444
                file.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))
        file.write(TAR_END)
        file.write(bytes(-file.bytes % tarfile.RECORDSIZE))
    return [FileFacts(name=name, bytes=file.bytes, sha256=file.sha256, rows=len(piece.samples))]


def _members(sample: Sample, extension: str) -> Iterator[tuple[str, bytes]]:
    if sample.number is not None:
        yield "cls", str(sample.number).encode()
    yield "json", canonical_json(sample.facts).encode()
    yield extension, sample.data
