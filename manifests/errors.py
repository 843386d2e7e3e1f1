"""Errors that a user can cause, as one tree that every room extends.

TransfersetError            exit 2   wrong usage: an option, a path, a query
├── ManifestError           exit 2   a manifest or a query over manifests
│   ├── QueryRefused        exit 2   SQL that is not one plain SELECT, or that broke a limit
│   └── SchemaMismatch      exit 2   a file that another version or tool wrote
├── OutputConflict          exit 2   an output folder that holds something else
├── Busy                    exit 2   another run is writing the same output
├── IntegrityError          exit 4   bytes that are not what the commit record says
├── shards.errors.ShardError
├── curate.errors.CurateError
└── distill.errors.DistillError

A message says what was wrong, the value seen, what was expected and what to do, in one or two lines.
Anything else that reaches the top is a bug of ours (exit 1).
"""


class TransfersetError(Exception):
    """Base of every error that a user can cause or mend."""

    exit_code = 2


class ManifestError(TransfersetError):
    """A manifest, or a query over manifests, is not usable."""


class QueryRefused(ManifestError):
    """The query is not one plain SELECT over the registered views, or it broke a limit."""


class SchemaMismatch(ManifestError):
    """A manifest lacks the columns, or has another schema version, than this release reads."""


class OutputConflict(TransfersetError):
    """The output folder already holds something else."""


class Busy(TransfersetError):
    """Another run holds the output folder."""


class IntegrityError(TransfersetError):
    """Bytes on disk differ from what was committed."""

    exit_code = 4
