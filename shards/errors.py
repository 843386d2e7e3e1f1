"""Errors of the `shards` room; see manifests/errors.py for the whole tree.

ShardError
├── NotAShardFolder    exit 2   a folder that holds no block shards
├── StreamStateError   exit 2   a resume state that belongs to another stream
├── Unreachable        exit 2   a server or an installed library did not give what lies elsewhere
│   ├── NotThere       exit 2   the server has no such file
│   └── UnknownAddress exit 2   a URL of a kind that nothing here opens
├── BlockDamaged       exit 4   a block whose bytes are not what the index says
│   └── RowsDamaged    exit 4   some of its images cannot be used, the others can
└── TarDamaged         exit 4   a tar of samples that is not whole: images may be missing
"""

from typing import TYPE_CHECKING

from manifests.errors import IntegrityError, TransfersetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shards.layout import Block


class ShardError(TransfersetError):
    """Base of the errors that a user of `shards` can cause or mend."""


class NotAShardFolder(ShardError):
    """The folder is neither a transfer set nor a corpus store, or it is unfinished."""


class StreamStateError(ShardError):
    """A resume state was made by another stream: both values are named."""


class Unreachable(ShardError):
    """What lies elsewhere could not be brought here."""


class NotThere(Unreachable):
    """Nothing lies where the URL points."""


class UnknownAddress(Unreachable):
    """No file system opens URLs of this kind."""


class BlockDamaged(ShardError, IntegrityError):
    """A block's bytes differ from the index: file and block are named."""

    exit_code = IntegrityError.exit_code


class RowsDamaged(BlockDamaged):
    """Some images of a block cannot be used; ``good`` are the others, ``rows`` where in the block they are."""

    def __init__(self, message: str, *, good: "Block", rows: "NDArray[np.intp]") -> None:
        super().__init__(message)
        self.good, self.rows = good, rows


class TarDamaged(ShardError, IntegrityError):
    """A tar of samples is broken, so that images may be missing: tar and byte are named."""

    exit_code = IntegrityError.exit_code
