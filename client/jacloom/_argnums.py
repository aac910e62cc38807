"""Which positional arguments are differentiated."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from jacloom._errors import ArgumentError
from jacloom._outline import described

Argnums = int | Sequence[int]


def normal(argnums: Argnums, returning: str = "") -> int | tuple[int, ...]:
    """Returns ``argnums`` as an int or a tuple of ints.

    Args:
        argnums: What the user gave.
        returning: The user's call, where a function comes back that takes the arguments: a beginner may have given them here.

    Raises:
        ArgumentError: if it is neither an integer nor a sequence of them.
    """
    try:
        return tuple(map(operator.index, argnums)) if isinstance(argnums, Sequence) else operator.index(argnums)
    except TypeError:
        call = f"`{returning[:-1]}, argnums)`: " if returning else ""
        hint = f" A point goes to the function that comes back: `{returning}(x)`." if returning else ""
        raise ArgumentError(f"{call}argnums must be an integer or a sequence of integers, got {described(argnums)}.{hint}") from None


def positions(call: str, label: str, argnums: int | tuple[int, ...], count: int, named: Sequence[str]) -> tuple[int, ...]:
    """Returns the numbers of the arguments meant, each from 0 on, in the order given.

    Args:
        call: The user's call, for errors.
        label: The function's name, for errors.
        argnums: One number or several; negative ones count from the end.
        count: Number of positional arguments.
        named: Names of the arguments that were passed by keyword.

    Raises:
        ArgumentError: if a number is out of range or occurs twice.
    """
    found = []
    for number in (argnums,) if isinstance(argnums, int) else argnums:
        if not -count <= number < count:
            given = f"{label} got {count} positional argument{'' if count == 1 else 's'}"
            keywords = f" Keyword arguments are never differentiated: pass {' and '.join(named)} by position." if named else ""
            raise ArgumentError(f"`{call}`: {given}, so argnums must be {_range(count)}; got {number}.{keywords}")
        if number % count in found:
            raise ArgumentError(f"`{call}`: argnums names argument {number % count} twice; name each once.")
        found.append(number % count)
    return tuple(found)


def _range(count: int) -> str:
    match count:
        case 0:
            return "()"
        case 1:
            return "0"
        case 2:
            return "0 or 1"
        case _:
            return f"between 0 and {count - 1}"
