"""What each kind of kernel computes, as a function that JAX can compile.

Tiles take the number of their first seed. The function's own value is computed once a tile: seeds are batched by ``vmap``, the point is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, assert_never

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jacloom_graph.tensor import DTYPES, promote, storage
from jacloom_graph.types import Type
from jacloom_worker import seeds
from jacloom_worker.infer import Apply, abstract, enter, leave, struct
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.pruning import pruned

_REVERSE = frozenset({Kind.VJP, Kind.REVERSE})
"""The kinds that differentiate the function in reverse."""
_EITHER = frozenset({Kind.GRADIENT, Kind.HVP, Kind.HESSIAN})
"""The kinds whose first derivative is taken in the mode ``Kernel.inner``."""

START = Type("int64")
"""Type of the last argument of tiles: the number of the first seed."""


def colours_type(kernel: Kernel, wrt: Sequence[Type], outputs: Sequence[Type]) -> Type:
    """Returns the type of a coloured kernel's colours: one for each entry that a seed may have."""
    return Type("int32", (sum(type_.size for type_ in (outputs if kernel.kind is Kind.REVERSE else wrt)),))


@dataclass(frozen=True, slots=True)
class Subject:
    """A function to differentiate."""

    apply: Apply
    inputs: tuple[Type, ...]
    outputs: tuple[Type, ...]
    constants: tuple[Any, ...] = ()
    """Large constants as arrays: arguments of what is compiled, never differentiated. Small ones ``apply`` closes over."""
    reversible: Apply | None = None
    """The same function for reverse mode, where ``apply`` itself cannot be differentiated so: loops of unknown length take another form for it."""
    reverse_rules: bool = False
    """Whether there are functions in it that have a reverse rule only."""


@dataclass(frozen=True, slots=True)
class Computation:
    """A traceable function with the types of what it takes and gives."""

    call: Callable[..., list[jax.Array]]
    """``(constants, *arguments) -> results``."""
    constants: tuple[Any, ...]
    arguments: tuple[Type, ...]
    """One per input leaf, then the seeds: one per wrt leaf or output, or ``START`` for tiles, with the colours before it if they are coloured. Keys
    are passed as their raw data."""
    leaves: int
    """How many of the arguments are input leaves."""
    results: tuple[Type, ...]
    """As ``protocol.Done.arrays`` has them, ``count`` being the width."""


def computation(subject: Subject, kernel: Kernel) -> Computation:
    """Returns what a kernel computes, not yet compiled. ``kernel`` must have passed ``requirements.check``."""
    wrt = tuple(subject.inputs[index] for index in kernel.wrt)
    outputs = tuple(subject.outputs[index] for index in kernel.outputs)
    values = tuple(_stored_type(subject.outputs[index]) for index in kernel.values)
    extra: tuple[Type, ...] = (START,)
    method: Callable[..., list[jax.Array]]
    match kernel.kind:
        case Kind.VALUE:
            method, extra, results = _Point.value, (), values
        case Kind.JVP:
            method, extra, results = _Point.jvp, wrt, outputs + values
        case Kind.VJP:
            method, extra, results = _Point.vjp, outputs, wrt + values
        case Kind.GRADIENT:
            method, extra, results = _Point.gradient, (), wrt + values
        case Kind.HVP:
            method, extra, results = _Point.hvp, wrt, wrt + values
        case Kind.FORWARD:
            method, results = _Point.forward, tuple(Type(output.dtype, (output.size, kernel.width)) for output in outputs)
        case Kind.REVERSE:
            method, results = _Point.reverse, tuple(Type(leaf.dtype, (kernel.width, leaf.size)) for leaf in wrt)
        case Kind.HESSIAN:
            method, results = _Point.hessian, _hessian_blocks(outputs, wrt, kernel.width)
        case _:
            assert_never(kernel.kind)
    if kernel.coloured:
        extra = (colours_type(kernel, wrt, outputs), START)
        results = results if kernel.kind is Kind.REVERSE else tuple(Type(type_.dtype, type_.shape[::-1]) for type_ in results)
        method = _Point.coloured

    def call(constants: Sequence[Any], *arguments: jax.Array) -> list[jax.Array]:
        count = len(subject.inputs)
        leaves = [enter(type_, argument) for type_, argument in zip(subject.inputs, arguments[:count], strict=True)]
        return method(_Point(subject, kernel, wrt, outputs, constants, leaves), *arguments[count:])

    return Computation(call, subject.constants, (*subject.inputs, *extra), len(subject.inputs), results)


def traced(subject: Subject, kernel: Kernel) -> ClosedJaxpr:
    """Returns the program of a kernel, traced for the types of its arguments only: of constants, too, dtype and shape are looked at.

    Its inputs are the subject's constants, the input leaves and the seeds. Whatever tracing raises passes through.
    """
    made = computation(subject, kernel)
    return jax.make_jaxpr(made.call)(abstract(made.constants), *map(struct, made.arguments))


@dataclass(frozen=True)
class _Point:
    """A function at a point, while it is traced. Each kind of kernel is a method that takes the seeds."""

    subject: Subject
    kernel: Kernel
    wrt: tuple[Type, ...]
    outputs: tuple[Type, ...]
    constants: Sequence[Any]
    leaves: Sequence[jax.Array]

    def value(self) -> list[jax.Array]:
        return self.restricted()[1]

    def jvp(self, *tangents: jax.Array) -> list[jax.Array]:
        _, out, values = jax.jvp(self.restricted, self.active, tangents, has_aux=True)
        return [*out, *values]

    def vjp(self, *cotangents: jax.Array) -> list[jax.Array]:
        _, pullback, values = jax.vjp(self.restricted, *self.active, has_aux=True)
        return [*pullback(list(cotangents)), *values]

    def gradient(self) -> list[jax.Array]:
        gradient, values = self.slope(*self.active)
        return [*gradient, *values]

    def hvp(self, *tangents: jax.Array) -> list[jax.Array]:
        # Forward over reverse, if not asked otherwise: a few times the cost of the gradient whatever its size, and the only order that a
        # checkpointed loop supports.
        _, product, values = jax.jvp(self.slope, self.active, tangents, has_aux=True)
        return [*product, *values]

    def forward(self, start: jax.Array) -> list[jax.Array]:
        columns = self.columns(self.differentiated, self.active, self.numbers(start))
        return [column.reshape(output.size, self.kernel.width) for column, output in zip(columns, self.outputs, strict=True)]

    def reverse(self, start: jax.Array) -> list[jax.Array]:
        rows = self.rows(self.active, self.numbers(start))
        return [row.reshape(self.kernel.width, leaf.size) for row, leaf in zip(rows, self.wrt, strict=True)]

    def hessian(self, start: jax.Array) -> list[jax.Array]:
        columns = self.columns(self.jacobian, self.active, self.numbers(start))
        # Jacobians by columns and by rows have different dtypes where those of outputs and leaves differ; the answer has that which holds both.
        blocks = zip(columns, _hessian_blocks(self.outputs, self.wrt, self.kernel.width), strict=True)
        return [column.reshape(block.shape).astype(DTYPES[block.dtype]) for column, block in blocks]

    @cached_property
    def active(self) -> tuple[jax.Array, ...]:
        """The wrt leaves."""
        return tuple(self.leaves[index] for index in self.kernel.wrt)

    @property
    def apply(self) -> Apply:
        """The function in the form that the kernel's mode needs."""
        reverse = self.kernel.inner == "reverse" if self.kernel.kind in _EITHER else self.kernel.kind in _REVERSE
        return self.subject.reversible or self.subject.apply if reverse else self.subject.apply

    def coloured(self, colours: jax.Array, start: jax.Array) -> list[jax.Array]:
        """Returns what passes along colours give, one row a pass, whatever the mode: of each the entries are picked that the pattern has."""
        numbers, width = self.numbers(start), self.kernel.width
        if self.kernel.kind is Kind.REVERSE:
            _, pullback = jax.vjp(self.differentiated, *self.active)
            rows = jax.vmap(lambda number: pullback(seeds.coloured(number, colours, self.outputs)))(numbers)
            return [row.reshape(width, leaf.size) for row, leaf in zip(rows, self.wrt, strict=True)]
        second = self.kernel.kind is Kind.HESSIAN
        function = self.jacobian if second else self.differentiated

        def column(number: jax.Array) -> Sequence[jax.Array]:
            tangents: Sequence[jax.Array] = jax.jvp(function, self.active, tuple(seeds.coloured(number, colours, self.wrt)))[1]
            return tangents

        columns = self.batched(column, numbers, 0)
        if not second:
            return [column.reshape(width, output.size) for column, output in zip(columns, self.outputs, strict=True)]
        blocks = zip(columns, _hessian_blocks(self.outputs, self.wrt, width), strict=True)
        return [column.reshape(block.shape[::-1]).astype(DTYPES[block.dtype]) for column, block in blocks]

    def numbers(self, start: jax.Array) -> jax.Array:
        return seeds.numbers(start, self.kernel.width)

    def restricted(self, *active: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns the differentiated outputs and the values, as a function of the wrt leaves alone."""
        arguments = list(self.leaves)
        for index, leaf in zip(self.kernel.wrt, active, strict=False):
            arguments[index] = leaf
        results = self.apply(self.constants, arguments)
        return [jnp.asarray(results[index]) for index in self.kernel.outputs], [jnp.asarray(leave(results[index])) for index in self.kernel.values]

    def differentiated(self, *active: jax.Array) -> list[jax.Array]:
        return self.restricted(*active)[0]

    def slope(self, *active: jax.Array) -> tuple[tuple[jax.Array, ...], list[jax.Array]]:
        """Returns the gradient of the one scalar output, and the values."""
        if self.kernel.inner == "forward":
            columns, values = self.columns_and_values(active, seeds.numbers(0, sum(leaf.size for leaf in self.wrt)))
            parts = _split(columns[0].reshape(1, -1), [leaf.size for leaf in self.wrt], axis=1)
            return tuple(part.reshape(leaf.shape).astype(DTYPES[leaf.dtype]) for part, leaf in zip(parts, self.wrt, strict=True)), values
        (out,), pullback, values = jax.vjp(self.restricted, *active, has_aux=True)
        return pullback([jnp.ones_like(out)]), values

    def columns(self, function: Callable[..., Sequence[jax.Array]], active: tuple[jax.Array, ...], numbers: jax.Array) -> list[jax.Array]:
        """Returns the columns of a function's Jacobian that ``numbers`` name: one ``(*shape(out), len(numbers))`` per output."""

        def column(number: jax.Array) -> Sequence[jax.Array]:
            tangents: Sequence[jax.Array] = jax.jvp(function, active, tuple(seeds.unit(number, self.wrt)))[1]
            return tangents

        # vmap of jvp, not jax.linearize. One thread, tiles of 64: Lorenz-96 (n = 512, 400 steps) 1.10 s against 1.25 s, tanh(W x) 49 ms
        # against 54 ms; tiles of 16: 1.42 s against 1.79 s. Under jit both compute the primal once a tile.
        return list(self.batched(column, numbers, -1))

    def columns_and_values(self, active: tuple[jax.Array, ...], numbers: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns the columns of the differentiated outputs' Jacobian that ``numbers`` name, as ``columns``, and the values."""

        def column(number: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
            _, tangents, values = jax.jvp(self.restricted, active, tuple(seeds.unit(number, self.wrt)), has_aux=True)
            return tangents, values

        columns, values = self.batched(column, numbers, (-1, None))
        return list(columns), list(values)

    def batched(self, column: Callable[[jax.Array], Any], numbers: jax.Array, out_axes: Any) -> Any:
        """Returns what one forward pass yields, for each of some seeds: ``jax.vmap``."""
        if self.subject.reverse_rules:
            # JAX refuses to batch a JVP that there is not, also where nothing comes of it: a rule that calls its function again, say, whose value is
            # not needed. What is left of one pass has none, if it can be had.
            closed, shapes = jax.make_jaxpr(column, return_shape=True)(jax.ShapeDtypeStruct((), numbers.dtype))
            flat, structure = jaxpr_as_fun(ClosedJaxpr(pruned(closed.jaxpr), closed.consts)), jax.tree.structure(shapes)
            column = lambda number: jax.tree.unflatten(structure, flat(number))  # noqa: E731
        return jax.vmap(column, out_axes=out_axes)(numbers)

    def rows(self, active: tuple[jax.Array, ...], numbers: jax.Array) -> list[jax.Array]:
        """Returns the rows of the Jacobian that ``numbers`` name: one ``(len(numbers), *shape(leaf))`` per wrt leaf."""
        _, pullback = jax.vjp(self.differentiated, *active)
        return list(jax.vmap(lambda number: pullback(seeds.unit(number, self.outputs)))(numbers))

    def jacobian(self, *active: jax.Array) -> list[jax.Array]:
        """Returns the whole Jacobian: for each output, for each wrt leaf, one ``(size(out), size(leaf))``."""
        heights, widths = [output.size for output in self.outputs], [leaf.size for leaf in self.wrt]
        m, n = sum(heights), sum(widths)
        if self.kernel.inner == "forward":
            columns = self.columns(self.differentiated, active, seeds.numbers(0, n))  # [leaf(out)]
            bands = [_split(column.reshape(height, n), widths, axis=1) for column, height in zip(columns, heights, strict=True)]
            return [block for band in bands for block in band]
        if m == 1:  # a gradient, without a batch around it
            _, pullback = jax.vjp(self.differentiated, *active)
            rows = list(pullback(seeds.unit(0, self.outputs)))
        else:
            rows = self.rows(active, seeds.numbers(0, m))  # [leaf(in)]
        bands = [_split(row.reshape(m, width), heights, axis=0) for row, width in zip(rows, widths, strict=True)]
        return [band[index] for index in range(len(heights)) for band in bands]


def _hessian_blocks(outputs: Sequence[Type], wrt: Sequence[Type], width: int) -> tuple[Type, ...]:
    return tuple(Type(promote(output.dtype, leaf.dtype), (output.size * leaf.size, width)) for output in outputs for leaf in wrt)


def _split(block: jax.Array, sizes: Sequence[int], axis: int) -> list[jax.Array]:
    """Returns a matrix cut into consecutive pieces of the given sizes along an axis."""
    pieces, first = [], 0
    for size in sizes:
        pieces.append(jax.lax.slice_in_dim(block, first, first + size, axis=axis))
        first += size
    return pieces


def _stored_type(type_: Type) -> Type:
    dtype, shape = storage(type_)
    return Type(dtype.name, shape)
