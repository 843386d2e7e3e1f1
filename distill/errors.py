"""Errors of the `distill` room; see manifests/errors.py for the whole tree.

DistillError                exit 2   wrong usage
├── UnknownModel            exit 2   no architecture of that name
├── UnknownTeacher          exit 2   no teacher of that name, no weights for it, or more than one file of them
├── UnknownMethod           exit 2   no distillation method of that name
├── BadLabels               exit 2   data without labels, or with classes that the network lacks
├── BadCheckpoint           exit 2   a checkpoint that belongs to another run
│   └── DamagedCheckpoint   exit 4   one whose bytes are not those that were written
├── Diverged                exit 2   a loss that is not finite: the term and the steps are named
├── UnsupportedSize         exit 2   a network that cannot work at that image size
└── BadWeights              exit 2   a weights file that is absent, unreadable or does not say what it holds
    ├── WrongArchitecture   exit 2   weights of another network than was asked for
    └── DamagedWeights      exit 4   a stored teacher whose tensors are not those that were stored
"""

from manifests.errors import IntegrityError, TransfersetError


class DistillError(TransfersetError):
    """Base of the errors that a user of `distill` can cause or mend."""


class UnknownModel(DistillError):
    """No architecture of that name; the message lists the known."""


class UnknownTeacher(DistillError):
    """No teacher of that name, no weights for it, or more than one file of them."""


class UnsupportedSize(DistillError):
    """A network cannot work at that image size."""


class BadWeights(DistillError):
    """A weights file is absent, damaged, would run code, or does not say what it holds."""


class WrongArchitecture(BadWeights):
    """The weights belong to another architecture than was asked for."""


class DamagedWeights(BadWeights, IntegrityError):
    """A stored teacher's tensors are not those that were stored."""

    exit_code = IntegrityError.exit_code


class UnknownMethod(DistillError):
    """No distillation method of that name; the message lists the known."""


class BadLabels(DistillError):
    """Data has no labels, or has classes that the network lacks."""


class BadCheckpoint(DistillError):
    """A checkpoint is damaged, or belongs to another run."""


class DamagedCheckpoint(BadCheckpoint, IntegrityError):
    """Its bytes are not those that were written."""

    exit_code = IntegrityError.exit_code


class Diverged(DistillError):
    """A loss is not finite; the term and the steps are named."""
