"""``python -m jacloom`` is ``jacloom``."""

from __future__ import annotations

from jacloom.cli import main

main()
