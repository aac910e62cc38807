"""The structure of nested containers, as JAX sees it where JAX is in play, and as the graph describes it where it is not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from jacloom._errors import ArgumentError
from jacloom._outline import ARRAY, outline
from jacloom_graph import tree as trees
from jacloom_graph.types import Tree, TreeKind


class Structure(ABC):
    """Nested containers without their leaves. Structures of one kind compare and hash by what they describe."""

    @property
    @abstractmethod
    def children(self) -> tuple[Structure, ...]:
        """The parts of the outermost container."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of leaves."""

    @property
    @abstractmethod
    def is_leaf(self) -> bool:
        """Whether this is a bare leaf."""

    @property
    @abstractmethod
    def is_pair(self) -> bool:
        """Whether the outermost container is a tuple, a namedtuple or a list of two: what JAX takes for ``(out, aux)``."""

    @abstractmethod
    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """Returns nested containers with these leaves."""

    @abstractmethod
    def match(self, value: Any) -> list[Any]:
        """Returns what ``value`` has where this structure has leaves.

        Raises:
            ValueError: if the containers of ``value`` are not those of this structure.
        """

    @abstractmethod
    def paths(self, root: str) -> list[str]:
        """Returns how each leaf is reached from a variable, such as ``x[0]['w']``."""

    @abstractmethod
    def without(self, leaves: Collection[int]) -> Structure:
        """Returns the structure with None in place of some leaves."""

    def __str__(self) -> str:
        return outline(self.unflatten([ARRAY] * self.count))


@dataclass(frozen=True, slots=True)
class JaxStructure(Structure):
    """A JAX tree definition: knows every container class that is registered in this process."""

    treedef: Any

    @property
    def children(self) -> tuple[Structure, ...]:
        return tuple(JaxStructure(child) for child in self.treedef.children())

    @property
    def count(self) -> int:
        return int(self.treedef.num_leaves)

    @property
    def is_leaf(self) -> bool:
        return bool(self.treedef.num_nodes == 1 and self.treedef.num_leaves == 1)

    @property
    def is_pair(self) -> bool:
        data = self.treedef.node_data()
        return data is not None and issubclass(data[0], tuple | list) and len(self.treedef.children()) == 2

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        return self.treedef.unflatten(leaves)

    def match(self, value: Any) -> list[Any]:
        leaves: list[Any] = self.treedef.flatten_up_to(value)
        return leaves

    def paths(self, root: str) -> list[str]:
        from jax import tree_util

        numbered, _ = tree_util.tree_flatten_with_path(self.unflatten(range(self.count)))
        return [root + tree_util.keystr(path) for path, _ in numbered]

    def without(self, leaves: Collection[int]) -> Structure:
        return flatten_with_jax(self.unflatten(None if at in leaves else 0 for at in range(self.count)))[1]

    __str__ = Structure.__str__


@dataclass(frozen=True, slots=True)
class PlainStructure(Structure):
    """A graph's own tree: dicts, lists, tuples, namedtuples and None, without JAX."""

    tree: Tree

    @property
    def children(self) -> tuple[Structure, ...]:
        return tuple(map(PlainStructure, self.tree.children))

    @property
    def count(self) -> int:
        return trees.leaf_count(self.tree)

    @property
    def is_leaf(self) -> bool:
        return self.tree.kind is TreeKind.LEAF

    @property
    def is_pair(self) -> bool:
        return self.tree.kind in (TreeKind.TUPLE, TreeKind.NAMEDTUPLE, TreeKind.LIST) and len(self.tree.children) == 2

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        return trees.unflatten(self.tree, leaves)

    def match(self, value: Any) -> list[Any]:
        leaves: list[Any] = []
        _match(self.tree, value, leaves)
        return leaves

    def paths(self, root: str) -> list[str]:
        return trees.paths(self.tree, root)

    def without(self, leaves: Collection[int]) -> Structure:
        return PlainStructure(_without(self.tree, iter(range(self.count)), leaves))

    __str__ = Structure.__str__


def flatten_with_jax(value: Any) -> tuple[list[Any], Structure]:
    """Returns the leaves of a JAX pytree and its structure."""
    from jax import tree_util

    leaves, treedef = tree_util.tree_flatten(value)
    return leaves, JaxStructure(treedef)


def require_match(structure: Structure, value: Any, what: str) -> list[Any]:
    """Returns what ``value`` has where ``structure`` has leaves.

    Args:
        structure: The containers that are expected.
        value: The containers that came.
        what: The subject of the error: what ``value`` is and what it has to be like.

    Raises:
        ArgumentError: if they differ.
    """
    try:
        return structure.match(value)
    except ValueError as error:
        expected, got = str(structure), outline(value)
        # What the outline does not show, such as the metadata of a class of the user's, is in the words of who compared it.
        raise ArgumentError(f"{what}: expected {expected}, got {got}{f'; {error}' if got == expected else '.'}") from None


def _match(tree: Tree, value: Any, leaves: list[Any]) -> None:
    match tree.kind:
        case TreeKind.LEAF:
            leaves.append(value)
            return
        case TreeKind.NONE:
            if value is not None:
                raise ValueError(f"expected None, got {type(value).__name__}")
            return
        case TreeKind.DICT:
            if not isinstance(value, dict) or sorted(value) != list(tree.keys):
                raise ValueError(
                    f"expected a dict with keys {list(tree.keys)}, got {sorted(value) if isinstance(value, dict) else type(value).__name__}"
                )
            parts = [value[key] for key in tree.keys]
        case TreeKind.LIST:
            parts = _parts(value, list, len(tree.children))
        case TreeKind.TUPLE | TreeKind.NAMEDTUPLE | TreeKind.CUSTOM:
            parts = _parts(value, tuple, len(tree.children))
    for child, part in zip(tree.children, parts, strict=True):
        _match(child, part, leaves)


def _parts(value: Any, kind: type[list[Any]] | type[tuple[Any, ...]], count: int) -> list[Any]:
    if not isinstance(value, kind) or len(value) != count:
        raise ValueError(
            f"expected a {kind.__name__} of {count}, got {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple) else "")
        )
    return list(value)


def _without(tree: Tree, numbers: Iterable[int], leaves: Collection[int]) -> Tree:
    if tree.kind is TreeKind.LEAF:
        return Tree(TreeKind.NONE) if next(iter(numbers)) in leaves else tree
    return Tree(tree.kind, tuple(_without(child, numbers, leaves) for child in tree.children), tree.keys, tree.name)
