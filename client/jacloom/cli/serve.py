"""``jacloom serve``: the service in this terminal."""

from __future__ import annotations

import os
import sys

import typer

from jacloom._local import SERVER_PROGRAM, require_server


def serve(context: typer.Context) -> None:
    """Run the service: `jacloom serve --help` lists its options."""
    require_server()
    # This process becomes the server, so that signals and exit status are its own.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", SERVER_PROGRAM, *context.args])
