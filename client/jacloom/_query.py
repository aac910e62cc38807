"""What is asked of the service, in numbers: which leaves, which derivative, and the arrays that the answer must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from jacloom._options import Mode, Tile
from jacloom_graph import tensor
from jacloom_graph.types import Type


class Kind(Enum):
    """The services' methods that compute; each value is the method's name."""

    EVALUATE = "Evaluate"
    JVP = "Jvp"
    VJP = "Vjp"
    HVP = "Hvp"
    GRADIENT = "Gradient"
    JACOBIAN = "Jacobian"
    HESSIAN = "Hessian"


class Part(IntEnum):
    """What an array of the answer is; the values are those of the wire."""

    VALUE = 1
    TANGENT = 2
    COTANGENT = 3
    PRODUCT = 4
    GRADIENT = 5
    JACOBIAN = 6
    HESSIAN = 7


ArrayKey = tuple[int, int, int, int]
"""Names an array of the answer: part, output leaf, and two positions in ``wrt``; a number without meaning for the part is 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A request without its arrays."""

    kind: Kind
    expected: Mapping[ArrayKey, Type]
    """The arrays that the answer has to have."""
    wrt: tuple[int, ...] = ()
    """Input leaves that are differentiated."""
    outputs: tuple[int, ...] = ()
    """Output leaves that are differentiated."""
    values: tuple[int, ...] = ()
    """Output leaves whose values are wanted as well."""
    mode: Mode = "auto"
    tile: Tile = "auto"
    holomorphic: bool = False


def query(
    kind: Kind,
    inputs: tuple[Type, ...],
    results: tuple[Type, ...],
    *,
    wrt: Iterable[int] = (),
    outputs: Iterable[int] = (),
    values: Iterable[int] = (),
    mode: Mode = "auto",
    tile: Tile = "auto",
    holomorphic: bool = False,
) -> Query:
    """Returns a query about a function of the given types, with the arrays that its answer must have."""
    wrt, outputs, values = tuple(wrt), tuple(outputs), tuple(values)
    expected: dict[ArrayKey, Type] = {(Part.VALUE, out, 0, 0): results[out] for out in values}
    columns = [(at, inputs[leaf]) for at, leaf in enumerate(wrt)]
    match kind:
        case Kind.EVALUATE:
            pass
        case Kind.JVP:
            expected |= {(Part.TANGENT, out, 0, 0): results[out] for out in outputs}
        case Kind.VJP:
            expected |= {(Part.COTANGENT, 0, at, 0): type_ for at, type_ in columns}
        case Kind.HVP:
            expected |= {(Part.PRODUCT, 0, at, 0): type_ for at, type_ in columns}
        case Kind.GRADIENT:
            expected |= {(Part.GRADIENT, 0, at, 0): type_ for at, type_ in columns}
        case Kind.JACOBIAN:
            expected |= {(Part.JACOBIAN, out, at, 0): product(results[out], type_) for out in outputs for at, type_ in columns}
        case Kind.HESSIAN:
            for out in outputs:
                for at, row in columns:
                    expected |= {(Part.HESSIAN, out, at, to): product(results[out], row, column) for to, column in columns}
    return Query(kind, expected, wrt, outputs, values, mode, tile, holomorphic)


def product(*types: Type) -> Type:
    """Returns the type of a derivative block: the shapes one after the other, the dtype that holds all."""
    return Type(tensor.promote(*(type_.dtype for type_ in types)), tuple(extent for type_ in types for extent in type_.shape))
