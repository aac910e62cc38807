"""Names of points: a worker that keeps something of a point finds it again by its name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

from jacloom_server.call import Argument, Call

_SHORT_BYTES: Final = 1 << 20
"""Up to here, hashing takes less than the loop notices."""


async def name(function: str, call: Call) -> str:
    """Returns the name of a function at the point of a call, 64 hex digits; empty where nothing about it is to be kept.

    The same only if function, arguments and weights are the same, whoever asks. Of an argument in a blob the blob's name stands for the content,
    which never changes, and which only those can name who know it or have sent it.

    Args:
        function: The function's id.
        call: With as many arguments as the function has input leaves.
    """
    if not call.linearize:
        return ""
    arguments = (*call.args, *call.weights)
    if sum(len(argument.data or b"") for argument in arguments) < _SHORT_BYTES:
        return _name(function, arguments)
    return await asyncio.to_thread(_name, function, arguments)


def _name(function: str, arguments: Sequence[Argument]) -> str:
    found = hashlib.sha256(function.encode())
    for argument in arguments:
        content = f"{argument.blob} {argument.offset}" if argument.blob else hashlib.sha256(argument.data or b"").hexdigest()
        found.update(f"\n{argument.type} {content}".encode())
    return found.hexdigest()
