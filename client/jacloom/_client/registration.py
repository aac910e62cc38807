"""The methods about the functions that a service holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jacloom import _tracing
from jacloom._client.methods import Methods, label
from jacloom._deadline import Deadline
from jacloom._errors import ArgumentError
from jacloom._function import Function
from jacloom._remote import RemoteFunction
from jacloom._signature import display_name, parse_id


class Registration(Methods):
    """Functions that are prepared once, and stay."""

    def register(
        self, f: Callable[..., Any] | Function, *example: Any, name: str | None = None, timeout: float | None = None, **kwargs: Any
    ) -> RemoteFunction:
        """Registers a function for arguments like the examples, and returns it: prepared once, differentiated many times.

        Args:
            f: A callable, or a ``jl.Function``, whose types are fixed already and which takes no examples.
            *example: Arrays, numbers or shapes, as for ``jl.trace``.
            name: For people, at most 128 characters; default: the function's own.
            timeout: Seconds; see the class.
            **kwargs: Further examples by name.

        Raises:
            ArgumentError: if examples are given for a ``jl.Function``, or the name is none.
            GraphError: if the service finds the graph at fault.
        """
        if isinstance(f, Function):
            if example or kwargs:
                raise ArgumentError("`client.register(function)`: the types of a jl.Function are fixed, so it takes no examples.")
            function = f
        elif callable(f):
            function = _tracing.trace(f, *example, **kwargs)
        else:
            raise ArgumentError(f"`client.register(f, *example)`: f must be a callable or a jl.Function, got {type(f).__name__}.")
        return self._session.registry.register(function, display_name(name or label(f)), Deadline(timeout))

    def function(self, function_id: str, *, timeout: float | None = None) -> RemoteFunction:
        """Returns a registered function by its id.

        Raises:
            FunctionNotFoundError: if the service does not hold it.
        """
        return self._session.registry.get(parse_id(function_id), Deadline(timeout))

    def functions(self, *, timeout: float | None = None) -> list[RemoteFunction]:
        """Returns the functions that the service holds, newest first."""
        return self._session.registry.list(Deadline(timeout))

    def delete(self, function: RemoteFunction | Function | str, *, timeout: float | None = None) -> None:
        """Deletes a function from the service.

        Raises:
            FunctionNotFoundError: if the service does not hold it.
        """
        function_id = function.id if isinstance(function, RemoteFunction | Function) else parse_id(function)
        self._session.registry.delete(function_id, Deadline(timeout))
