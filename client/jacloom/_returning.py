"""Methods that return a function of the point: a beginner gives them the point itself, which Python alone would count as an argument too many."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from jacloom._errors import ArgumentError

_Self = TypeVar("_Self")
_Function = TypeVar("_Function")
_Options = ParamSpec("_Options")
_Method = Callable[Concatenate[_Self, _Function, _Options], Callable[..., Any]]


def returning(label: Callable[[Any], str]) -> Callable[[_Method[_Self, _Function, _Options]], _Method[_Self, _Function, _Options]]:
    """Returns a decorator of such methods: called with too many arguments, they say where a point goes.

    Args:
        label: Returns what messages call the function that a method is given.
    """

    def decorate(method: _Method[_Self, _Function, _Options]) -> _Method[_Self, _Function, _Options]:
        kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()]
        most = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) - 2  # without self and f

        @wraps(method)
        def checked(self: _Self, f: _Function, /, *args: _Options.args, **kwargs: _Options.kwargs) -> Callable[..., Any]:
            if len(args) > most:
                call = f"client.{method.__name__}({label(f)})"
                takes = f"takes at most {most} options by position" if most else "takes its options by name"
                raise ArgumentError(f"`{call[:-1]}, ...)` {takes}, got {len(args)}. A point goes to the function that comes back: `{call}(x)`.")
            return method(self, f, *args, **kwargs)

        return checked

    return decorate
