"""Arrays and their messages: every dtype, byte order, layout and size, and bytes that do not fit."""

from __future__ import annotations

import hashlib
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from jacloom_api.v1 import graph_pb2
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.limits import Limits
from jacloom_graph.tensor import (
    DTYPES,
    INEXACT,
    KEY_DATA,
    check_type,
    dtype_name,
    from_bytes,
    itemsize,
    nbytes,
    promote,
    raw,
    storage,
    to_message,
    type_of,
)
from jacloom_graph.types import Type

SHAPES = [(), (0,), (1,), (5,), (2, 3), (3, 0, 2), (2, 1, 3, 1)]


def sample(dtype: np.dtype, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Returns an array with every bit pattern that matters: random bytes, NaNs among them."""
    count = math.prod(shape)
    random = np.random.default_rng(0)
    if dtype == np.bool_:
        return random.integers(0, 2, shape).astype(bool)
    return random.integers(0, 256, count * dtype.itemsize, dtype=np.uint8).view(dtype).reshape(shape)


def read(message: graph_pb2.Tensor, field: str = "") -> NDArray[np.generic]:
    return from_bytes(type_of(message, field), message.data, field)


def bits(array: NDArray[np.generic]) -> bytes:
    return np.asarray(array, order="C").tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
def test_an_array_comes_back_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    array = sample(DTYPES[name], shape)
    message = graph_pb2.Tensor.FromString(to_message(array).SerializeToString())
    assert (message.dtype, tuple(message.shape), len(message.data)) == (name, shape, math.prod(shape) * itemsize(name))
    back = read(message)
    assert (back.dtype, back.shape, bits(back)) == (array.dtype, array.shape, bits(array))
    assert type_of(message) == Type(name, shape)


def test_the_bytes_are_little_endian_and_in_c_order() -> None:
    assert to_message(np.array([[1, 2], [3, 4], [5, 6]], np.int16, order="F")).data == bytes([1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0])
    assert to_message(np.array([1.0, -2.0], ">f8")).data.hex() == "000000000000f03f00000000000000c0"
    assert to_message(np.array(1, ml_dtypes.bfloat16)).data.hex() == "803f"
    assert to_message(np.array([True, False])).data == b"\x01\x00"


@pytest.mark.parametrize(
    "array",
    [np.arange(7.0)[::2], np.arange(7.0)[::-1], np.arange(24.0).reshape(4, 6)[:, ::2], np.broadcast_to(np.float32(2), (3, 2)), np.arange(5)[1:1:2]],
    ids=["strided", "reversed", "every other column", "broadcast", "empty slice"],
)
def test_the_bytes_of_a_view_are_those_of_its_elements(array: np.ndarray) -> None:
    assert bytes(raw(array)) == array.tobytes()
    np.testing.assert_array_equal(read(to_message(array)), array)


@pytest.mark.parametrize(
    "array", [np.arange(12.0).reshape(3, 4)[:, ::-2], np.arange(6, dtype=">i4").reshape(2, 3).T, np.float32(2), 7, 2.5, 1j, True, [[1, 2]]]
)
def test_any_layout_byte_order_and_scalar(array: object) -> None:
    back = read(to_message(array))  # type: ignore[arg-type]
    expected = np.asarray(array)
    assert back.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, expected)


def test_what_comes_back_is_a_read_only_view() -> None:
    buffer = bytearray(np.arange(3).tobytes())
    back = from_bytes(Type("int64", (3,)), buffer)
    assert np.shares_memory(back, np.frombuffer(buffer, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1
    assert not from_bytes(Type("int64", (3,)), bytes(buffer)).flags.writeable


def test_raw_bytes_are_a_view_where_they_can_be() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert np.shares_memory(np.asarray(raw(array)), array)
    assert bytes(raw(array.T)) == array.T.tobytes()
    assert hashlib.sha256(raw(np.zeros((0, 2), ml_dtypes.bfloat16))).digest() == hashlib.sha256(b"").digest()


@pytest.mark.parametrize("implementation", KEY_DATA)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_keys_travel_as_raw_data(implementation: str, shape: tuple[int, ...]) -> None:
    name = f"key<{implementation}>"
    data = sample(np.dtype(np.uint32), shape + KEY_DATA[implementation])
    message = to_message(data, name)
    assert (message.dtype, tuple(message.shape)) == (name, shape)
    back = read(message)
    assert (back.dtype, back.shape, bits(back)) == (data.dtype, data.shape, bits(data))
    assert storage(Type(name, shape)) == (data.dtype, data.shape)
    assert nbytes(Type(name, shape)) == data.nbytes


@pytest.mark.parametrize(
    ("data", "dtype", "text"),
    [
        (np.zeros(3, np.uint32), "key<threefry2x32>", r"is stored as uint32 with last axes \(2,\), got uint32 of shape \(3,\)"),
        (np.zeros(2, np.int32), "key<threefry2x32>", "is stored as uint32"),
        (np.zeros((), np.uint32), "key<rbg>", "is stored as uint32"),
        (np.zeros(2, np.uint32), "key<mine>", "cannot be sent as key<mine>"),
        (np.zeros(2), "float32", "an array of dtype float64 cannot be sent as float32; convert it first"),
        (np.array(["a"]), None, "arrays must have one of the dtypes bfloat16, bool"),
        (np.array([None]), None, "got object"),
        (np.zeros(2, np.longdouble), None, "arrays must have one of the dtypes"),
        (np.zeros(2, "datetime64[s]"), None, "arrays must have one of the dtypes"),
        (np.zeros(2, [("x", np.float64)]), None, "arrays must have one of the dtypes"),
    ],
)
def test_arrays_without_a_wire_form_are_refused(data: NDArray[np.generic], dtype: str | None, text: str) -> None:
    with pytest.raises(Fault, match=text) as caught:
        to_message(data, dtype)
    assert caught.value.reason is Reason.ARGUMENT_MISMATCH


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (graph_pb2.Tensor(dtype="float64", shape=[2], data=b"\0" * 15), r"float64\[2\] has 16 bytes, got 15"),
        (graph_pb2.Tensor(dtype="float64", shape=[2], data=b"\0" * 17), r"float64\[2\] has 16 bytes, got 17"),
        (graph_pb2.Tensor(dtype="float64"), r"float64\[\] has 8 bytes, got 0"),
        (graph_pb2.Tensor(dtype="float64", shape=[0], data=b"\0" * 8), r"float64\[0\] has 0 bytes, got 8"),
        (graph_pb2.Tensor(dtype="key<threefry2x32>", shape=[2], data=b"\0" * 8), r"has 16 bytes, got 8"),
        (graph_pb2.Tensor(dtype="bool", shape=[3], data=b"\0\1\2"), "a boolean is one byte, 0 or 1"),
        (graph_pb2.Tensor(dtype="float", data=b"\0" * 8), "unknown dtype 'float'; known are bfloat16"),
        (graph_pb2.Tensor(dtype="<f8", data=b"\0" * 8), "unknown dtype"),
        (graph_pb2.Tensor(dtype="key<>", data=b""), "unknown dtype"),
        (graph_pb2.Tensor(dtype="key<none>", data=b""), "unknown dtype"),
        (graph_pb2.Tensor(data=b""), "unknown dtype ''"),
        (graph_pb2.Tensor(dtype="int8", shape=[2, -1], data=b""), "extents must not be negative, got -1 at axis 1"),
    ],
)
def test_messages_that_do_not_fit_are_refused(message: graph_pb2.Tensor, text: str) -> None:
    with pytest.raises(Fault, match=text) as caught:
        read(message, "args[2]")
    assert caught.value.reason is Reason.ARGUMENT_MISMATCH
    assert caught.value.field.startswith("args[2]")


@pytest.mark.parametrize("shape", [[1] * 17, [2**31], [0, 2**31], [2**31 - 1] * 3, [0, 2**31 - 1, 2**31 - 1, 2]], ids=str)
def test_what_no_array_may_be_is_too_large(shape: list[int]) -> None:
    with pytest.raises(Fault) as caught:
        read(graph_pb2.Tensor(dtype="float64", shape=shape), field="args[0]")
    assert (caught.value.reason, caught.value.field) == (Reason.TOO_LARGE, "args[0]")


def test_limits_can_be_set() -> None:
    check_type(Type("int8", (9, 0, 1)), Limits(extent=9, rank=3))
    with pytest.raises(Fault, match="an axis may have extent 9, got 10 at axis 1"):
        check_type(Type("int8", (0, 10)), Limits(extent=9))
    with pytest.raises(Fault, match="an array may have 3 axes, got 4"):
        check_type(Type("int8", (1, 1, 1, 1)), Limits(rank=3))


def test_a_tensor_without_elements_declares_its_type() -> None:
    message = graph_pb2.Tensor(dtype="complex64", shape=[2, 3])
    assert type_of(message) == Type("complex64", (2, 3))


def test_dtype_names() -> None:
    assert dtype_name(np.dtype(">f4")) == "float32"
    assert dtype_name(np.dtype(ml_dtypes.bfloat16)) == "bfloat16"
    assert {name for name, dtype in DTYPES.items() if dtype.kind in "fc" or name == "bfloat16"} == INEXACT
    assert (itemsize("bool"), itemsize("complex128"), itemsize("key<rbg>")) == (1, 16, 16)


@pytest.mark.parametrize(
    ("dtypes", "holds_all"),
    [
        (["float32", "float64"], "float64"),
        (["float64", "complex64"], "complex128"),
        (["float16", "bfloat16"], "float32"),
        (["bfloat16"], "bfloat16"),
        (["bfloat16", "float32"], "float32"),
        (["float16", "bfloat16", "float64"], "float64"),
    ],
    ids=str,
)
def test_promotion(dtypes: list[str], holds_all: str) -> None:
    assert promote(*dtypes) == promote(*reversed(dtypes)) == holds_all
    with jax.enable_x64(True):
        assert jnp.result_type(*dtypes) == DTYPES[holds_all], "what a worker computes in"
