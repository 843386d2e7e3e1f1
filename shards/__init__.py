"""Bytes: block shards on disk, their index and verification, and the stream that is read from them."""

from typing import TYPE_CHECKING

from manifests._lazy import lazy

if TYPE_CHECKING:
    from shards.dataset import IterableShards as IterableShards
    from shards.dataset import MapShards as MapShards
    from shards.errors import ShardError as ShardError
    from shards.index import ShardFolder as ShardFolder
    from shards.index import open_folder as open_folder
    from shards.sources.open import open_source as open_source
    from shards.sources.open import open_splits as open_splits
    from shards.stream import Batch as Batch
    from shards.stream import Stream as Stream
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "dataset": ("IterableShards", "MapShards"),
            "errors": ("ShardError",),
            "index": ("ShardFolder", "open_folder"),
            "sources.open": ("open_source", "open_splits"),
            "stream": ("Batch", "Stream"),
        },
    )
