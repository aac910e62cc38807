"""Tracing: JAX functions become graphs. The only part of the SDK that reads JAX's programs; it is loaded when something is traced."""

from __future__ import annotations

from jacloom._trace.entry import MAX_RULE_ORDER, Traced, trace

__all__ = ["MAX_RULE_ORDER", "Traced", "trace"]
