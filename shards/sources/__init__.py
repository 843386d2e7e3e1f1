"""Where blocks come from, one kind a file; `open_source` finds the kind that an address means."""

from shards.sources.base import Source
from shards.sources.local import LocalBlocks

__all__ = ["LocalBlocks", "Source"]
