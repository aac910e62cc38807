"""The structure of nested containers as data, as JAX flattens them but without JAX."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, assert_never

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.limits import DEFAULT
from jacloom_graph.types import Tree, TreeKind

LEAF = Tree(TreeKind.LEAF)
"""The tree of a bare leaf."""


def tuple_of(count: int) -> Tree:
    """Returns the tree of a tuple of so many leaves."""
    return Tree(TreeKind.TUPLE, (LEAF,) * count)


def flatten(value: Any) -> tuple[list[Any], Tree]:
    """Returns the leaves of nested containers in order, and their structure.

    Dicts (by sorted keys), lists, tuples, namedtuples and None are containers; None has no leaves. Everything else is a leaf.

    Raises:
        Fault: ARGUMENT_MISMATCH for keys that are not strings, mappings that are not plain dicts, and containers nested too deep.
    """
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves, 1)


def unflatten(tree: Tree, leaves: Iterable[Any]) -> Any:
    """Returns nested containers with these leaves. Custom containers, whose class is not known here, become tuples.

    Raises:
        Fault: ARGUMENT_MISMATCH if the number of leaves is not that of the tree.
    """
    rest = list(leaves)
    count = leaf_count(tree)
    if len(rest) != count:
        raise Fault(Reason.ARGUMENT_MISMATCH, f"the tree has {count} leaves, got {len(rest)}")
    return _unflatten(tree, iter(rest))


def leaf_count(tree: Tree) -> int:
    """Returns how many leaves a tree has."""
    count, stack = 0, [tree]
    while stack:
        node = stack.pop()
        count += node.kind is TreeKind.LEAF
        stack.extend(node.children)
    return count


def paths(tree: Tree, root: str = "args") -> list[str]:
    """Returns how each leaf is reached from a variable, such as ``args[0]['w'][1]``, in order."""
    found: list[str] = []
    stack = [(tree, root)]
    while stack:
        node, path = stack.pop()
        if node.kind is TreeKind.LEAF:
            found.append(path)
        steps = [(child, path + _step(node, at)) for at, child in enumerate(node.children)]
        stack.extend(reversed(steps))
    return found


def _step(tree: Tree, at: int) -> str:
    match tree.kind:
        case TreeKind.DICT:
            return f"[{tree.keys[at]!r}]"
        case TreeKind.NAMEDTUPLE:
            return f".{tree.keys[at]}"
        case TreeKind.TUPLE | TreeKind.LIST | TreeKind.CUSTOM | TreeKind.LEAF | TreeKind.NONE:
            return f"[{at}]"
        case _:
            assert_never(tree.kind)


def _flatten(value: Any, leaves: list[Any], depth: int) -> Tree:
    if depth > DEFAULT.tree_depth:
        raise Fault(Reason.ARGUMENT_MISMATCH, f"containers may be nested {DEFAULT.tree_depth} deep; one here goes deeper or contains itself")

    def children(items: Iterable[Any]) -> tuple[Tree, ...]:
        return tuple(_flatten(item, leaves, depth + 1) for item in items)

    kind = type(value)
    if value is None:
        return Tree(TreeKind.NONE)
    if kind is tuple:
        return Tree(TreeKind.TUPLE, children(value))
    if kind is list:
        return Tree(TreeKind.LIST, children(value))
    if kind is dict:
        strays = [key for key in value if not isinstance(key, str)]
        if strays:
            raise Fault(Reason.ARGUMENT_MISMATCH, f"keys of a dict must be strings, got {strays[0]!r}; use a list or rename the keys")
        keys = tuple(sorted(value))
        return Tree(TreeKind.DICT, children(value[key] for key in keys), keys)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return Tree(TreeKind.NAMEDTUPLE, children(value), tuple(value._fields), kind.__name__)
    if isinstance(value, Mapping):
        # Their order of leaves differs from class to class (that of an OrderedDict is the order of insertion), so guessing could swap arguments.
        raise Fault(Reason.ARGUMENT_MISMATCH, f"a mapping must be a plain dict, got {kind.__name__}; pass dict(...) of it")
    leaves.append(value)
    return LEAF


def _unflatten(tree: Tree, leaves: Iterator[Any]) -> Any:
    match tree.kind:
        case TreeKind.LEAF:
            return next(leaves)
        case TreeKind.NONE:
            return None
        case TreeKind.TUPLE | TreeKind.CUSTOM:
            return tuple(_unflatten(child, leaves) for child in tree.children)
        case TreeKind.LIST:
            return [_unflatten(child, leaves) for child in tree.children]
        case TreeKind.DICT:
            return {key: _unflatten(child, leaves) for key, child in zip(tree.keys, tree.children, strict=True)}
        case TreeKind.NAMEDTUPLE:
            return _named(tree.name, tree.keys)(*(_unflatten(child, leaves) for child in tree.children))
        case _:
            assert_never(tree.kind)


@lru_cache(maxsize=256)
def _named(name: str, fields: tuple[str, ...]) -> Any:
    # Safe for names from the wire: namedtuple refuses what is no identifier as a class name, and renames it as a field. Renaming also restores the
    # fields `_0`, `_1`.. of a class that was itself made with `rename=True`.
    return namedtuple(name, fields, rename=True)
