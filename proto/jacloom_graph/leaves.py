"""Whether the leaves that a derivative is about exist and have one."""

from __future__ import annotations

from collections.abc import Sequence

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import INEXACT
from jacloom_graph.types import Type


def choose(indices: Sequence[int], types: Sequence[Type], field: str, *, differentiated: bool) -> tuple[Type, ...]:
    """Returns the types of chosen leaves.

    Args:
        indices: Which leaves.
        types: Types of all input leaves, or of all output leaves.
        field: The request's field that has the indices, for errors.
        differentiated: Whether the leaves need to have derivatives.

    Raises:
        Fault: INVALID_OPTION for a leaf that is not there, is named twice, or has no derivative.
    """
    for position, index in enumerate(indices):
        where = f"{field}[{position}]"
        if not 0 <= index < len(types):
            there = f"there are {len(types)} leaves, numbered from 0" if types else "there are no leaves"
            raise Fault(Reason.INVALID_OPTION, f"{where} is {index}, but {there}", field=where)
        if differentiated and types[index].dtype not in INEXACT:
            text = f"leaf {index} is {types[index]}, and only floating and complex leaves have derivatives; leave it out"
            raise Fault(Reason.INVALID_OPTION, text, field=where)
    seen: set[int] = set()
    for position, index in enumerate(indices):
        if index in seen:
            raise Fault(Reason.INVALID_OPTION, f"{field} names leaf {index} twice; name each once", field=f"{field}[{position}]")
        seen.add(index)
    return tuple(types[index] for index in indices)


def require_scalar(outputs: Sequence[Type], what: str) -> None:
    """Checks that what is differentiated is one scalar.

    Args:
        outputs: Types of the differentiated outputs.
        what: The derivative, for errors, such as ``"a gradient"``.

    Raises:
        Fault: INVALID_OPTION.
    """
    if len(outputs) != 1 or outputs[0].shape != ():
        got = ", ".join(map(str, outputs)) or "none"
        raise Fault(Reason.INVALID_OPTION, f"{what} is that of one scalar output, got {got}; name a scalar in `outputs`", field="outputs")
