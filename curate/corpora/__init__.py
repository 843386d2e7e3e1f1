"""Readers of foreign image corpora, one reader a file; the table of all of them is CORPORA in `open.py`."""

from curate.corpora.base import PART_SIZE, Corpus, Item, Part
from curate.corpora.builtin import STARTER_CORPORA
from curate.corpora.open import CORPORA, open_corpus

__all__ = ["CORPORA", "PART_SIZE", "STARTER_CORPORA", "Corpus", "Item", "Part", "open_corpus"]
