"""Distillation methods, one a file; `METHODS` is the whole list."""

from distill.methods.abm import ABM
from distill.methods.base import Method
from distill.methods.dfkd_mem import DFKDMem
from distill.methods.kd import KD
from distill.methods.mad import MAD
from distill.methods.mosaickd import MosaicKD
from distill.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "kd": KD,
    "mosaickd": MosaicKD,
    "abm": ABM,
    "dfkd-mem": DFKDMem,
    "mad": MAD,
    "supervised": Supervised,
}

__all__ = ["METHODS", "Method"]
