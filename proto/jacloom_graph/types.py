"""The graph as Python values: frozen, comparable, without behaviour beyond simple questions about themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

OPSET = 1

AttrValue = int | float | bool | str | None | tuple["AttrValue", ...]
"""What an attribute can be: a scalar, or (nested) tuples of scalars. The op table says which."""


@dataclass(frozen=True, slots=True)
class Type:
    """Type of one array."""

    dtype: str
    """Name of the element type, such as ``"float64"``, or ``"key<threefry2x32>"`` for random keys."""
    shape: tuple[int, ...] = ()
    weak: bool = False
    """JAX's weak type: the dtype yields to others in promotion."""

    @property
    def size(self) -> int:
        """Number of elements, as a Python integer that cannot overflow."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant array: its type and either its elements or the name of the blob that holds them."""

    type: Type
    data: np.ndarray | None = field(compare=False)
    """Elements, C order. For a key type the raw key data, with the implementation's extra axes. None while they are only named by ``blob``."""
    blob: str = ""
    """``"blobs/sha256:<64 hex>"`` where the elements were uploaded apart; empty where they travel in the graph."""
    digest: bytes = field(default=b"", init=False, compare=False, repr=False)
    """SHA-256 of the elements as on the wire where this process has computed it: large ones take a second a gibibyte. A changed copy has none."""

    def digested(self, digest: bytes) -> Constant:
        """Returns the constant with its digest."""
        copy = replace(self)
        object.__setattr__(copy, "digest", digest)
        return copy


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. Operand ``v >= 0`` is value ``v`` of the function, ``v < 0`` is constant ``-1 - v`` of the graph."""

    op: str
    operands: tuple[int, ...]
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)
    result_count: int = 1
    result_types: tuple[Type, ...] = ()
    """Declared types: empty, or one per result."""


@dataclass(frozen=True, slots=True)
class Function:
    """Inputs are values ``0 .. len(inputs) - 1``; the results of the nodes follow in order."""

    name: str
    inputs: tuple[Type, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TransposeRule:
    """``function(the inputs not listed.., cotangents of the jvp rule's outputs..) -> cotangents of the inputs listed``."""

    function: int
    inputs: tuple[int, ...]
    """Those that the rule's own function is linear in, jointly."""


@dataclass(frozen=True, slots=True)
class JvpRule:
    """``function(inputs.., active tangents..) -> (all outputs.., tangents of the outputs listed..)``."""

    function: int
    outputs: tuple[int, ...]
    transposes: tuple[TransposeRule, ...] = ()
    """How reverse mode goes back through the function where a rule applies it to tangents: one for each set of inputs that these reach, in ascending
    order of the sets. Empty: through its body, whichever inputs they are."""


@dataclass(frozen=True, slots=True)
class VjpRule:
    """``forward(inputs..) -> (residuals.., outputs..)``, ``backward(residuals.., cotangents of inexact outputs..) -> cotangents of the listed``."""

    forward: int
    backward: int
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A derivative given by the function's author. Node ``custom_call`` with attribute ``rule=k`` evaluates ``rules[k].function``."""

    function: int
    active: tuple[bool, ...]
    derivative: JvpRule | VjpRule | str
    """A string is the text of an error: there is no derivative."""


class TreeKind(Enum):
    """Kinds of containers in a tree; the values are those of the wire."""

    LEAF = 1
    NONE = 2
    TUPLE = 3
    LIST = 4
    DICT = 5
    NAMEDTUPLE = 6
    CUSTOM = 7


@dataclass(frozen=True, slots=True)
class Tree:
    """Structure of nested containers whose leaves are arrays."""

    kind: TreeKind
    children: tuple[Tree, ...] = ()
    keys: tuple[str, ...] = ()
    """Keys of a dict in sorted order, or field names of a namedtuple."""
    name: str = ""
    """Class name of a namedtuple or custom container."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A function as data; ``functions[0]`` is the entry."""

    functions: tuple[Function, ...]
    rules: tuple[Rule, ...]
    constants: tuple[Constant, ...]
    in_tree: Tree
    out_tree: Tree
    opset: int = OPSET
    producer: str = ""

    @property
    def entry(self) -> Function:
        """The function that the graph stands for."""
        return self.functions[0]
