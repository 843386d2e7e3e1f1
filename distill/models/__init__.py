"""Architectures, one family a file; `MODELS` in zoo.py is the whole list."""

from distill.models.zoo import MODELS, ModelSpec, Network, build, spec

__all__ = ["MODELS", "ModelSpec", "Network", "build", "spec"]
