"""Errors of the `shards` room; see manifests/errors.py for the whole tree.

ShardError
├── NotAShardFolder    exit 2   a folder that holds no block shards
├── StreamStateError   exit 2   a resume state that belongs to another stream
└── BlockDamaged       exit 4   a block whose bytes are not what the index says
"""

from manifests.errors import IntegrityError, TransfersetError


class ShardError(TransfersetError):
    """Base of the errors that a user of `shards` can cause or mend."""


class NotAShardFolder(ShardError):
    """The folder is neither a transfer set nor a corpus store, or it is unfinished."""


class StreamStateError(ShardError):
    """A resume state was made by another stream: both values are named."""


class BlockDamaged(ShardError, IntegrityError):
    """A block's bytes differ from the index: file and block are named."""

    exit_code = IntegrityError.exit_code
