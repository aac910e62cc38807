"""The command lines that files under ``deploy/`` and the pages use, and the parsers that will read them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import click
import typer.main
from ray.scripts.scripts import cli as ray_cli

from jacloom.cli.app import app
from jacloom_server.__main__ import _parser as serve_parser

_COMMAND = re.compile(r"(?<![\w/.-])(jacloom|ray) ([a-z][a-z-]*)((?: [a-z]+)?)(?=[ \n`\"'])([^\n`|;&]*)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@dataclass(frozen=True)
class Use:
    """One use of a command."""

    command: str
    flags: frozenset[str]


def uses(text: str) -> list[Use]:
    """Returns the uses of ``jacloom`` and ``ray`` in a shell script, a page or a manifest; prose that names no command is passed over."""
    found, known = [], _known()
    # What follows "--" is a command of its own.
    for program, first, second, rest in _COMMAND.findall(text.replace("\\\n", " ").replace(" -- ", "\n")):
        command = f"{program} {first}{second}" if f"{program} {first}{second}" in known else f"{program} {first}"
        if command in known:
            found.append(Use(command, frozenset(_FLAG.findall(rest))))
    return found


def flags(command: str) -> set[str]:
    """Returns all options of a command, read from its parser."""
    return _known()[command]


@cache
def _known() -> dict[str, set[str]]:
    found = dict([*_options("jacloom", typer.main.get_command(app)), *_options("ray", ray_cli)])
    # The server's own parser reads these.
    return found | {"jacloom serve": set(serve_parser()._option_string_actions)}


def _options(name: str, command: click.Command) -> list[tuple[str, set[str]]]:
    own = [(name, {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help"})]
    # Typer brings a click of its own, so what a group is shows in what it has.
    for sub, inner in getattr(command, "commands", {}).items():
        own += _options(f"{name} {sub}", inner)
    return own
