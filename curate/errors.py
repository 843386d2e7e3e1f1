"""Errors of the `curate` room; see manifests/errors.py for the whole tree.

CurateError            exit 2
├── UnknownCorpus      exit 2   a corpus option, scheme, builtin name or file kind that no reader knows
├── CorpusNotFound     exit 2   nothing lies where the option points
├── CorpusUnreachable  exit 2   a server or an installed library did not give what lies elsewhere
├── CorpusEmpty        exit 2   the place exists and holds no image
├── CorpusAmbiguous    exit 2   more than one reading fits; the option must say which
├── CorpusUnusable     exit 2   every image of every corpus is damaged, or has no finite score
├── CorpusUnreadable   exit 3   samples that could not be read this time; nothing is decided without them
├── UnknownMode        exit 2   a selection rule that does not exist
├── DistanceError      exit 2   vectors between which there is no distance
└── CorpusDamaged      exit 4   a container (tar, Parquet, IDX, arrays) that is broken: images may be missing
"""

from manifests.errors import TransfersetError


class CurateError(TransfersetError):
    """Base of the errors that a user of `curate` can cause or mend."""


class UnknownCorpus(CurateError):
    """The corpus option is not of a form that any reader knows."""


class CorpusNotFound(CurateError):
    """Nothing lies where the corpus option points."""


class CorpusUnreachable(CurateError):
    """What lies elsewhere could not be brought here."""


class CorpusEmpty(CurateError):
    """The corpus exists and holds no image."""


class CorpusAmbiguous(CurateError):
    """More than one reading of the corpus fits."""


class CorpusUnusable(CurateError):
    """There are samples, and none of them could be used."""


class CorpusUnreadable(CurateError):
    """Samples could not be read; mended, or skipped on purpose, the same command goes on."""

    exit_code = 3


class UnknownMode(CurateError):
    """No selection rule has that name."""


class DistanceError(CurateError):
    """There is no distance between the vectors given: none there, not finite, or not of one kind."""


class CorpusDamaged(CurateError):
    """A container of images is broken, so that images may be missing."""

    exit_code = 4
