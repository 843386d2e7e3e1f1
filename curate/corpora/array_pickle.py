"""Pickles of arrays, lists, texts and numbers, and of nothing else.

A pickle is a program: it may import and call anything. Here it may name only what arrays are pickled with, and even
these names do not lead to NumPy, whose own `dtype.__setstate__` lets a pickle declare bytes to be pointers: they lead
to the stand-ins below, which keep what they are told and build plain arrays of numbers from it.
"""

import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"[biuf][1248]")  # NumPy's type codes: kind and bytes


class Refused(Exception):
    """The pickle asks for what no array needs."""


class _StandIn:
    """What a pickle may call in place of something of NumPy's."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("it sets the state of what has none")


class _Dtype(_StandIn):
    """For `numpy.dtype(code, align, copy)`, its state and the types that are told by code alone."""

    __slots__ = ("code", "order")

    def __init__(self, code: str | bytes, *_flags: object) -> None:
        self.code, self.order = _text(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1]).replace("|", "=")

    def of(self, data: bytes | bytearray) -> NDArray[Any]:
        """The bytes as numbers of this type."""
        if not _NUMBER.fullmatch(self.code) or self.order not in ("<", ">", "="):
            raise Refused(f"it holds an array of type {self.order}{self.code}, not of numbers")
        return np.frombuffer(data, np.dtype(self.order + self.code))


class _Array(_StandIn):
    """For `numpy.ndarray`, and for the function that makes an empty one to be filled by its state."""

    __slots__ = ("values",)

    def __init__(self, *_of_the_empty_one: object) -> None:
        self.values: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        self.values = _shaped(data, dtype, shape, "F" if fortran else "C")


class _Buffer(_StandIn):
    """For `numpy._core.numeric._frombuffer`, which makes an array in the fifth version of the protocol."""

    __slots__ = ()

    def __new__(cls, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str, *_: object) -> Any:
        array = _Array()
        array.values = _shaped(data, dtype, shape, order)
        return array


class _Scalar(_StandIn):
    """For `numpy.core.multiarray.scalar`."""

    __slots__ = ()

    def __new__(cls, dtype: _Dtype, data: bytes) -> Any:
        return dtype.of(_octets(data))[0].item()


class _Encode(_StandIn):
    """For `_codecs.encode(text, "latin1")`: how Python 3 pickles bytes for Python 2."""

    __slots__ = ()

    def __new__(cls, text: str, _encoding: str = "latin1") -> Any:
        return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")  # NumPy 1 and 2
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _Buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise Refused(f"it asks for {f'{module}.{name}'!r}")
        return _ALLOWED[module, name]


def load(stream: BinaryIO) -> Any:
    """What a pickle holds, arrays as NumPy arrays and the bytes of Python 2 as bytes (keys of dictionaries as text).

    Raises Refused for a pickle of anything else, and on damaged bytes whatever comes.
    """
    return _plain(_Unpickler(stream, encoding="bytes").load())


def _plain(value: Any) -> Any:
    """The arrays in place of their stand-ins: in the value, or in a dictionary that it is."""
    if isinstance(value, dict):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, _Array):
        return value.values
    return value


def _shaped(data: object, dtype: object, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise Refused("it holds an array of something else than numbers")
    values = dtype.of(_octets(data))
    return values.reshape(shape, order="F" if order == "F" else "C")


def _octets(data: object) -> bytes | bytearray:
    if isinstance(data, str):  # protocol 0 to 2 of Python 2, read by another encoding
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise Refused("it holds an array of objects")
    return data


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise Refused(f"it has a {type(value).__name__} where a name should be")
    return value
