"""The card of a weights file: the architecture, the normaliser of its inputs and the names of its classes.

In the file it is metadata, all strings: `arch`, `num_classes`, `input_size`, `mean`, `std` (of inputs in [0, 1]) and
`classes` (comma-separated, in label order, quoted as in CSV where a name needs it).
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.errors import BadWeights
from distill.models.view import LUMA

_MOST_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a weights file says of itself, checked."""

    arch: str
    """a name that `distill.models.spec` knows"""
    mean: tuple[float, ...]
    """per channel, of inputs in [0, 1]; one number: the network is grey"""
    std: tuple[float, ...]
    """per channel, > 0"""
    classes: tuple[str, ...]
    """names in label order"""
    input_size: int
    """pixels a side that the network was trained on"""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, len(LUMA)):
            raise BadWeights(f"mean and std need 3 numbers each, or 1 for grey; got {self.mean} and {self.std}")
        if not all(0 <= mean <= 1 for mean in self.mean) or not all(0 < std <= 1 for std in self.std):  # not NaN either
            raise BadWeights(
                f"mean must be in 0 to 1 and std above 0, to 1, of inputs in [0, 1]; got {self.mean} and {self.std}"
                " (those of inputs of 0 to 255 are to be divided by 255)"
            )
        if not self.classes or self.input_size < 1:
            raise BadWeights(f"need a class and an input size >= 1; got {len(self.classes)} and {self.input_size}")

    def to_metadata(self) -> dict[str, str]:
        """The strings that stand for this card in a file."""
        return {
            "arch": self.arch,
            "num_classes": str(len(self.classes)),
            "input_size": str(self.input_size),
            "mean": ",".join(map(str, self.mean)),
            "std": ",".join(map(str, self.std)),
            "classes": join_names(self.classes),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, arch: str, outputs: int, input_size: int) -> "Card":
        """Read it back; `input_size` and `classes` may be absent, `mean` and `std` may not.

        `outputs` is the width of the network's last layer. Raises BadWeights, which says what is absent or wrong.
        """
        if absent := [name for name in ("mean", "std") if name not in metadata]:
            raise BadWeights(f"no {' and no '.join(absent)}: the normaliser travels with the weights")
        try:
            count = int(metadata.get("num_classes", outputs))
            if count > _MOST_CLASSES:  # before as many names are made up
                raise BadWeights(f"num_classes is {count}; expected at most {_MOST_CLASSES}")
            names = split_names(metadata["classes"]) if "classes" in metadata else map(str, range(count))
            card = cls(
                arch=arch,
                mean=_numbers("mean", metadata["mean"]),
                std=_numbers("std", metadata["std"]),
                classes=tuple(names),
                input_size=int(metadata.get("input_size", input_size)),
            )
        except (ValueError, csv.Error) as error:
            raise BadWeights(str(error)) from None
        if len(card.classes) != count:
            raise BadWeights(f"{len(card.classes)} classes are named but the network has {count}")
        return card


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise BadWeights(f"{name} is {text!r}; expected numbers such as 0.5,0.5,0.5") from None


def join_names(names: Sequence[str]) -> str:
    """Class names as one line of CSV."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(names)  # so that a name with a line end in it is quoted too
    return line.getvalue().removesuffix("\r\n")


def split_names(line: str) -> tuple[str, ...]:
    """Read them back."""
    return tuple(next(csv.reader(io.StringIO(line, newline="")), []))


def fit_normaliser(
    mean: Sequence[float], std: Sequence[float], *, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A normaliser for a network of another number of channels: a grey student of a colour teacher, or the reverse.

    Grey from colour: the luma of each (for std a rough one: it takes the channels for wholly correlated, and natural
    images' nearly are). Colour from grey: the one number for all three.
    """
    if len(mean) == channels:
        return tuple(mean), tuple(std)
    if channels == 1:
        return (_luma(mean),), (_luma(std),)
    return tuple(mean) * channels, tuple(std) * channels


def _luma(of: Sequence[float]) -> float:
    return sum(weight * number for weight, number in zip(LUMA, of, strict=True))
