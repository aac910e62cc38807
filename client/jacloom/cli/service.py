"""Which service a command speaks to: options that commands share, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from jacloom._client import Client
from jacloom._connect import connect
from jacloom._errors import OptionError


@dataclass(frozen=True, slots=True)
class Service:
    """The service that a command speaks to. Each field is an option of the commands that ``on_service`` decorates."""

    address: Annotated[str | None, typer.Option("--address", "-a", envvar="JACLOOM_ADDRESS", help="Service, as host:port.", show_default=False)] = (
        None
    )
    token: Annotated[str | None, typer.Option("--token", help="Bearer token; JACLOOM_TOKEN unless given.", show_default=False)] = None
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS with the usual certificate authorities.")] = False
    ca: Annotated[Path | None, typer.Option("--ca", help="Use TLS with the certificate authorities in this PEM file.", show_default=False)] = None

    def connect(self) -> Client:
        """Returns a client of the service: a local one without an address."""
        return connect(self.address, token=self.token, tls=self.ca or self.tls or None)

    def remote(self) -> Client:
        """Returns a client of a service that runs already.

        Raises:
            OptionError: if no address is given: a local service would start empty.
        """
        if self.address is None:
            raise OptionError("which service? Give --address host:port, or set JACLOOM_ADDRESS.")
        return self.connect()


_OPTIONS = {
    name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, parameter in inspect.signature(Service, eval_str=True).parameters.items()
}


def on_service(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command for typer that takes the options of a service in the place of the keyword argument ``service``."""
    written = inspect.signature(command, eval_str=True)

    @wraps(command)
    def taking_options(**given: Any) -> None:
        command(service=Service(**{name: given.pop(name) for name in _OPTIONS}), **given)

    parameters: list[inspect.Parameter] = []
    for name, parameter in written.parameters.items():
        parameters += _OPTIONS.values() if name == "service" else [parameter]
    # What typer reads the options from.
    taking_options.__signature__ = written.replace(parameters=parameters)  # type: ignore[attr-defined]
    return taking_options
