"""From what the user typed to a corpus: `NAME=SPEC`, a SPEC, or a bare path whose kind is found by looking inside."""

import re
from pathlib import Path
from typing import Protocol

from curate.corpora.base import Corpus, cut_options
from curate.corpora.batches import BatchCorpus
from curate.corpora.builtin import BUILTINS, BuiltinCorpus
from curate.corpora.folder import FolderCorpus
from curate.corpora.hf import HfCorpus
from curate.corpora.idx import IdxCorpus
from curate.corpora.mat import MatCorpus
from curate.corpora.noise import NoiseCorpus
from curate.corpora.npy import NpyCorpus
from curate.corpora.parquet import ParquetCorpus
from curate.corpora.shards import ShardsCorpus
from curate.corpora.synthetic import SyntheticCorpus
from curate.corpora.torchvision_sets import TorchvisionCorpus
from curate.corpora.wds import WdsCorpus
from curate.errors import CorpusAmbiguous, CorpusEmpty, CorpusNotFound, UnknownCorpus
from shards.names import is_pattern, is_url


class Reader(Protocol):
    """A class of corpora."""

    def __call__(self, name: str, path: str) -> Corpus:
        """Open what lies at the path, under a name."""

    def fits(self, path: Path, /) -> bool:
        """Whether a bare path can be read so."""


CORPORA: dict[str, Reader] = {
    "folder": FolderCorpus,
    "wds": WdsCorpus,
    "parquet": ParquetCorpus,
    "shards": ShardsCorpus,
    "idx": IdxCorpus,
    "mat": MatCorpus,
    "npy": NpyCorpus,
    "batches": BatchCorpus,
    "torchvision": TorchvisionCorpus,
    "hf": HfCorpus,
    "noise": NoiseCorpus,
    "synthetic": SyntheticCorpus,
    "builtin": BuiltinCorpus,
}

# The kind of a remote file is known by its name alone; the longest ending first.
ENDINGS = {"-ubyte.gz": "idx", "-ubyte": "idx", ".tar": "wds", ".parquet": "parquet"}
ENDINGS |= dict.fromkeys((".npy", ".npz"), "npy") | {".mat": "mat"}

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+]+):(.*)", re.DOTALL)  # two letters at least: C:\ is a drive


def open_corpus(option: str) -> Corpus:
    """Open the corpus that `NAME=SPEC` or a bare SPEC describes (NAME is then the stem of the path).

    SPEC is a scheme of `CORPORA` and what it reads, such as `folder:PATH`, `wds:PATTERN`, `idx:PATH`, `mat:PATH`,
    `npy:PATH?labels=KEY`, `batches:PATH`, `shards:DIR`, `noise:FAMILY?n=100`, or a URL, or a path. Raises
    UnknownCorpus for a name or scheme that is not allowed, CorpusNotFound, CorpusEmpty, CorpusAmbiguous where two kinds
    fit a path, and CorpusDamaged where a container is broken.
    """
    name, spec = _split_option(option)
    match = _SCHEME.fullmatch(spec)
    if is_url(spec):
        scheme, path = _by_ending(spec), spec
    elif match is None:
        scheme, path = _look_inside(spec), spec
    else:
        scheme, path = match[1], match[2]
        if scheme not in CORPORA:
            raise UnknownCorpus(f"unknown corpus scheme {scheme!r} in {option!r}; known: {_known()}, or a path")
    if not path:
        raise UnknownCorpus(f"nothing after {scheme}: in {option!r}; expected {scheme}:PATH")
    return CORPORA[scheme](name or _stem(path), path)


def _split_option(option: str) -> tuple[str | None, str]:
    name, equals, spec = option.partition("=")
    if not equals or re.search(r"[/\\:?]", name):  # an '=' inside a path or a query names nothing
        name, spec = "", option
    elif not _NAME.fullmatch(name):
        raise UnknownCorpus(f"corpus name {name!r} in {option!r}; expected only letters, digits, '_', '.' and '-'")
    if not spec:
        raise UnknownCorpus(f"empty corpus in {option!r}; expected NAME=SPEC with SPEC one of {_known()}, or a path")
    return name or None, spec


def _by_ending(url: str) -> str:
    """The scheme of the reader for files that are named like a URL."""
    name = cut_options(url)[0].partition("?")[0].lower()
    for ending, scheme in ENDINGS.items():
        if name.endswith(ending):
            return scheme
    known = ", ".join(f"*{ending}" for ending in ENDINGS)
    raise UnknownCorpus(f"the name of {url} does not say what it is; expected {known}, or a kind before it: wds:URL")


def _look_inside(text: str) -> str:
    """The scheme of the one reader that can use what lies at a path."""
    bare, _ = cut_options(text)
    path = Path(bare).expanduser()
    if not path.exists() and not is_pattern(bare):
        hint = f"did you mean builtin:{text}?" if text in BUILTINS else f"expected a path, or one of {_known()}"
        raise CorpusNotFound(f"no such file or folder: {text}; {hint}")
    fitting = [scheme for scheme, reader in CORPORA.items() if reader.fits(path)]
    if "shards" in fitting:  # whatever else our own folder holds belongs to it: its manifests are Parquet files
        return "shards"
    if len(fitting) > 1:
        spellings = " or ".join(f"{scheme}:{text}" for scheme in fitting)
        raise CorpusAmbiguous(f"more than one kind of corpus lies in {text}; say which: {spellings}")
    if not fitting:
        raise CorpusEmpty(
            f"nothing usable in {text}: no image file, no .tar, no .parquet, no IDX, .mat, .npy or batch file; "
            f"expected one of {_known()}{_below(path, text)}"
        )
    return fitting[0]


def _below(path: Path, text: str) -> str:
    """A word on folders one further down that would do, as `data` of a set of the Hugging Face Hub."""
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []
    fit = [entry.name for entry in folders if any(reader.fits(entry) for reader in CORPORA.values())]
    return "; or pass " + " or ".join(f"{text.rstrip('/')}/{name}" for name in fit[:3]) if fit else ""


def _stem(path: str) -> str:
    """A corpus name from a path: its stem, with every character that a name may not have as '-'."""
    base = Path(path.partition("?")[0]).expanduser()
    stem = (base.resolve() if base.name in ("", "..") else base).stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "corpus"


def _known() -> str:
    return ", ".join(f"{scheme}:" for scheme in CORPORA)
