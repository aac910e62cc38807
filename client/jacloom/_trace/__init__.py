"""Tracing: JAX functions become graphs. This package is the only part of the SDK that imports JAX."""

from __future__ import annotations

from jacloom._trace.entry import MAX_RULE_ORDER, Traced, trace

__all__ = ["MAX_RULE_ORDER", "Traced", "trace"]
