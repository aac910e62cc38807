"""The command line, one command a file."""

from __future__ import annotations

from jacloom.cli.app import main

__all__ = ["main"]
