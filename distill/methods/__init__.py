"""Distillation methods, one a file; `METHODS` is the whole list."""

from distill.methods.abm import ABM
from distill.methods.base import Method
from distill.methods.dfkd_mem import DFKDMem
from distill.methods.dfnd import DFND
from distill.methods.fitnet import FitNet
from distill.methods.kd import KD
from distill.methods.kd3 import KD3
from distill.methods.mad import MAD
from distill.methods.mosaickd import MosaicKD
from distill.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "kd": KD,
    "fitnet": FitNet,
    "kd3": KD3,
    "dfnd": DFND,
    "mosaickd": MosaicKD,
    "abm": ABM,
    "dfkd-mem": DFKDMem,
    "mad": MAD,
    "supervised": Supervised,
}

__all__ = ["METHODS", "Method"]
