"""JAX's tree definitions as trees of the graph."""

from __future__ import annotations

from typing import Any

from jacloom_graph.tree import LEAF
from jacloom_graph.types import Tree, TreeKind


def tree_of(treedef: Any) -> Tree:
    """Returns the structure as data. Containers that only this process knows become ``CUSTOM`` and keep their children."""
    data = treedef.node_data()
    children = tuple(tree_of(child) for child in treedef.children())
    if data is None:
        return LEAF
    kind, meta = data
    if kind is type(None):
        return Tree(TreeKind.NONE)
    if kind is tuple:
        return Tree(TreeKind.TUPLE, children)
    if kind is list:
        return Tree(TreeKind.LIST, children)
    if kind is dict and all(isinstance(key, str) for key in meta):
        return Tree(TreeKind.DICT, children, tuple(meta))
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return Tree(TreeKind.NAMEDTUPLE, children, tuple(kind._fields), kind.__name__)
    return Tree(TreeKind.CUSTOM, children, name=getattr(kind, "__name__", str(kind)))
