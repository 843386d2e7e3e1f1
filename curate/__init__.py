"""Which samples? Ingest corpora, score them with a teacher, select the ones on which to teach."""

from typing import TYPE_CHECKING

from manifests._lazy import lazy

if TYPE_CHECKING:
    from curate.choice import Choice as Choice
    from curate.corpora import CORPORA as CORPORA
    from curate.corpora import open_corpus as open_corpus
    from curate.errors import CurateError as CurateError
    from curate.protocols import Teacher as Teacher
    from curate.protocols import TeacherView as TeacherView
    from curate.run import Curated as Curated
    from curate.run import Sources as Sources
    from curate.run import curate as curate
    from curate.select import SELECTORS as SELECTORS
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "choice": ("Choice",),
            "corpora": ("CORPORA", "open_corpus"),
            "errors": ("CurateError",),
            "protocols": ("Teacher", "TeacherView"),
            "run": ("Curated", "Sources", "curate"),
            "select": ("SELECTORS",),
        },
    )
