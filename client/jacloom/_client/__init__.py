"""The client: its methods in groups, each in a file of its own, and what holds them together."""

from __future__ import annotations

from jacloom._client.client import Client

__all__ = ["Client"]
