"""What each kind of kernel computes, as a function that JAX can compile.

Tiles take the number of their first seed. The function's own value is computed once a tile: seeds are batched by ``vmap``, the point is not. A kernel
of several points is that of one, batched as a whole: see ``several``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, assert_never

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from jacloom_graph.answer import batched
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import DTYPES, promote, storage
from jacloom_graph.types import Type
from jacloom_worker import seeds, several
from jacloom_worker.infer import Apply, abstract, enter, leave, struct
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.pruning import without_unused

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
    """One per input leaf, then the seeds: one per wrt leaf or output, of a batch with a first axis, or ``START`` for tiles, with the colours before
    it if they are coloured. Keys are passed as their raw data. Of several points, ``Kernel.varying`` have a further first axis."""
    leaves: int
    """How many of the arguments are input leaves."""
    results: tuple[Type, ...]
    """As ``protocol.Done.arrays`` has them, ``count`` being the width; of several points with a further first axis."""


def computation(subject: Subject, kernel: Kernel) -> Computation:
    """Returns what a kernel computes, not yet compiled. ``kernel`` must have passed ``requirements.check``."""
    wrt = tuple(subject.inputs[index] for index in kernel.wrt)
    outputs = tuple(subject.outputs[index] for index in kernel.outputs)
    values = tuple(_stored_type(subject.outputs[index]) for index in kernel.values)
    extra: tuple[Type, ...] = (START,)
    method: Callable[..., list[jax.Array]]

    def seeded(types: tuple[Type, ...]) -> tuple[Type, ...]:
        return tuple(batched(type_, kernel.width) for type_ in types)

    match kernel.kind:
        case Kind.VALUE:
            method, extra, results = _Point.value, (), values
        case Kind.JVP:
            method, extra, results = _Point.jvp, seeded(wrt), seeded(outputs) + values
        case Kind.VJP:
            method, extra, results = _Point.vjp, seeded(outputs), seeded(wrt) + values
        case Kind.GRADIENT:
            method, extra, results = _Point.gradient, (), wrt + values
        case Kind.HVP:
            method, extra, results = _Point.hvp, seeded(wrt), seeded(wrt) + values
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
        return method(_Point.of(subject, kernel, constants, arguments[:count]), *arguments[count:])

    arguments = (*subject.inputs, *extra)
    if kernel.points:
        call = several.several(call, arguments, kernel.points, kernel.varying)
        arguments = tuple(several.repeated(type_, kernel.points) if index in kernel.varying else type_ for index, type_ in enumerate(arguments))
        results = tuple(several.repeated(type_, kernel.points) for type_ in results)
    return Computation(call, subject.constants, arguments, len(subject.inputs), results)


def linearization(subject: Subject, kernel: Kernel) -> Callable[..., tuple[Any, list[jax.Array]]]:
    """Returns ``(constants, *leaves) -> (map, values)``, traceable: the map takes the seeds of a single pass of a JVP, VJP or HVP to its products.

    The map is a pytree, whose leaves are all that it needs of the point.
    """

    def call(constants: Sequence[Any], *leaves: jax.Array) -> tuple[Any, list[jax.Array]]:
        point = _Point.of(subject, kernel, constants, leaves)
        match kernel.kind:
            case Kind.JVP:
                _, pushforward, values = jax.linearize(point.restricted, *point.active, has_aux=True)
                return pushforward, values
            case Kind.VJP:
                _, pullback, values = jax.vjp(point.restricted, *point.active, has_aux=True)
                return jax.tree_util.Partial(_of_several, pullback), values
            case Kind.HVP:
                _, pushforward, values = jax.linearize(point.slope, *point.active, has_aux=True)
                return pushforward, values
            case _:
                raise Fault(Reason.INTERNAL, f"a kernel of kind {kernel.kind.value} has no seeds that its point could be kept apart from")

    return call


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

    @staticmethod
    def of(subject: Subject, kernel: Kernel, constants: Sequence[Any], stored: Sequence[jax.Array]) -> _Point:
        """Returns the point that arguments are, one array per input leaf, as they travel."""
        wrt = tuple(subject.inputs[index] for index in kernel.wrt)
        outputs = tuple(subject.outputs[index] for index in kernel.outputs)
        leaves = [enter(type_, array) for type_, array in zip(subject.inputs, stored, strict=True)]
        return _Point(subject, kernel, wrt, outputs, constants, leaves)

    def value(self) -> list[jax.Array]:
        return self.restricted()[1]

    def jvp(self, *tangents: jax.Array) -> list[jax.Array]:
        return self.along(lambda *seed: jax.jvp(self.restricted, self.active, seed, has_aux=True)[1:], tangents)

    def vjp(self, *cotangents: jax.Array) -> list[jax.Array]:
        _, pullback, values = jax.vjp(self.restricted, *self.active, has_aux=True)
        return self.along(lambda *seed: (pullback(list(seed)), values), cotangents)

    def gradient(self) -> list[jax.Array]:
        gradient, values = self.slope(*self.active)
        return [*gradient, *values]

    def hvp(self, *tangents: jax.Array) -> list[jax.Array]:
        # Forward over reverse, if not asked otherwise: a few times the cost of the gradient whatever its size, and the only order that a
        # checkpointed loop supports.
        return self.along(lambda *seed: jax.jvp(self.slope, self.active, seed, has_aux=True)[1:], tangents)

    def along(self, product: Callable[..., tuple[Sequence[jax.Array], Sequence[jax.Array]]], given: tuple[jax.Array, ...]) -> list[jax.Array]:
        """Returns the product with one seed, or with each seed of a batch, then the values; ``product`` returns both for one seed."""
        products, values = self.batched(product, given, (0, None)) if self.kernel.batched else product(*given)
        return [*products, *values]

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

        columns = self.batched(column, (numbers,), 0)
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
        return list(self.batched(column, (numbers,), -1))

    def columns_and_values(self, active: tuple[jax.Array, ...], numbers: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns the columns of the differentiated outputs' Jacobian that ``numbers`` name, as ``columns``, and the values."""

        def column(number: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
            _, tangents, values = jax.jvp(self.restricted, active, tuple(seeds.unit(number, self.wrt)), has_aux=True)
            return tangents, values

        columns, values = self.batched(column, (numbers,), (-1, None))
        return list(columns), list(values)

    def batched(self, column: Callable[..., Any], batch: tuple[jax.Array, ...], out_axes: Any) -> Any:
        """Returns what one pass yields, for each of some seeds or of their numbers, which lie along first axes: ``jax.vmap``."""
        if self.subject.reverse_rules:
            column = without_unused(column, *(jax.ShapeDtypeStruct(each.shape[1:], each.dtype) for each in batch))
        return jax.vmap(column, out_axes=out_axes)(*batch)

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


def _of_several(pullback: Callable[[list[jax.Array]], Sequence[jax.Array]], *cotangents: jax.Array) -> Sequence[jax.Array]:
    return pullback(list(cotangents))


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
