"""Learn from them: networks, generators, losses, distillation methods, and the one training loop."""

from typing import TYPE_CHECKING

from manifests._lazy import lazy

if TYPE_CHECKING:
    from distill.errors import DistillError as DistillError
    from distill.methods import METHODS as METHODS
    from distill.models import MODELS as MODELS
    from distill.models.teachers import Classifier as Classifier
    from distill.models.teachers import load_classifier as load_classifier
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "errors": ("DistillError",),
            "methods": ("METHODS",),
            "models": ("MODELS",),
            "models.teachers": ("Classifier", "load_classifier"),
        },
    )
