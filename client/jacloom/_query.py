"""What is asked of the service, in numbers: which leaves, which derivative, and the arrays that the answer must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from jacloom._errors import OptionError
from jacloom._options import Mode, Tile
from jacloom._sparsity import Pattern, check_sizes
from jacloom_graph.answer import Array, ArrayKey, Derivative, Part, Selection, Sizes, arrays, sparse_arrays, structure_arrays
from jacloom_graph.types import Type


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A request without its arrays."""

    derivative: Derivative
    chosen: Selection
    expected: Mapping[ArrayKey, Array]
    """The arrays that the answer has to have; of a sparse one those alone that it has besides its entries."""
    mode: Mode = "auto"
    tile: Tile = "auto"
    holomorphic: bool = False
    sparse: bool = False
    """Whether the answer has to be sparse; else the service chooses."""
    dense: bool = False
    """Whether no pattern is to be used."""
    pattern: Pattern | None = None
    """The pattern to use in place of one that the service finds."""
    batch: int = 0
    """Seeds along a further first axis; 0 for one without that axis."""
    structure: bool = False
    """Whether nothing is asked for but the structure of the answer, which is sparse."""
    linearize: bool = False
    """Whether more products at this point are to come."""

    def sparse_arrays(self, sizes: Sizes, *, structured: bool) -> Mapping[ArrayKey, Array]:
        """Returns the arrays that the answer has to have where it is sparse.

        Args:
            sizes: Of the matrix, as the answer's header tells.
            structured: Whether the structure comes along.

        Raises:
            ProtocolError: if it is not the matrix that was asked for.
        """
        check_sizes(sizes, self.derivative, self.chosen)
        if self.structure:
            return {array.key: array for array in structure_arrays(sizes)} if structured else {}
        return {array.key: array for array in sparse_arrays(self.derivative, self.chosen, sizes, structured=structured)}


def query(
    derivative: Derivative,
    inputs: tuple[Type, ...],
    results: tuple[Type, ...],
    *,
    wrt: Iterable[int] = (),
    outputs: Iterable[int] = (),
    values: Iterable[int] = (),
    mode: Mode = "auto",
    tile: Tile = "auto",
    holomorphic: bool = False,
    weighted: bool = False,
    sparse: bool = False,
    dense: bool = False,
    pattern: Pattern | None = None,
) -> Query:
    """Returns a query about a function of the given types, with the arrays that its answer must have.

    Args:
        derivative: What is asked for.
        inputs: Types of all input leaves.
        results: Types of all output leaves.
        wrt: Input leaves that are differentiated.
        outputs: Output leaves that are differentiated.
        values: Output leaves whose values are wanted as well.
        mode: Which passes a Jacobian is made of.
        tile: Seeds per tile.
        holomorphic: Differentiate complex leaves as a holomorphic function's.
        weighted: Differentiate the weighted sum of the outputs.
        sparse: The answer has to be sparse.
        dense: The answer must not be.
        pattern: The entries that may differ from zero.
    """
    wrt, outputs, values = tuple(wrt), tuple(outputs), tuple(values)
    chosen = Selection(
        wrt,
        outputs,
        values,
        tuple(inputs[leaf] for leaf in wrt),
        tuple(results[leaf] for leaf in outputs),
        tuple(results[leaf] for leaf in values),
    )
    chosen = chosen.weighted() if weighted else chosen
    # Of a sparse answer, the rest is as large as the service says.
    expected = {array.key: array for array in arrays(derivative, chosen) if not sparse or array.part is Part.VALUE}
    return Query(derivative, chosen, expected, mode, tile, holomorphic, sparse, dense, pattern)


def structural(asked: Query) -> Query:
    """Returns a query for the structure that a sparse answer to another query would have.

    Raises:
        OptionError: if that has no sparse answer.
    """
    entries = sum(type_.size for type_ in asked.chosen.output_types)
    if asked.derivative is Derivative.HESSIAN and entries != 1:
        text = f"a pattern is that of a single matrix, and there are {entries} outputs with a Hessian each"
        raise OptionError(f"{text}; pass weights=... to client.explain for that of their weighted sum")
    chosen = replace(asked.chosen, values=(), value_types=())
    return replace(asked, chosen=chosen, expected={}, sparse=True, dense=False, structure=True)


def products(derivative: Derivative, chosen: Selection, batch: int, holomorphic: bool) -> Query:
    """Returns a query for products of a derivative and a batch of seeds, or of one if ``batch`` is 0, at a point that stays."""
    expected = {array.key: array for array in arrays(derivative, chosen, batch)}
    return Query(derivative, chosen, expected, holomorphic=holomorphic, batch=batch, linearize=True)


def probe(derivative: Derivative, chosen: Selection, *, holomorphic: bool) -> Query:
    """Returns a query for one pass over chosen leaves of a function, with the values of its outputs.

    Args:
        derivative: An evaluation, a JVP, a VJP or an HVP, which comes without values and alone may be that of a weighted sum.
        chosen: The leaves.
        holomorphic: As for ``query``.
    """
    if derivative is Derivative.HVP:
        asked = replace(chosen, values=(), value_types=())
    elif derivative is Derivative.EVALUATE:
        asked = Selection((), (), chosen.outputs, (), (), chosen.output_types)
    else:
        asked = replace(chosen, values=chosen.outputs, value_types=chosen.output_types)
    return Query(derivative, asked, {array.key: array for array in arrays(derivative, asked)}, holomorphic=holomorphic)
