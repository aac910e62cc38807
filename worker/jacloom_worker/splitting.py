"""A product with a derivative cut in two: what its point decides, and what each seed adds to that.

JAX's linearization says which values of the point a product reads. Kept are those that are not there already, as a leaf or a large constant, and
that are not as easily had from others: a vector of zeros, ``1 - y`` beside ``y``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun, jaxprs_in_params

from jacloom_worker import kernels
from jacloom_worker.flops import flops, nbytes, size
from jacloom_worker.infer import abstract, struct
from jacloom_worker.kernels import Subject
from jacloom_worker.modes import live
from jacloom_worker.price import Tally, is_elementwise, price
from jacloom_worker.protocol import Kernel
from jacloom_worker.pruning import needed, pruned

_FLOPS: Final = 2e10
_BYTES: Final = 5e10
"""What one core does in a second, as ``flops.WEIGHTS`` counts."""
_KEPT_BYTES: Final = 1e10
"""Bytes of what was kept that one core reads in a second: they lie in memory, where those of one pass are mostly in a cache."""
_VIEWS: Final = frozenset(("broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "rev", "iota", "random_wrap", "random_unwrap"))
"""Operations that compilers make part of those that read their results."""
_WORTH: Final = 0.75
"""A product from what was kept must cost less than this part of one from the start: prices are rough, and what is kept takes room."""


@dataclass(frozen=True, slots=True)
class Split:
    """A kernel of single passes in two programs."""

    point: ClosedJaxpr
    """``(constants.., leaves..) -> (kept.., values..)``."""
    seeds: ClosedJaxpr
    """``(forwarded.., kept.., seeds..) -> products``."""
    forwarded: tuple[int, ...]
    """Which of the constants and leaves, numbered one after the other, go on into the second program as they are."""
    kept: tuple[Any, ...]
    """Abstract values of the arrays that are kept, keys among them as keys."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept, values included."""
        return sum(map(nbytes, self.point.jaxpr.outvars))

    def batched(self, width: int) -> Callable[..., Sequence[jax.Array]]:
        """Returns ``seeds`` as a function for one seed (width 0), or a batch of them along first axes of seeds and products."""
        function: Callable[..., Sequence[jax.Array]] = jaxpr_as_fun(self.seeds)
        shared = len(self.forwarded) + len(self.kept)
        axes = [None] * shared + [0] * (len(self.seeds.in_avals) - shared)
        return jax.vmap(function, axes, 0) if width else function

    @property
    def pays(self) -> bool:
        """Whether a product is clearly cheaper than by a kernel that knows nothing of the point, which does what both programs do.

        Batches gain less by the count of operations, and in truth mostly as much: XLA computes parts of a point again for each seed. Measured on one
        thread, batches of 8 and of 64 through a scan of 30 steps were 1.4 to 25 times faster, and those of cheap functions no slower.
        """
        shared = len(self.forwarded) + len(self.kept)
        before = price(self.point.jaxpr, [True] * len(self.point.in_avals))
        after = price(self.seeds.jaxpr, [False] * shared + [True] * (len(self.seeds.in_avals) - shared))
        return _seconds(after) + self.nbytes / _KEPT_BYTES < _WORTH * (_seconds(before) + _seconds(after))


def split(subject: Subject, kernel: Kernel) -> Split:
    """Returns a kernel of width 0 for a JVP, VJP or HVP in two programs. Nothing is compiled or computed.

    Raises:
        Fault: MODE_UNAVAILABLE where there is no such product. Whatever tracing raises passes through.
    """
    call = kernels.linearization(subject, kernel)
    whole, (linear, _) = jax.make_jaxpr(call, return_shape=True)(abstract(subject.constants), *map(struct, subject.inputs))
    residuals, structure = jax.tree.flatten(linear)
    seeds = kernels.computation(subject, kernel).arguments[len(subject.inputs) :]

    def applied(residuals: Sequence[jax.Array], *seeds: jax.Array) -> list[Any]:
        return jax.tree.leaves(jax.tree.unflatten(structure, residuals)(*seeds))

    product = jax.make_jaxpr(applied)(residuals, *map(struct, seeds))
    return _divided(whole, ClosedJaxpr(live(product), product.consts), len(residuals))


def _divided(whole: ClosedJaxpr, product: ClosedJaxpr, residuals: int) -> Split:
    """Returns the two programs.

    Args:
        whole: From constants and leaves to residuals and values.
        product: From residuals and seeds to products.
        residuals: How many there are.
    """
    flags = needed(product.jaxpr)[:residuals]
    read = [atom for atom, flag in zip(whole.jaxpr.outvars, flags, strict=False) if flag]
    values = whole.jaxpr.outvars[residuals:]
    moved, kept = _easily_had(whole.jaxpr, read)
    inputs = {variable: number for number, variable in enumerate(whole.jaxpr.invars)}
    used = [atom for source in (read, *(eqn.invars for eqn in moved)) for atom in source if isinstance(atom, Var)]
    forwarded = tuple(sorted({inputs[variable] for variable in used if variable in inputs}))
    rest = _with(whole.jaxpr, [whole.jaxpr.invars[number] for number in forwarded] + kept, read, moved)
    again: Callable[..., Sequence[jax.Array]] = jaxpr_as_fun(ClosedJaxpr(rest, whole.consts))

    def seeds(*arguments: jax.Array) -> list[jax.Array]:
        shared = len(forwarded) + len(kept)
        found = iter(again(*arguments[:shared]))
        given = [next(found) if flag else jax.numpy.zeros(aval.shape, aval.dtype) for flag, aval in zip(flags, product.in_avals, strict=False)]
        results: list[jax.Array] = jaxpr_as_fun(product)(*given, *arguments[shared:])
        return results

    traced = jax.make_jaxpr(seeds)(*(_struct(variable.aval) for variable in rest.invars), *map(_struct, product.in_avals[residuals:]))
    point = pruned(_with(whole.jaxpr, whole.jaxpr.invars, [*kept, *values], whole.jaxpr.eqns))
    return Split(
        ClosedJaxpr(point, whole.consts),
        ClosedJaxpr(pruned(traced.jaxpr), traced.consts),
        forwarded,
        tuple(variable.aval for variable in kept),
    )


def _easily_had(jaxpr: Jaxpr, read: Sequence[Any]) -> tuple[list[JaxprEqn], list[Var]]:
    """Returns which equations of a program a product does itself, in order, and the variables that are kept for these and for what it reads."""
    given = {*jaxpr.invars, *jaxpr.constvars}
    wanted = dict.fromkeys(atom for atom in read if isinstance(atom, Var) and atom not in given)
    moved = []
    for eqn in reversed(jaxpr.eqns):
        results = [variable for variable in eqn.outvars if variable in wanted]
        if not results:
            continue
        operands = [atom for atom in eqn.invars if isinstance(atom, Var) and atom not in given]
        further = sum(nbytes(atom) for atom in dict.fromkeys(operands) if atom not in wanted)
        if _is_easy(eqn) and further < sum(map(nbytes, results)):
            moved.append(eqn)
            for variable in results:
                del wanted[variable]
            wanted |= dict.fromkeys(operands)
    return moved[::-1], list(wanted)


def _is_easy(eqn: JaxprEqn) -> bool:
    """Whether an operation costs no more than reading its result would: it moves elements, or does one thing to each."""
    if eqn.primitive.name in _VIEWS:
        return True
    return not any(True for _ in jaxprs_in_params(eqn.params)) and is_elementwise(eqn) and flops(eqn) <= sum(map(size, eqn.outvars))


def _with(jaxpr: Jaxpr, inputs: Sequence[Var], outputs: Sequence[Any], eqns: Sequence[JaxprEqn]) -> Jaxpr:
    made: Jaxpr = jaxpr.replace(invars=list(inputs), outvars=list(outputs), eqns=list(eqns), debug_info=jaxpr.debug_info.with_unknown_names())
    return made


def _struct(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))  # type: ignore[no-untyped-call, unused-ignore]


def _seconds(tally: Tally) -> float:
    """Returns about how long one core takes for a program."""
    return (tally.shared_flops + tally.seed_flops) / _FLOPS + (tally.shared_bytes + tally.seed_bytes) / _BYTES
