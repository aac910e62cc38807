"""Sparsity patterns: which entries of a Jacobian can differ from zero, read off the program that computes its products."""

from jacloom_worker.pattern import contracting, control, elementwise, indexing, moving, reducing  # noqa: F401  (rules register themselves)
from jacloom_worker.pattern.detection import detect
from jacloom_worker.pattern.sets import TooDense

__all__ = ["TooDense", "detect"]
