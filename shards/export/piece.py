"""A piece of an export: some images of a split that are written, committed and made again together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from manifests.commit import FileFacts


class Sample(NamedTuple):
    """One image and what is known of it."""

    key: str
    data: bytes
    """the image file"""
    number: int | None
    """its class; None unknown"""
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The images of one unit of work."""

    split: str
    number: int
    of: int
    """pieces that the split is cut into"""
    extension: str
    samples: Sequence[Sample]
    classes: Sequence[str]
    schema: pa.Schema
    """types of the facts"""


Write = Callable[[Path, Piece], list[FileFacts]]

FORMATS = ("wds", "folder", "parquet")
"""each a file beside this one, whose `write` puts a piece below a folder"""
