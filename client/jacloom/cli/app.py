"""``jacloom``: the commands put together, and how their errors end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jacloom._errors import JacloomError
from jacloom._version import VERSION
from jacloom.cli import functions
from jacloom.cli.cancel import cancel
from jacloom.cli.demo import demo
from jacloom.cli.doctor import doctor
from jacloom.cli.expire import expire
from jacloom.cli.explain import explain
from jacloom.cli.fetch import fetch
from jacloom.cli.jobs import jobs
from jacloom.cli.output import print_error
from jacloom.cli.retry import retry
from jacloom.cli.run import run
from jacloom.cli.serve import serve
from jacloom.cli.submit import submit
from jacloom.cli.verify import verify
from jacloom.cli.watch import watch

app = typer.Typer(
    name="jacloom",
    help="Derivatives as a service: functions go in as data, Jacobians come back from a cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# The server's own parser reads the options, and answers --help.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(serve)
app.command()(run)
app.command()(demo)
app.command()(doctor)
app.command()(explain)
app.add_typer(functions.app, name="functions")
for command in (submit, jobs, watch, cancel, retry, verify, fetch, expire):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"jacloom {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Derivatives as a service: functions go in as data, Jacobians come back from a cluster."""


def main() -> None:
    """Runs the command line. Errors of the SDK are one message and status 1."""
    try:
        app()
    except JacloomError as error:
        print_error(error, as_json="--json" in sys.argv[1:])
        sys.exit(1)
