"""Sparse derivatives: the pattern that a user gives, and the structure of an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, assert_never, get_args

import numpy as np

from jacloom._errors import OptionError, ProtocolError
from jacloom._outline import outline
from jacloom_graph import tensor
from jacloom_graph.answer import ArrayKey, Derivative, Part, Selection, Sizes, arrays, matrix_shape

if TYPE_CHECKING:
    from scipy import sparse  # loaded where it is needed: importing it takes longer than all the rest

Output = Literal["dense", "csr", "csc", "coo"]
"""How a derivative comes back: as the tree of blocks that JAX returns, or as one sparse matrix of SciPy's."""

Sparsity = Any
"""``"auto"``, ``"dense"``, or a pattern: a sparse matrix or a two-dimensional array, whose entries that are not zero may differ from zero."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """The entries that may differ from zero, as a user gives them. Patterns of the same entries are equal."""

    shape: tuple[int, int]
    digest: str
    pointers: np.ndarray = field(compare=False, repr=False)
    """Row ``i`` has the entries ``pointers[i]`` to ``pointers[i + 1] - 1``."""
    indices: np.ndarray = field(compare=False, repr=False)

    def row(self, row: int) -> np.ndarray:
        """Returns the columns of a row's entries."""
        return self.indices[self.pointers[row] : self.pointers[row + 1]]

    def column(self, column: int) -> np.ndarray:
        """Returns the rows of a column's entries."""
        found: np.ndarray = np.searchsorted(self.pointers, np.flatnonzero(self.indices == column), side="right") - 1
        return found

    def __repr__(self) -> str:
        return f"<pattern of {self.shape[0]} x {self.shape[1]} with {len(self.indices)} entries>"


class Described(Protocol):
    """A structure as the header of an answer describes it."""

    @property
    def digest(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def nonzeros(self) -> int: ...
    @property
    def computed(self) -> int: ...
    @property
    def passes(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """Where the entries of an answer belong: received once, used for every later point."""

    digest: str
    sizes: Sizes
    pointers: np.ndarray
    indices: np.ndarray
    sources: np.ndarray
    bounds: np.ndarray

    def pattern(self) -> sparse.csr_array:
        """Returns which entries may differ from zero, as a boolean matrix whose arrays nobody else holds."""
        from scipy import sparse

        shape = self.sizes.rows, self.sizes.columns
        found = sparse.csr_array((np.ones(self.sizes.nonzeros, bool), self.indices.copy(), self.pointers.copy()), shape)
        found.has_canonical_format = True
        return found

    def passes(self) -> np.ndarray:
        """Returns for each entry of the matrix the number of the pass that yields it: shape ``(nonzeros,)``, ``int32``."""
        found: np.ndarray = np.repeat(np.arange(self.sizes.passes, dtype=np.int32), np.diff(self.bounds))[self.sources]
        return found

    def matrix(self, entries: np.ndarray) -> sparse.csr_array:
        """Returns the derivative as one matrix whose arrays nobody else holds, in float32 where its entries are shorter.

        Args:
            entries: As they came: shape ``(computed,)``.
        """
        from scipy import sparse

        found = sparse.csr_array((self._spread(entries), self.indices.copy(), self.pointers.copy()), (self.sizes.rows, self.sizes.columns))
        found.has_canonical_format = True
        return found

    def blocks(self, entries: np.ndarray, derivative: Derivative, chosen: Selection) -> dict[ArrayKey, np.ndarray]:
        """Returns the blocks of a dense answer."""
        from scipy import sparse

        whole = sparse.csr_array((self._spread(entries), self.indices, self.pointers), (self.sizes.rows, self.sizes.columns))
        above = chosen.wrt_types if derivative is Derivative.HESSIAN else chosen.output_types
        rows, columns = _offsets([type_.size for type_ in above]), _offsets([type_.size for type_ in chosen.wrt_types])
        place = {leaf: at for at, leaf in enumerate(chosen.outputs)}
        found = {}
        for array in arrays(derivative, chosen):
            if array.part is Part.VALUE:
                continue
            row, column = (array.input, array.input2) if derivative is Derivative.HESSIAN else (place[array.output], array.input)
            alone = len(rows) == len(columns) == 2
            part = whole if alone else whole[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
            found[array.key] = part.toarray().astype(tensor.DTYPES[array.type.dtype], copy=False).reshape(array.type.shape)
        return found

    def _spread(self, entries: np.ndarray) -> np.ndarray:
        """Returns the value of each entry of the matrix."""
        values: np.ndarray = entries[self.sources]
        # SciPy has no floating-point numbers shorter than float32, which holds them exactly.
        return values.astype(np.float32) if values.itemsize < np.dtype(np.float32).itemsize else values


def read_structure(described: Described, received: Mapping[ArrayKey, np.ndarray]) -> Structure:
    """Returns the structure that came with an answer.

    Raises:
        ProtocolError: if it is none.
    """
    pointers, indices, sources, bounds = (received[part, 0, 0, 0] for part in (Part.POINTERS, Part.INDICES, Part.SOURCES, Part.BOUNDS))
    sizes = sizes_of(described)
    rising = pointers[0] == 0 and pointers[-1] == sizes.nonzeros and (np.diff(pointers) >= 0).all()
    inside = not len(indices) or (indices.min() >= 0 and indices.max() < sizes.columns and sources.min() >= 0 and sources.max() < sizes.computed)
    shared = bounds[0] == 0 and bounds[-1] == sizes.computed and (np.diff(bounds) >= 0).all()
    if not (rising and inside and shared):
        raise ProtocolError("the answer has a structure whose entries lie outside the matrix or its passes; it is not used")
    return Structure(described.digest, sizes, pointers, indices, sources, bounds)


def sizes_of(described: Described) -> Sizes:
    """Returns the sizes that a header tells."""
    return Sizes(described.rows, described.columns, described.nonzeros, described.computed, described.passes)


def check_sizes(sizes: Sizes, derivative: Derivative, chosen: Selection) -> None:
    """Raises ProtocolError if a sparse answer cannot be one to what was asked."""
    shape = matrix_shape(derivative, chosen)
    if (sizes.rows, sizes.columns) != shape or not sizes.computed <= sizes.nonzeros <= shape[0] * shape[1]:
        raise ProtocolError(f"the answer is a matrix of {sizes.rows} x {sizes.columns}, one of {shape[0]} x {shape[1]} was asked for")


def formatted(matrix: sparse.csr_array, output: Output) -> Any:
    """Returns a matrix in the format that the user wants."""
    match output:
        case "csr" | "dense":
            return matrix
        case "csc":
            return matrix.tocsc()
        case "coo":
            return matrix.tocoo()
        case _:
            assert_never(output)


def pattern(call: str, given: Any) -> Pattern | None:
    """Returns what a user passes as ``sparsity``; None for ``"auto"`` and ``"dense"``.

    Raises:
        OptionError: if it is neither of them, nor a matrix.
    """
    if isinstance(given, Pattern) or (isinstance(given, str) and given in ("auto", "dense")):
        return given if isinstance(given, Pattern) else None
    from scipy import sparse

    advice = "sparsity must be 'auto', 'dense', or a pattern: a sparse matrix or a two-dimensional array of the Jacobian's shape"
    if isinstance(given, str) or not (sparse.issparse(given) or hasattr(given, "__array__") or isinstance(given, list)):
        raise OptionError(f"`{call}`: {advice}; got {given!r:.100}.")
    if not sparse.issparse(given):
        try:
            given = np.asarray(given)
        except ValueError as error:
            raise OptionError(f"`{call}`: {advice}; got lists of different lengths ({error}).") from None
    if given.ndim != 2 or given.dtype.kind in "OSU":
        raise OptionError(f"`{call}`: {advice}; got an array of shape {given.shape} and dtype {given.dtype}.")
    # Of an entry that comes twice either part may differ from zero, whatever their sum is.
    entries = sparse.coo_array(given if sparse.issparse(given) else given != 0)
    there = entries.data != 0
    rows, columns = (axis[there] for axis in entries.coords)
    found = sparse.csr_array((np.ones(len(rows), bool), (rows, columns)), entries.shape)
    found.sum_duplicates()
    index = np.int32 if max(*found.shape, found.nnz) <= np.iinfo(np.int32).max else np.int64  # whatever the user's has
    pointers, indices = found.indptr.astype(index, copy=False), found.indices.astype(index, copy=False)
    digest = hashlib.sha256(repr(found.shape).encode() + pointers.tobytes() + indices.tobytes()).hexdigest()
    return Pattern(found.shape, digest, pointers, indices)


def check_output(call: str, output: object, sparsity: Any) -> None:
    """Raises OptionError unless ``output`` is one of ``Output``, and one that goes with ``sparsity``."""
    if not isinstance(output, str) or output not in get_args(Output):
        raise OptionError(f"`{call}`: output must be 'dense', 'csr', 'csc' or 'coo', got {outline(output)}.")
    if output != "dense" and isinstance(sparsity, str) and sparsity == "dense":
        raise OptionError(f"`{call}`: output={output!r} is sparse, and sparsity='dense' computes no pattern for it; leave one of them out.")


def check_shape(call: str, given: Pattern, derivative: Derivative, chosen: Selection) -> None:
    """Raises OptionError if a pattern has not the shape of the derivative that it is for."""
    shape = matrix_shape(derivative, chosen)
    if given.shape != shape:
        what = "entries of the arguments, twice" if derivative is Derivative.HESSIAN else "entries of the result by entries of the arguments"
        raise OptionError(f"`{call}`: the pattern must have the shape {shape}, {what}; got {given.shape}.")


def _offsets(sizes: list[int]) -> list[int]:
    return [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
