"""Messages with large byte fields, put together from pieces.

protobuf's own encoder grows its buffer as it writes: 3.6 ms for a message with 1 MiB of elements, where joining pieces takes 0.03 ms. A serialized
message is its fields one after the other, in any order, so the small ones can come from protobuf and the large ones from here.
"""

from __future__ import annotations

from typing import Final

from jacloom_graph.tensor import Buffer

_LENGTH_DELIMITED: Final = 2
"""Wire type of bytes, strings and messages (https://protobuf.dev/programming-guides/encoding)."""

Pieces = list[Buffer]
"""Consecutive parts of a serialized message; joined only where it leaves the process, so that elements are copied once."""


def field(number: int, *content: Buffer) -> Pieces:
    """Returns a field that holds bytes, or a message, whose serialized content is given in pieces.

    Args:
        number: The field's number in its message.
        content: The bytes, or the pieces of the message.
    """
    length = sum(memoryview(piece).nbytes for piece in content)
    return [varint(number << 3 | _LENGTH_DELIMITED) + varint(length), *content]


def only_bytes(number: int, message: bytes) -> memoryview | None:
    """Returns the content of a message that is one field of bytes and nothing else, without copying it; None for any other message.

    Args:
        number: The field's number, at most 15.
        message: The serialized message.
    """
    if not message or message[0] != number << 3 | _LENGTH_DELIMITED:
        return None
    length, at = 0, 1
    for shift in range(0, 35, 7):
        if at == len(message):
            return None
        byte = message[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return memoryview(message)[at:] if length == len(message) - at else None
    return None


def delimited(number: int, content: bytes) -> bytes:
    """Returns a field that holds bytes, or a message, whose serialized content is small enough to be copied.

    Args:
        number: The field's number in its message, at most 15.
        content: The bytes.
    """
    length = len(content)
    head = bytes((number << 3 | _LENGTH_DELIMITED, length)) if length < 0x80 else varint(number << 3 | _LENGTH_DELIMITED) + varint(length)
    return head + content


def varint(number: int) -> bytes:
    """Returns a number as protobuf writes it: seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
