"""The options that say which service a command speaks to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jacloom._client import Client
from jacloom._connect import connect
from jacloom._errors import OptionError

Address = Annotated[str | None, typer.Option("--address", "-a", envvar="JACLOOM_ADDRESS", help="Service, as host:port.", show_default=False)]
Token = Annotated[str | None, typer.Option("--token", help="Bearer token; JACLOOM_TOKEN unless given.", show_default=False)]
Tls = Annotated[bool, typer.Option("--tls", help="Use TLS with the usual certificate authorities.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="Use TLS with the certificate authorities in this PEM file.", show_default=False)]


def client_of(address: str | None, token: str | None, tls: bool, ca: Path | None) -> Client:
    """Returns a client of the service that the options mean: a local one without an address."""
    return connect(address, token=token, tls=ca or tls or None)


def remote_client(address: str | None, token: str | None, tls: bool, ca: Path | None) -> Client:
    """Returns a client of a service that runs already.

    Raises:
        OptionError: if no address is given: a local service would start empty.
    """
    if address is None:
        raise OptionError("which service? Give --address host:port, or set JACLOOM_ADDRESS.")
    return client_of(address, token, tls, ca)
