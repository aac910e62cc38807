"""Messages put together from pieces, against protobuf's own encoder."""

from __future__ import annotations

import pytest

from jacloom_api.v1 import blob_service_pb2, derivative_service_pb2
from jacloom_graph.framing import field, only_bytes

DATA = blob_service_pb2.PutRequest.DATA_FIELD_NUMBER


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, (1 << 21) - 1, 1 << 21])
def test_a_field_of_bytes_is_what_protobuf_writes(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    ours = b"".join(field(DATA, memoryview(content)[:size]))
    # protobuf leaves out what is empty; a reader takes both for the same.
    assert ours == blob_service_pb2.PutRequest(data=content[:size]).SerializeToString() or (size, ours) == (0, b"\x12\x00")
    assert blob_service_pb2.PutRequest.FromString(ours).data == content[:size]


def test_messages_nest_and_elements_of_any_format_count_in_bytes() -> None:
    elements = memoryview(bytes(24)).cast("d")
    place = derivative_service_pb2.Block(array=3, row=5).SerializeToString()
    pieces = field(derivative_service_pb2.CallReply.BLOCKS_FIELD_NUMBER, place, *field(derivative_service_pb2.Block.DATA_FIELD_NUMBER, elements))
    expected = derivative_service_pb2.CallReply(blocks=[derivative_service_pb2.Block(array=3, row=5, data=bytes(24))])
    assert b"".join(pieces) == expected.SerializeToString()


def test_a_field_number_above_fifteen_takes_two_bytes() -> None:
    assert b"".join(field(16, b"x")) == b"\x82\x01\x01x"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 1 << 20])
def test_a_message_of_bytes_alone_is_read_without_a_copy(size: int) -> None:
    data = bytes(size)
    message = blob_service_pb2.PutRequest(data=data).SerializeToString()
    found = only_bytes(2, message)
    # An empty field is not written at all.
    assert found == data if size else found is None
    assert only_bytes(2, message + b"\x0a\x00") is None
    assert only_bytes(2, message[:-1]) is None
    assert only_bytes(1, message) is None


def test_a_length_that_does_not_end_is_no_length() -> None:
    assert only_bytes(2, b"\x12" + b"\xff" * 20) is None
    assert only_bytes(2, b"\x12\xff") is None
