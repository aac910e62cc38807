"""The problems of ``jacloom demo``: real derivatives, each with the same one computed locally to compare."""

from __future__ import annotations

from typing import Final

NAMES: Final = ("lecture-columns", "lecture-rows", "tall", "wide", "robot-arm", "gaussian-mixture", "lorenz-96", "brusselator")
"""The problems by name, in the order in which they are shown; known here without JAX, which the problems themselves need."""
