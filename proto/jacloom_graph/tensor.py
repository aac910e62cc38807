"""Arrays and their wire form: dtype name, shape, and elements as little-endian bytes in C order.

Written for little-endian hosts, which all that JAX runs on are; big-endian arrays are converted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jacloom_api.v1 import graph_pb2
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.limits import DEFAULT, Limits
from jacloom_graph.types import Type

Buffer = bytes | bytearray | memoryview
"""Bytes in memory that can be read without copying them."""

_NUMPY: tuple[str, ...] = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)

DTYPES: Final[Mapping[str, np.dtype]] = MappingProxyType({name: np.dtype(name) for name in _NUMPY} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)})
"""Element types by name, in native byte order. Key types are not among them: see ``KEY_DATA``."""

INEXACT: Final = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})
"""The dtypes that have derivatives."""

KEY_DATA: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType({"threefry2x32": (2,), "rbg": (4,), "unsafe_rbg": (4,)})
"""For each implementation of random keys, the shape of one key's raw data (uint32)."""

_KEY: Final = re.compile(r"key<(\w{1,32})>", re.ASCII)
_ADDRESSABLE: Final = (1 << 63) - 1


def key_implementation(dtype: str) -> str | None:
    """Returns the implementation that a key dtype names, ``"threefry2x32"`` for ``"key<threefry2x32>"``; None for any other dtype."""
    found = _KEY.fullmatch(dtype)
    return found[1] if found else None


def storage(type_: Type) -> tuple[np.dtype, tuple[int, ...]]:
    """Returns dtype and shape of the NumPy array that holds a value of a type: its own, or those of the raw data of keys.

    Raises:
        KeyError: The dtype is not known.
    """
    implementation = key_implementation(type_.dtype)
    if implementation is not None:
        return DTYPES["uint32"], (*type_.shape, *KEY_DATA[implementation])
    return DTYPES[type_.dtype], type_.shape


@lru_cache(maxsize=256)
def itemsize(dtype: str) -> int:
    """Returns the bytes of one element on the wire; for ``"key<IMPL>"`` those of one key.

    Raises:
        KeyError: The dtype is not known.
    """
    stored, extra = storage(Type(dtype))
    return stored.itemsize * math.prod(extra)


def nbytes(type_: Type) -> int:
    """Returns the bytes of a value of a type, as a Python integer that cannot overflow.

    Raises:
        KeyError: The dtype is not known.
    """
    return itemsize(type_.dtype) * type_.size


def dtype_name(dtype: np.dtype) -> str:
    """Returns the name of a NumPy dtype, whatever its byte order.

    Raises:
        Fault: ARGUMENT_MISMATCH if graphs have no such dtype.
    """
    if dtype.name in DTYPES:
        return dtype.name
    raise Fault(Reason.ARGUMENT_MISMATCH, f"arrays must have one of the dtypes {', '.join(sorted(DTYPES))}; got {dtype}")


def promote(*dtypes: str) -> str:
    """Returns the inexact dtype that holds values of some others: ``np.result_type``, and float32 where that has none (float16 with bfloat16)."""
    names = set(dtypes)
    if {"bfloat16", "float16"} <= names:
        names = names - {"bfloat16", "float16"} | {"float32"}
    return np.result_type(*(DTYPES[name] for name in names)).name


def check_type(
    type_: Type, limits: Limits = DEFAULT, *, reason: Reason = Reason.ARGUMENT_MISMATCH, field: str = "", place: Place | None = None
) -> None:
    """Checks that a type is one that arrays can have.

    Raises:
        Fault: ``reason`` for an unknown dtype or a negative extent, TOO_LARGE for what no array may be.
    """
    try:
        width = itemsize(type_.dtype)
    except KeyError:
        keys = ", ".join(f"key<{name}>" for name in KEY_DATA)
        known = f"{', '.join(sorted(DTYPES))}, {keys}"
        raise Fault(reason, f"unknown dtype {type_.dtype[:64]!r}; known are {known}", field=field, place=place) from None
    if len(type_.shape) > limits.rank:
        raise Fault(Reason.TOO_LARGE, f"an array may have {limits.rank} axes, got {len(type_.shape)}", field=field, place=place)
    for axis, extent in enumerate(type_.shape):
        if extent < 0:
            raise Fault(reason, f"extents must not be negative, got {extent} at axis {axis}", field=field, place=place)
        if extent > limits.extent:
            raise Fault(Reason.TOO_LARGE, f"an axis may have extent {limits.extent:,}, got {extent:,} at axis {axis}", field=field, place=place)
    # Strides are computed from the non-zero extents even where the array has no elements, and both NumPy and XLA need them to fit 63 bits.
    if width * math.prod(extent or 1 for extent in type_.shape) > _ADDRESSABLE:
        raise Fault(Reason.TOO_LARGE, f"{type_} is larger than any memory", field=field, place=place)


def type_of(message: graph_pb2.Tensor, field: str = "", limits: Limits = DEFAULT) -> Type:
    """Returns the type that a tensor message declares, whether or not its elements are there.

    Raises:
        Fault: ARGUMENT_MISMATCH or TOO_LARGE if arrays cannot have that type.
    """
    type_ = Type(message.dtype, tuple(message.shape))
    check_type(type_, limits, field=field)
    return type_


def raw(array: NDArray[np.generic]) -> memoryview:
    """Returns the elements as the wire has them: little-endian, C order. A view where the array already lies so in memory, else a copy."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    # Made contiguous first: reshaping alone keeps the strides of ``x[::2]``. Seen as bytes by NumPy, because buffers of ml_dtypes have no format
    # that memoryview understands.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def to_message(array: ArrayLike, dtype: str | None = None) -> graph_pb2.Tensor:
    """Returns an array as a message.

    Args:
        array: Any shape, any dtype in ``DTYPES``, any byte order and strides. For keys their raw data, uint32.
        dtype: Name to declare, such as ``"key<threefry2x32>"``. Default: the array's own.

    Raises:
        Fault: ARGUMENT_MISMATCH if the array's dtype is unknown, or is not that which ``dtype`` is stored in.
    """
    values = np.asarray(array)
    name = dtype_name(values.dtype)
    shape = values.shape
    if dtype is not None and dtype != name:
        shape = _key_shape(values, dtype)
    return graph_pb2.Tensor(dtype=dtype or name, shape=shape, data=bytes(raw(values)))


def from_bytes(type_: Type, data: Buffer, field: str = "") -> NDArray[np.generic]:
    """Returns the array of a known type as a read-only view of its bytes; for keys their raw data.

    Raises:
        Fault: ARGUMENT_MISMATCH if the number of bytes is not exactly that of the type, or a boolean is neither 0 nor 1.
        KeyError: The dtype is not known.
    """
    expected, got = nbytes(type_), memoryview(data).nbytes
    if got != expected:
        message = f"{type_} has {expected:,} bytes, got {got:,}; elements are little-endian, in C order, without padding"
        raise Fault(Reason.ARGUMENT_MISMATCH, message, field=field)
    dtype, shape = storage(type_)
    # Read through a read-only view, so that nobody writes into bytes that others share.
    view = memoryview(data).cast("B").toreadonly()
    if type_.dtype == "bool" and expected and np.frombuffer(view, np.uint8).max() > 1:
        raise Fault(Reason.ARGUMENT_MISMATCH, "a boolean is one byte, 0 or 1; got another value", field=field)
    return np.frombuffer(view, np.uint8).view(dtype).reshape(shape)


def _key_shape(data: NDArray[np.generic], dtype: str) -> tuple[int, ...]:
    """Returns the shape of the keys whose raw data an array is."""
    extra = KEY_DATA.get(key_implementation(dtype) or "")
    if extra is None:
        raise Fault(Reason.ARGUMENT_MISMATCH, f"an array of dtype {data.dtype} cannot be sent as {dtype}; convert it first")
    at = data.ndim - len(extra)
    if data.dtype != DTYPES["uint32"] or at < 0 or data.shape[at:] != extra:
        raise Fault(Reason.ARGUMENT_MISMATCH, f"{dtype} is stored as uint32 with last axes {extra}, got {data.dtype} of shape {data.shape}")
    return data.shape[:at]
