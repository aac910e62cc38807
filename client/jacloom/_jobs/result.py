"""The results of a job, read point by point or in slices, in the trees that a call at one point returns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from jacloom._binding import Binding
from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._errors import ArgumentError, JobError, ProtocolError
from jacloom._jobs.kinds import stored_transform
from jacloom._jobs.reading import read
from jacloom._jobs.record import JobArray, JobRecord
from jacloom._prepared import Prepared
from jacloom._session import Session
from jacloom._signature import is_complex
from jacloom._transform import Evaluation
from jacloom_graph import tensor
from jacloom_graph.answer import ArrayKey, Derivative, Part, matrix_shape
from jacloom_graph.types import Type

_AT_ONCE: Final = 8 << 20
"""Bytes that are read at a time where the points are gone through one by one."""
_STRUCTURE: Final = (Part.POINTERS, Part.INDICES)
STATUS: Final = "status"
"""Path of the array that says what became of each point."""


def status_array(points: int) -> JobArray:
    """Returns the array that says what became of each point; jobs have it beside their results."""
    return JobArray(STATUS, (0, 0, 0, 0), Type("uint8", (points,)))


def span(points: int, given: slice) -> range:
    """Returns the points that a slice means.

    Raises:
        ArgumentError: if it leaves out some in between.
    """
    found = range(*given.indices(points))
    if found.step != 1:
        raise ArgumentError(f"results are read in slices of step 1, got step {found.step}: read [a:b], and take [::{found.step}] of its arrays")
    return range(found.start, max(found.start, found.stop))


@dataclass(frozen=True, eq=False)
class StoredArray:
    """One array of a job's results on the service; ``array[3]``, ``array[2:9]`` and ``len`` read as of a NumPy array."""

    path: str
    dtype: np.dtype
    shape: tuple[int, ...]
    _read: Callable[[str, range], np.ndarray]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return self._range(span(len(self), index))
        at = _position(index, len(self))
        return self._range(range(at, at + 1))[0, ...]

    def _range(self, points: range) -> np.ndarray:
        if not points:
            return np.empty((0, *self.shape[1:]), self.dtype)
        found = self._read(self.path, points)
        if found.dtype != self.dtype or found.shape != (len(points), *self.shape[1:]):
            raise ProtocolError(f"the service answered with {found.dtype}{list(found.shape)} of {self.path}, which is {self.dtype}{list(self.shape)}")
        return found

    def __repr__(self) -> str:
        return f"<array {self.path} of a job: {self.dtype}[{','.join(map(str, self.shape))}]>"


class PerPoint(Sequence[Any]):
    """What a job has computed at each point: ``result[i]`` is what a call at point ``i`` returns, ``result[a:b]`` the same stacked."""

    def __init__(self, count: int, arrays: Mapping[ArrayKey, StoredArray], types: Mapping[ArrayKey, Type], build: Callable[[Any], Any]) -> None:
        """Wraps arrays.

        Args:
            count: Points in all.
            arrays: Those of the results.
            types: Of each at one point, as the function has it.
            build: Makes the tree of them.
        """
        self._count = count
        self._arrays = arrays
        self._types = types
        self._build = build

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Returns what was computed at a point, or, for a slice, at several: with a first axis in each array.

        Raises:
            IndexError: if there is no such point.
            JobError: if it is not finished.
        """
        if isinstance(index, slice):
            return self._stacked(self._read(span(self._count, index)))
        at = _position(index, self._count)
        return self._at(self._read(range(at, at + 1)), 0)

    def __iter__(self) -> Iterator[Any]:
        nbytes = sum(tensor.nbytes(type_) for type_ in self._types.values())
        rows = max(1, _AT_ONCE // max(1, nbytes))
        for start in range(0, self._count, rows):
            found = self._read(range(start, min(start + rows, self._count)))
            for at in range(len(next(iter(found.values())))):
                yield self._at({key: array[at : at + 1].copy() for key, array in found.items()}, 0)

    def _read(self, points: range) -> dict[ArrayKey, np.ndarray]:
        return {key: _as_computed(array._range(points), self._types[key]) for key, array in self._arrays.items()}

    def _at(self, found: Mapping[ArrayKey, np.ndarray], at: int) -> Any:
        # With the dots, a scalar is an array without axes, as in the answer to a call.
        return self._build({key: array[at, ...] for key, array in found.items()})

    def _stacked(self, found: Mapping[ArrayKey, np.ndarray]) -> Any:
        return self._build(found)


class SparsePerPoint(PerPoint):
    """The same for derivatives that are stored by their pattern: each is a ``scipy.sparse.csr_array``, a slice is a list of them."""

    def __init__(self, count: int, entries: StoredArray, structure: tuple[StoredArray, StoredArray], shape: tuple[int, int]) -> None:
        """Wraps arrays.

        Args:
            count: Points in all.
            entries: Shape ``(points, nnz)``.
            structure: Pointers of the rows, and columns of the entries.
            shape: Of the matrix.
        """
        key = (int(Part.ENTRIES), 0, 0, 0)
        super().__init__(count, {key: entries}, {key: Type(entries.dtype.name, entries.shape[1:])}, self._matrix)
        self._key = key
        self._structure = structure
        self._shape = shape
        self._known: tuple[np.ndarray, np.ndarray] | None = None

    def _matrix(self, found: Mapping[ArrayKey, np.ndarray]) -> Any:
        from scipy import sparse

        if self._known is None:
            # The same for all points, and read once.
            self._known = self._structure[0][:], self._structure[1][:]
        pointers, indices = self._known
        entries = found[self._key]
        # SciPy has no floating-point numbers shorter than float32, which holds them exactly.
        entries = entries.astype(np.float32) if entries.itemsize < np.dtype(np.float32).itemsize else entries
        matrix = sparse.csr_array((entries, indices.copy(), pointers.copy()), self._shape)
        matrix.has_canonical_format = True
        return matrix

    def _stacked(self, found: Mapping[ArrayKey, np.ndarray]) -> list[Any]:
        return [self._at(found, at) for at in range(len(found[self._key]))]


class ColouredPerPoint(SparsePerPoint):
    """The same, read as the dense arrays that the matrices stand for, in the tree of a call."""

    def __init__(self, count: int, entries: StoredArray, structure: tuple[StoredArray, StoredArray], prepared: Prepared) -> None:
        """Wraps arrays; ``prepared`` is the derivative at one point."""
        chosen = prepared.query.chosen
        super().__init__(count, entries, structure, matrix_shape(prepared.query.derivative, chosen))
        second = prepared.query.derivative is Derivative.HESSIAN
        rows, columns = (chosen.wrt_types if second else chosen.output_types), chosen.wrt_types
        self._bands = _bands(rows, range(len(rows)) if second else chosen.outputs), _bands(columns, range(len(columns)))
        self._prepared = prepared
        self._second = second

    def _at(self, found: Mapping[ArrayKey, np.ndarray], at: int) -> Any:
        return self._prepared.build({key: array[0] for key, array in self._blocks(found, [at]).items()})

    def _stacked(self, found: Mapping[ArrayKey, np.ndarray]) -> Any:
        return self._prepared.build(self._blocks(found, range(len(found[self._key]))))

    def _blocks(self, found: Mapping[ArrayKey, np.ndarray], points: Sequence[int]) -> dict[ArrayKey, np.ndarray]:
        """Returns each array of the derivative, with a first axis for the points."""
        expected = self._prepared.query.expected
        blocks = {key: np.empty((len(points), *array.type.shape), tensor.DTYPES[array.type.dtype]) for key, array in expected.items()}
        for number, at in enumerate(points):
            matrix = self._matrix({self._key: found[self._key][at]})
            for key, block in blocks.items():
                (_, output, first, second), (rows, columns) = key, self._bands
                part = matrix[rows[first] if self._second else rows[output], columns[second] if self._second else columns[first]]
                block[number] = part.toarray().reshape(block.shape[1:])
        return blocks


class JobResult(Sequence[Any]):
    """What a job has computed; also while it runs, as far as it has come. Nothing is read before it is asked for.

    ``result[i]`` is what ``client.jacobian(f)(point)``, or whatever the job computes, returns at point ``i``; ``result[a:b]`` is the same for several
    points, each array with a further first axis. Those of a job with ``output="csr"`` are ``scipy.sparse.csr_array``, a slice is a list of them.
    Points that are not finished raise ``jl.JobError``.

    Example:
        >>> result = client.job("jobs/0123456789abcdef0123").result()
        >>> result[0].shape, result[10:20].shape
        ((3, 2), (10, 3, 2))
    """

    def __init__(self, count: int, arrays: Mapping[str, StoredArray], derivative: PerPoint, value: PerPoint | None) -> None:
        """Wraps arrays; use ``job.result()`` instead."""
        self.arrays = MappingProxyType(arrays)
        """All arrays as the store has them, by path: ``result.arrays["jacobian"][3]``."""
        self._count = count
        self._derivative = derivative
        self._value = value

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._derivative[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._derivative)

    @property
    def value(self) -> PerPoint:
        """The function's own values, read in the same way.

        Raises:
            JobError: if the job stores none.
        """
        if self._value is None:
            raise JobError("this job stores no values of the function; client.submit(..., derivative='value') computes them")
        return self._value

    @property
    def status(self) -> np.ndarray:
        """What became of each point, as of now: 0 not done, 1 done, 2 done with a NaN or an Inf, 3 failed; shape ``(points,)``, ``uint8``."""
        return self.arrays[STATUS][:]

    def __repr__(self) -> str:
        return f"<jacloom.JobResult of {self._count:,} points: {', '.join(self.arrays)}>"


def result(session: Session, record: JobRecord, deadline: Deadline) -> JobResult:
    """Returns the results of a job, for which the service's own description of the function is enough.

    Raises:
        JobError: if there are none, because the job was not planned (yet).
        FunctionNotFoundError: if the service has forgotten the function.
    """
    if not record.arrays:
        why = f": {record.message}" if record.message else ""
        raise JobError(f"job {record.id} is {record.state.value} and has no results{'' if record.state.ended else ' yet; job.wait() waits'}{why}")
    binding = _binding(session, record, deadline)
    count = record.progress.points
    stored = {array.path: _stored(session.connection, record.id, array) for array in (*record.arrays, status_array(count))}
    value = Evaluation().prepared(binding)
    has_values = all(key in {array.key for array in record.arrays} for key in value.query.expected)
    values = _dense(count, record.arrays, stored, value) if has_values else None
    return JobResult(count, stored, _derivative(record, binding, stored), values)


def _binding(session: Session, record: JobRecord, deadline: Deadline) -> Binding:
    remote = session.registry.get(record.function, deadline)
    signature = remote.signature
    numbers = iter(range(len(signature.inputs)))
    slots = tuple(None if at in signature.fixed else next(numbers) for at in range(signature.arguments.count))
    return Binding(signature, remote.function, signature.arguments, signature.keywords, slots)


def _derivative(record: JobRecord, binding: Binding, stored: Mapping[str, StoredArray]) -> PerPoint:
    by_part = {array.key[0]: stored[array.path] for array in record.arrays}
    # A job that mixes complex inputs and outputs was made for a holomorphic function, else it would not be.
    first = [binding.signature.inputs[slot] for leaf in binding.spans[0] if (slot := binding.slots[leaf]) is not None]
    holomorphic = any(map(is_complex, first)) and any(map(is_complex, binding.signature.outputs))
    prepared = stored_transform(record.derivative, sparse=record.sparse, holomorphic=holomorphic).prepared(binding)
    count = record.progress.points
    if Part.ENTRIES not in by_part:
        return _dense(count, record.arrays, stored, prepared)
    missing = [part.name.lower() for part in _STRUCTURE if part not in by_part]
    if missing:
        raise ProtocolError(f"the service told of a sparse derivative without its {' and '.join(missing)}")
    structure = by_part[Part.POINTERS], by_part[Part.INDICES]
    if record.sparse:
        return SparsePerPoint(count, by_part[Part.ENTRIES], structure, matrix_shape(prepared.query.derivative, prepared.query.chosen))
    return ColouredPerPoint(count, by_part[Part.ENTRIES], structure, prepared)


def _bands(types: Sequence[Type], names: Iterable[int]) -> dict[int, slice]:
    """Returns the rows, or columns, of a matrix that belong to each leaf."""
    ends = np.cumsum([type_.size for type_ in types]).tolist()
    return {name: slice(end - type_.size, end) for name, type_, end in zip(names, types, ends, strict=True)}


def _dense(count: int, arrays: Sequence[JobArray], stored: Mapping[str, StoredArray], prepared: Prepared) -> PerPoint:
    paths = {array.key: array.path for array in arrays}
    expected = prepared.query.expected
    missing = [key for key in expected if key not in paths]
    if missing:
        raise ProtocolError(f"the service told of results without the array (part {missing[0][0]}, output {missing[0][1]}, inputs {missing[0][2:]})")
    types = {key: array.type for key, array in expected.items()}
    return PerPoint(count, {key: stored[paths[key]] for key in expected}, types, prepared.build)


def _stored(connection: Connection, job: str, array: JobArray) -> StoredArray:
    return StoredArray(array.path, *array.stored, lambda path, points: read(connection, job, path, points, Deadline(None)))


def _as_computed(array: np.ndarray, type_: Type) -> np.ndarray:
    """Returns stored elements in the function's own dtype: Zarr has no bfloat16, whose values float32 holds."""
    dtype, shape = tensor.storage(type_)
    if array.shape[1:] != shape or (array.dtype != dtype and (type_.dtype, array.dtype.name) != ("bfloat16", "float32")):
        raise ProtocolError(f"the results have {array.dtype}{list(array.shape[1:])} for each point, the function gives {type_}")
    return array.astype(dtype, copy=False)


def _position(index: Any, count: int) -> int:
    try:
        at = operator.index(index)
    except TypeError:
        raise TypeError(f"results are indexed by points: expected an integer or a slice, got {type(index).__name__}") from None
    if not -count <= at < count:
        raise IndexError(f"point {at} of {count:,}: the points are numbered from 0 to {count - 1:,}")
    return at % count
