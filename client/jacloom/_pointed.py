"""Methods that are given the point itself: by name, it shares a place with their own options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from jacloom._errors import ArgumentError, OptionError

_Self = TypeVar("_Self")
_Function = TypeVar("_Function")
_Options = ParamSpec("_Options")
_Answer = TypeVar("_Answer")
_Method = Callable[Concatenate[_Self, _Function, _Options], _Answer]


def pointed(label: Callable[[Any], str]) -> Callable[[_Method[_Self, _Function, _Options, _Answer]], _Method[_Self, _Function, _Options, _Answer]]:
    """Returns a decorator of such methods: what is passed by name is an option, if there is one of that name, else an argument of the function.

    What is neither is refused as such, and not as a function that cannot be traced. Where an option is refused that the function has an argument of
    the same name for, the error says how to pass that.

    Args:
        label: Returns what messages call the function that a method is given.
    """

    def decorate(method: _Method[_Self, _Function, _Options, _Answer]) -> _Method[_Self, _Function, _Options, _Answer]:
        parameters = inspect.signature(method).parameters.values()
        options = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]

        @wraps(method)
        def checked(self: _Self, f: _Function, /, *args: _Options.args, **kwargs: _Options.kwargs) -> _Answer:
            unknown = [name for name in kwargs if name not in options and not _takes(f, name, otherwise=True)]
            if unknown:
                call = f"client.{method.__name__}({label(f)}, ..., {unknown[0]}=...)"
                raise ArgumentError(f"`{call}`: {unknown[0]} is no argument of {label(f)}, and the options here are {', '.join(options)}.")
            try:
                return method(self, f, *args, **kwargs)
            except OptionError as error:
                error.message += "".join(_shared(label(f), name) for name in kwargs if name in options and _takes(f, name, otherwise=False))
                raise

        return checked

    return decorate


def _shared(label: str, name: str) -> str:
    return f" To pass {label} its own argument {name}, bind it: functools.partial({label}, {name}=...)."


def _takes(f: Any, name: str, *, otherwise: bool) -> bool:
    """Returns whether a function has an argument of some name; ``otherwise``: what to answer where it takes any name, or does not say."""
    try:
        parameters = inspect.signature(f).parameters
    except (TypeError, ValueError):
        return otherwise
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return otherwise
    return name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
