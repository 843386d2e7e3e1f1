"""Distillation methods, one a file; `METHODS` is the whole list."""

from distill.methods.base import Method
from distill.methods.kd import KD
from distill.methods.mosaickd import MosaicKD
from distill.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "kd": KD,
    "mosaickd": MosaicKD,
    "supervised": Supervised,
}

__all__ = ["METHODS", "Method"]
