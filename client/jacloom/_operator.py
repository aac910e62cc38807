"""A derivative as SciPy's ``LinearOperator``: what iterative solvers and optimizers take in place of a matrix."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import numpy as np
from scipy.sparse.linalg import LinearOperator

from jacloom._deadline import Deadline
from jacloom._linear import Linear, Side, sides
from jacloom._options import CallOptions
from jacloom._point import Point
from jacloom._session import AnyFunction, Session, located
from jacloom._signature import is_complex
from jacloom_graph.answer import ArrayKey, Part, entries_dtype
from jacloom_graph.tensor import DTYPES, nbytes
from jacloom_graph.types import Type

CALL_BYTES: Final = 256 << 20
"""Vectors and products of one call together; more columns are multiplied call after call, so that they find room on the service."""


class DerivativeOperator(LinearOperator):  # type: ignore[misc]  # SciPy has no types
    """The derivative of a function at a point, shape ``(m, n)``; made by ``client.linear_operator``, which says what its products are.

    The point stays on the service until ``close``, the end of a ``with`` block, or the end of this object. Safe to share between threads.
    """

    def __init__(
        self,
        session: Session,
        f: AnyFunction,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        question: Linear,
        weights: Any,
        timeout: float | None,
    ) -> None:
        self._session = session
        self._question = question
        self._options = CallOptions(timeout)
        binding, leaves = session.bind(f, args, kwargs, Deadline(timeout))
        with located(binding):
            self._chosen = question.chosen(binding)
            self._point = Point(f, binding, leaves, question.weights(binding, weights), self._chosen.weight_types)
        self._forward, self._transposed = sides(question, self._chosen)
        shape = _size(self._forward.products), _size(self._forward.seeds)
        super().__init__(DTYPES[entries_dtype(self._chosen)], shape)
        self._finalizer = weakref.finalize(self, session.exchange.discard, self._point)
        # At the end of the process leases run out by themselves.
        self._finalizer.atexit = False

    def close(self) -> None:
        """Lets the service drop the point. Products after this are refused; closing twice does nothing."""
        self._finalizer.detach()
        self._point.release(self._session.connection)

    def __enter__(self) -> DerivativeOperator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._times(self._forward, x.reshape(1, -1)).reshape(-1)

    def _rmatvec(self, x: np.ndarray) -> np.ndarray:
        return self._rmatmat(x.reshape(-1, 1)).reshape(-1)

    def _matmat(self, X: np.ndarray) -> np.ndarray:
        return self._times(self._forward, X.T).T

    def _rmatmat(self, X: np.ndarray) -> np.ndarray:
        return _conjugate(self._times(self._transposed, _conjugate(X.T))).T

    def _times(self, side: Side, vectors: np.ndarray) -> np.ndarray:
        """Returns the products of the derivative, or its transpose, and vectors, which lie in rows: ``(k, size of the vectors)`` to ``(k, m or n)``.

        A pass takes real entries for real leaves, and gives real ones, of complex products the real part. So ``A v`` is ``p(v) + i p(-i v)``, where
        the pass ``p`` is along the real parts of what belongs to real leaves: of a real ``A`` that is ``A Re v + i A Im v``, and with complex
        inputs and real outputs ``Re(A v) + i Re(-i A v)``.
        """
        twice = not self._question.holomorphic and (np.iscomplexobj(vectors) or any(map(is_complex, side.seeds)))
        count = len(vectors)
        found = self._passes(side, np.concatenate([vectors, -1j * vectors]) if twice else vectors)
        products: np.ndarray = found[:count] + 1j * found[count:] if twice else found
        return products.astype(np.result_type(self.dtype, products.dtype), copy=False)

    def _passes(self, side: Side, vectors: np.ndarray) -> np.ndarray:
        """Returns what one pass along each vector gives, in as few calls as have room for them."""
        count, size = len(vectors), _size(side.products)
        if not count or not size or not vectors.shape[1]:
            return np.zeros((count, size), self.dtype)
        each = sum(nbytes(type_) for type_ in (*side.seeds, *side.products))
        step = max(1, CALL_BYTES // each)
        parts = [self._call(side, vectors[first : first + step]) for first in range(0, count, step)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _call(self, side: Side, vectors: np.ndarray) -> np.ndarray:
        count = len(vectors)
        # One vector is a single pass, which has all threads of a worker to itself.
        batch = 0 if count == 1 else count
        seeds = [part.reshape(type_.shape if not batch else (count, *type_.shape)) for part, type_ in _split(vectors, side.seeds)]
        arrays = self._session.product(self._point, self._question, self._chosen, side, seeds, batch, self._options)
        products = [arrays[_key(side.part, at, self._chosen.outputs)].reshape(count, -1) for at in range(len(side.products))]
        return products[0] if len(products) == 1 else np.concatenate(products, axis=1, dtype=_common(side.products, self.dtype))


def _split(vectors: np.ndarray, types: Sequence[Type]) -> list[tuple[np.ndarray, Type]]:
    """Returns the entries of vectors that belong to each leaf, as the leaf's dtype has them: of a real leaf the real parts."""
    found, first = [], 0
    for type_ in types:
        part = vectors[:, first : first + type_.size]
        part = part if is_complex(type_) else part.real
        found.append((np.ascontiguousarray(part, DTYPES[type_.dtype]), type_))
        first += type_.size
    return found


def _key(part: Part, at: int, outputs: Sequence[int]) -> ArrayKey:
    return (part, outputs[at], 0, 0) if part is Part.TANGENT else (part, 0, at, 0)


def _common(types: Sequence[Type], dtype: np.dtype) -> np.dtype:
    """Returns the dtype of products of several leaves: the operator's, but real where all leaves are."""
    return dtype if any(map(is_complex, types)) else np.empty(0, dtype).real.dtype


def _size(types: Sequence[Type]) -> int:
    return sum(type_.size for type_ in types)


def _conjugate(values: np.ndarray) -> np.ndarray:
    return values.conj() if np.iscomplexobj(values) else values
