"""Reader of torchvision's sets of classified images by name: `torchvision:SVHN?split=extra&root=DIR&download=1`.

Options are the words that the class itself takes (`train=0`, `split=test`, `small=1`, ...); `root` is `data` unless
told. Only `download=1` downloads, and only what is not there. Where a set lies in image files, they are handed out as
they are, so that they are decoded where all others are; otherwise torchvision makes the arrays. Labels are the set's
class names, or numbers where it states none.
"""

import contextlib
import inspect
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.corpora.base import Item, Part, class_name, cut_options, facts_below, fingerprint, split, split_options
from curate.errors import CorpusDamaged, CorpusEmpty, CorpusNotFound, CorpusUnreachable, UnknownCorpus
from manifests.commit import PART, exclusive
from shards.names import printable

# Where each set lies below its root, as torchvision 0.29 lays it out; what is in braces is an option's value.
SETS: dict[str, tuple[str, ...]] = {
    "Caltech101": ("caltech101",),
    "Caltech256": ("caltech256",),
    "CelebA": ("celeba",),
    "CIFAR10": ("cifar-10-batches-py",),
    "CIFAR100": ("cifar-100-python",),
    "CLEVRClassification": ("clevr",),
    "Country211": ("country211",),
    "DTD": ("dtd",),
    "EMNIST": ("EMNIST",),
    "EuroSAT": ("eurosat",),
    "FashionMNIST": ("FashionMNIST",),
    "FER2013": ("fer2013",),
    "FGVCAircraft": ("fgvc-aircraft-2013b",),
    "Flowers102": ("flowers-102",),
    "Food101": ("food-101",),
    "GTSRB": ("gtsrb",),
    "ImageNet": ("{split}",),
    "Imagenette": ("imagenette2*",),
    "INaturalist": ("{version}",),
    "KMNIST": ("KMNIST",),
    "LFWPeople": ("lfw-py",),
    "MNIST": ("MNIST",),
    "Omniglot": ("omniglot-py",),
    "OxfordIIITPet": ("oxford-iiit-pet",),
    "PCAM": ("pcam",),
    "Places365": ("*_256*", "*_large*", "*places365*.txt"),
    "QMNIST": ("QMNIST",),
    "RenderedSST2": ("rendered-sst2",),
    "SEMEION": ("semeion.data",),
    "STL10": ("stl10_binary",),
    "StanfordCars": ("stanford_cars",),
    "SUN397": ("SUN397",),
    "SVHN": ("{split}_32x32.mat",),
    "USPS": ("usps*",),
}

_ROOT = "data"  # torchvision's own habit
_PLACE = ("root", "download")  # options that choose no image
# Words of the classes that are no options: what is called, and targets other than the class.
_NOT_OPTIONS = {"self", "args", "kwargs", "target_type", "target_types", "allow_empty", *_PLACE}
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


class _Entry(NamedTuple):
    source: str | int  # path of an image file below the root, or index of an array
    label: str | None


class TorchvisionCorpus:
    """The images of one of torchvision's sets."""

    scheme = "torchvision"
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        self._set, query = cut_options(path)
        words = _words(_class(self._set))
        self._takes = words.keys() & {"download", "loader"}
        known = {
            word: words[word] for word in words if word not in _NOT_OPTIONS and "Callable" not in _hint(words[word])
        }
        places = [word for word in _PLACE if word in words]
        _, typed = split_options(f"torchvision:{self._set}", path, (*known, *places))
        kept = [pair for pair in query.split("&") if pair and not pair.startswith("download=")]
        self.name, self.spec = name, "?".join(filter(None, (f"torchvision:{self._set}", "&".join(kept))))
        self._root = Path(typed.pop("root", _ROOT)).expanduser()
        download = _truth(self._set, "download", typed.pop("download", "0"))
        self._options = {word: parameter.default for word, parameter in known.items()}
        self._options |= {word: _value(self._set, known[word], text) for word, text in typed.items()}
        self._check_options()
        if download or not any(True for _ in self._files()):
            self._have(download=download)

    @staticmethod
    def fits(_path: Path) -> bool:
        """A bare path is never torchvision's: its sets have names."""
        return False

    def identity(self) -> str:
        """Over the set's name and options, and the relative names, sizes and times of change of its files."""
        return fingerprint(self.scheme, self._set, sorted(self._options.items()), *sorted(self._files()))

    def _files(self) -> Iterator[tuple[str, int, int]]:
        places = [place.format(**self._options) for place in SETS[self._set]]
        for top in (found for place in places for found in self._root.glob(place)):
            yield from facts_below(top, self._root)

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        """Names in the order of the labels, where the set states them."""
        attributes = (getattr(self._dataset, key, None) for key in ("classes", "categories", "all_categories"))
        stated = next(filter(None, attributes), ())
        names = [name if isinstance(name, str) else ", ".join(name) for name in stated]  # ImageNet's are synonyms,
        times = Counter(names)  # and not unique: a crane is a bird or a machine
        return tuple(name if times[name] == 1 else f"{name} ({n})" for n, name in enumerate(names)) or None

    @cached_property
    def _dataset(self) -> Any:
        if not self._root.is_dir():
            raise self._refusal(FileNotFoundError("no such folder"))
        try:
            return self._open(self._root)
        except Exception as error:  # noqa: BLE001  # each set raises what it likes
            raise self._refusal(error) from None

    def parts(self) -> list[Part]:
        """Image files in the order of their names, or arrays in torchvision's; PART_SIZE a part."""
        if not len(self._dataset):
            raise CorpusEmpty(f"corpus {self.name!r}: no image in {self.spec}")
        return split(self._image_files() if "loader" in self._takes else self._arrays())

    def _image_files(self) -> list[_Entry]:
        """All files, by name: the order of some sets is that in which the file system lists them."""
        found = (self._dataset[index] for index in range(len(self._dataset)))
        labels = {os.path.relpath(path, self._root): self._label(target) for path, target in found}
        return [_Entry(path, labels[path]) for path in sorted(labels, key=printable)]

    def _arrays(self) -> list[_Entry]:
        return [_Entry(index, None) for index in range(len(self._dataset))]  # labels come with the pixels

    def read(self, part: Part) -> Iterator[Item]:
        """The files' bytes, or uint8 arrays: HxW where torchvision has them grey, else HxWx3."""
        for source, label in part.where:
            yield self._from_array(source) if isinstance(source, int) else self._from_file(source, label)

    def _from_file(self, source: str, label: str | None) -> Item:
        uri = printable(Path(source).as_posix())
        try:
            return Item(uri=uri, data=(self._root / source).read_bytes(), label=label)
        except OSError as error:
            reason = f"unreadable: {error.strerror or error}"
            return Item(uri=uri, data=None, label=label, error=reason, unreadable=True)

    def _from_array(self, index: int) -> Item:
        uri = f"{self._set}/{index:08d}"
        try:
            image, target = self._dataset[index]
            return Item(uri=uri, data=_pixels(image), label=self._label(target))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's, in a set that opens image files itself
            passing = getattr(error, "errno", None) is not None  # the system's, and no damaged image
            return Item(uri=uri, data=None, error=f"unreadable: {_line(error)}", unreadable=passing)

    def _label(self, target: Any) -> str | None:
        """The class of an integer target; None for another (CelebA's are 40 attributes) and for an unlabelled image."""
        return class_name(int(target), self.classes) if isinstance(target, int | np.integer) and target >= 0 else None

    def _open(self, root: Path, *, download: bool = False) -> Any:
        """Torchvision's own object. Its loader hands out the path, so that nothing is decoded here."""
        words = {"download": download, "loader": Path}
        with contextlib.redirect_stdout(sys.stderr):
            return _class(self._set)(root, **self._options, **{word: words[word] for word in self._takes})

    def _refusal(self, error: Exception) -> Exception:
        """Why torchvision did not open the set, in our words."""
        reason = _line(error)
        if isinstance(error, ImportError) or "pip install" in str(error):  # scipy, h5py
            return CorpusUnreachable(f"torchvision cannot read {self._set}: {error}")
        missing = ("not found", "not exist", "not present", "corrupted", "No such file", "no such folder")
        if not any(words in reason for words in missing):
            return CorpusDamaged(f"torchvision cannot read {self._set} in {self._root}: {reason}")
        remedy = "or download it with &download=1" if "download" in self._takes else "torchvision cannot download it"
        return CorpusNotFound(
            f"torchvision finds no whole {self._set} in {self._root} ({reason}); "
            f"say where it lies with &root=DIR; {remedy}"
        )

    def _check_options(self) -> None:
        """A wrong value is refused at once: torchvision looks at values before it looks for files."""
        required = [word for word, value in self._options.items() if value is inspect.Parameter.empty]
        if required:
            raise UnknownCorpus(f"torchvision:{self._set} needs {required[0]}=..., as in ?{required[0]}=VALUE")
        with tempfile.TemporaryDirectory() as empty:
            try:
                self._open(Path(empty))
            except ValueError as error:
                raise UnknownCorpus(f"torchvision:{self._set}: {str(error).splitlines()[0]}") from None
            except Exception:  # noqa: BLE001  # of course: the folder is empty
                return

    def _have(self, *, download: bool) -> None:
        """See that the set is there; raises CorpusNotFound where it is not and may not be downloaded."""
        try:
            _ = self._dataset
        except CorpusNotFound:
            if not download:
                raise
            self._download()

    def _download(self) -> None:
        """Beside the other sets first, and then to its place: what lies there was never half unpacked."""
        scratch = self._root / f".{self._set}{PART}"
        with exclusive(scratch):
            fresh = scratch / "root"
            shutil.rmtree(fresh, ignore_errors=True)  # what a run that was killed left
            fresh.mkdir()
            try:
                self._open(fresh, download=True)
            except Exception as error:  # noqa: BLE001  # as above
                raise CorpusUnreachable(f"torchvision could not download {self._set}: {_line(error)}") from None
            else:
                _move(fresh, self._root)
            finally:
                shutil.rmtree(scratch)


def _class(name: str) -> Any:
    if name not in SETS:
        raise UnknownCorpus(f"torchvision has no set of classified images {name!r}; known: {', '.join(SETS)}")
    from torchvision import datasets

    return getattr(datasets, name)


def _words(kind: Any) -> dict[str, inspect.Parameter]:
    """What a class takes, also where it hands further words to the class that it extends."""
    words: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__:
        own = inspect.signature(each.__init__).parameters if "__init__" in vars(each) else {}
        words = {**own, **words}
        if own and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return words


def _hint(parameter: inspect.Parameter) -> str:
    return str(parameter.annotation)


def _value(name: str, parameter: inspect.Parameter, text: str) -> Any:
    if "bool" in _hint(parameter):
        return _truth(name, parameter.name, text)
    if "int" in _hint(parameter):
        if not (text.isascii() and text.isdigit()):
            raise UnknownCorpus(f"torchvision:{name}: {parameter.name}={text} is no whole number")
        return int(text)
    return text


def _truth(name: str, option: str, text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise UnknownCorpus(f"torchvision:{name}: {option}={text} is neither 1 nor 0")
    return _TRUTH[text.lower()]


def _pixels(image: Any) -> NDArray[np.uint8]:
    """A Pillow image as HxW or HxWx3."""
    return np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB"))


def _line(error: Exception) -> str:
    """The first sentence of what torchvision said; the next ones speak of its own words."""
    return " ".join(str(error).partition(". ")[0].split()).removesuffix(".")[:200] or type(error).__name__


def _move(source: Path, target: Path) -> None:
    """All that lies in a folder into another one of the same file system; folders that both have are joined."""
    for entry in source.iterdir():
        if entry.is_dir() and (target / entry.name).is_dir():
            _move(entry, target / entry.name)
        else:
            entry.replace(target / entry.name)
