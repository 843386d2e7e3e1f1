"""Where blocks come from, one kind a file; `open_source` finds the kind that an address means."""

from typing import TYPE_CHECKING

from manifests._lazy import lazy

if TYPE_CHECKING:
    from shards.sources.base import Source as Source
    from shards.sources.local import LocalBlocks as LocalBlocks
    from shards.sources.open import open_source as open_source
    from shards.sources.open import open_splits as open_splits
    from shards.sources.remote import RemoteBlocks as RemoteBlocks
    from shards.sources.samples import SampleTars as SampleTars
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "base": ("Source",),
            "local": ("LocalBlocks",),
            "open": ("open_source", "open_splits"),
            "remote": ("RemoteBlocks",),
            "samples": ("SampleTars",),
        },
    )
