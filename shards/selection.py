"""The order that pack carries out: a folder with the manifests of a selection and `selection.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.index import load_document

SELECTION_DOCUMENT = "selection.json"
FIELDS = {"plan", "stores", "size", "transform", "teacher", "counts"}


@dataclass(frozen=True, kw_only=True)
class SelectionFolder:
    """A finished selection: samples, scores, features and selection manifests over one or more corpus stores."""

    path: Path
    document: Mapping[str, Any]
    """`selection.json`: plan, stores, teacher, transform, size, counts"""

    @property
    def plan(self) -> dict[str, Any]:
        """What the transfer set is made from; an output folder belongs to one plan."""
        return dict(self.document["plan"])

    @property
    def size(self) -> int:
        """Resolution in px."""
        return int(self.document["size"])

    @property
    def parents(self) -> dict[str, str]:
        """Corpus name -> id of its store."""
        return dict(self.document["stores"])

    def check_stores(self, ids: Mapping[str, str]) -> None:
        """Refuse stores other than those the selection was made from (`ShardError`)."""
        if ids == self.parents:
            return
        wrong = min(n for n in {*ids, *self.parents} if ids.get(n) != self.parents.get(n))
        raise ShardError(
            f"{self.path} was made from other stores: {wrong!r} is {ids.get(wrong, 'not given')} here and "
            f"{self.parents.get(wrong, 'not there')} in the selection; give its own stores, or select again"
        )


def open_selection(path: Path) -> SelectionFolder:
    """Open a selection folder; raises `ShardError` for anything else."""
    try:
        return SelectionFolder(path=path, document=load_document(path / SELECTION_DOCUMENT, fields=FIELDS))
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(
            f"{path} is no selection (no {SELECTION_DOCUMENT} there); `curate select` writes one"
        ) from None
