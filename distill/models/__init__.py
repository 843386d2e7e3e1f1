"""Architectures, one family a file; `MODELS` in zoo.py is the whole list."""

from distill.models.modelspec import ModelSpec
from distill.models.zoo import MODELS, build, spec

__all__ = ["MODELS", "ModelSpec", "build", "spec"]
