"""Sets in the forms that others read: one format a file, `export` writes any of them."""

from shards.export.job import Exported, export
from shards.export.piece import FORMATS

__all__ = ["FORMATS", "Exported", "export"]
