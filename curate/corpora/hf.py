"""Reader of Hugging Face datasets: `hf:OWNER/NAME?split=train&image=img&label=label&config=...&revision=...`.

Instead of a name on the Hub a local folder is taken too: a repository's, or one that `save_to_disk` wrote. The library
`datasets` (the extra `hf`) finds, downloads and keeps the data in its own cache; images leave it as the encoded bytes
that they are. `split` is `train` unless told, and may be a slice such as `train[:5000]`; the columns are found like
those of Parquet files; `label=` reads no labels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from curate.corpora.base import Item, Part, class_name, facts_below, fingerprint, split, split_options
from curate.errors import (
    CorpusAmbiguous,
    CorpusDamaged,
    CorpusNotFound,
    CorpusUnreachable,
    CurateError,
    UnknownCorpus,
)

_IMAGE, _LABEL, _SPLIT = "image", "label", "train"  # the usual names
_OPTIONS = ("split", "image", "label", "config", "revision")
_NO_IMAGE = "no image in the row"
_BATCH = 256  # rows in memory at once: ~30 MB of ImageNet photographs


class _Table(NamedTuple):
    rows: Any  # datasets.Dataset of the columns that are read
    image: str
    label: str | None
    names: tuple[str, ...] | None  # class names of integer labels


class HfCorpus:
    """The images of one split of a Hugging Face dataset."""

    scheme = "hf"
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        self.name, self.spec = name, f"hf:{path}"
        self._place, self._options = split_options("hf", path, _OPTIONS)
        self._folder = Path(self._place).expanduser()
        self._local = self._folder.is_dir()
        self._saved = _is_saved(self._folder)
        if not self._local and (self._place.count("/") > 1 or self._place.startswith((".", "/", "~"))):
            raise CorpusNotFound(
                f"corpus {name!r}: no such folder: {self._place}; expected one, or OWNER/NAME on the Hub"
            )
        for option in ("revision",) * self._local + ("config",) * self._saved:
            if option in self._options:
                raise UnknownCorpus(f"{self.spec}: {option}= chooses among what the Hub keeps; a folder has one of it")
        with _in_words(self.spec):
            _ = self._table if self._saved else self._found  # what is wrong with what is here is told at once

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is a folder that `save_to_disk` wrote; other folders of datasets are Parquet or images."""
        return _is_saved(path)

    @cached_property
    def _found(self) -> Any:
        """What `datasets` knows of the place before it downloads: a builder, or what was saved."""
        import datasets

        if self._saved:
            return datasets.load_from_disk(str(self._folder))
        place = str(self._folder) if self._local else self._place
        return datasets.load_dataset_builder(place, self._options.get("config"), revision=self._options.get("revision"))

    def identity(self) -> str:
        """Over the options, and the files of the folder, or the name, configuration and commit on the Hub."""
        chosen = [self._options.get(key) for key in ("split", "image", "label", "config")]
        if self._local:
            return fingerprint(self.scheme, chosen, *sorted(facts_below(self._folder, self._folder)))
        return fingerprint(self.scheme, chosen, self._place, self._found.config.name, self._found.hash)

    @cached_property
    def _table(self) -> _Table:
        import datasets

        with _in_words(self.spec):
            dataset = self._choose_split()
            image = _image_column(self.spec, dataset.features, self._options.get("image"))
            label = _label_column(self.spec, dataset.features, self._options.get("label"))
            rows = dataset.select_columns([column for column in (image, label) if column])
            rows = rows.cast_column(image, datasets.Image(decode=False))
        feature = dataset.features.get(label)
        names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
        return _Table(rows, image, label, names)

    def _choose_split(self) -> Any:
        """The rows of the split; downloads and prepares them, the first time."""
        import datasets

        chosen, found = self._options.get("split"), self._found
        if isinstance(found, datasets.DatasetBuilder):
            found.download_and_prepare()
            return found.as_dataset(chosen or _SPLIT)
        if isinstance(found, datasets.Dataset):
            if chosen is not None:
                raise UnknownCorpus(f"{self.spec}: a single split was saved there; leave split={chosen} out")
            return found
        if (chosen or _SPLIT) not in found:
            raise UnknownCorpus(f"{self.spec}: no split {chosen or _SPLIT!r}; expected one of {', '.join(found)}")
        return found[chosen or _SPLIT]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the label column, where it is a ClassLabel."""
        return self._table.names

    def parts(self) -> list[Part]:
        """Rows in order, PART_SIZE a part."""
        return split(range(len(self._table.rows)))

    def read(self, part: Part) -> Iterator[Item]:
        """The rows' image bytes and labels; a row without an image is an item with an error."""
        rows, image, label, names = self._table
        prefix = f"{self._options.get('split', _SPLIT)}/"
        for start in range(part.where[0], part.where[-1] + 1, _BATCH):
            stop = min(start + _BATCH, part.where[-1] + 1)
            with _in_words(self.spec):
                batch = rows[start:stop]
            labels = batch[label] if label else [None] * (stop - start)
            for row, value, target in zip(range(start, stop), batch[image], labels, strict=True):
                data, error = _content(value)
                yield Item(
                    uri=f"{prefix}{row:08d}",
                    data=data,
                    label=class_name(target, names),
                    error=error,
                    unreadable=error not in (None, _NO_IMAGE),
                )


def _is_saved(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json"))


def _content(value: dict[str, Any] | None) -> tuple[bytes | None, str | None]:
    """The bytes of an image feature that is not decoded, from the row or from the file that it names; or an error."""
    if value is not None and value["bytes"] is not None:
        return value["bytes"], None
    if value is None or not value["path"]:
        return None, _NO_IMAGE
    try:
        return Path(value["path"]).read_bytes(), None
    except OSError as error:
        return None, f"unreadable: {error.strerror or error}"


def _image_column(spec: str, features: Any, wanted: str | None) -> str:
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if wanted is None and (_IMAGE in images or len(images) == 1):
        return _IMAGE if _IMAGE in images else images[0]
    if wanted is None and len(images) > 1:
        raise CorpusAmbiguous(
            f"{spec}: several columns hold images ({', '.join(images)}); say which: image={images[0]}"
        )
    kind = features.get(wanted)
    if wanted is not None and (wanted in images or getattr(kind, "dtype", None) in ("binary", "large_binary")):
        return wanted
    named = f"no column of images {wanted!r}" if wanted else "no column of images"
    raise UnknownCorpus(f"{spec}: {named} among {', '.join(features)}; expected image=COLUMN, of type Image or binary")


def _label_column(spec: str, features: Any, wanted: str | None) -> str | None:
    if wanted is None:
        return _LABEL if _LABEL in features else None
    if wanted and wanted not in features:
        raise UnknownCorpus(f"{spec}: no column {wanted!r}; expected one of {', '.join(features)}")
    return wanted or None


@contextmanager
def _in_words(spec: str) -> Iterator[None]:
    """What `datasets` raises, as an error of ours."""
    try:
        yield
    except CurateError:
        raise
    except ImportError as error:
        raise CorpusUnreachable(f"{spec} needs the package datasets ({error}): pip install 'transferset[hf]'") from None
    except Exception as error:  # noqa: BLE001  # it reads a dozen formats from as many places
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise _kind(error)(f"{spec}: {reason}") from None


def _kind(error: Exception) -> type[CurateError]:
    match error:
        case FileNotFoundError():
            return CorpusNotFound
        case OSError():  # also what the libraries for HTTP raise
            return CorpusUnreachable
        case ValueError() if not isinstance(error, pa.ArrowException):  # a configuration or split that is not there
            return UnknownCorpus
    return CorpusDamaged
