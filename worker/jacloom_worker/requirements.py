"""What a kernel asks of the function it differentiates; checked before anything is traced."""

from __future__ import annotations

from collections.abc import Sequence

from jacloom_graph import leaves
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_worker.protocol import Kernel, Kind

TILES = frozenset({Kind.FORWARD, Kind.REVERSE, Kind.HESSIAN})
"""The kinds that compute a tile of seeds."""

_SCALAR = frozenset({Kind.GRADIENT, Kind.HVP})


def check(kernel: Kernel, inputs: Sequence[Type], outputs: Sequence[Type]) -> None:
    """Checks that a kernel makes sense for a function.

    Args:
        kernel: The kernel asked for.
        inputs: Types of the function's input leaves.
        outputs: Types of the function's output leaves.

    Raises:
        Fault: INVALID_OPTION for leaves that are not there, are named twice or have no derivative, for a gradient of what is not one scalar,
            for a tile without width, and for points that differ in nothing; MODE_UNAVAILABLE where JAX's conventions for complex numbers leave
            only the other mode.
    """
    leaves.choose(kernel.wrt, inputs, "wrt", differentiated=True)
    chosen = leaves.choose(kernel.outputs, outputs, "outputs", differentiated=True)
    leaves.choose(kernel.values, outputs, "values", differentiated=False)
    if kernel.kind in TILES and kernel.width < 1:
        raise Fault(Reason.INVALID_OPTION, f"a tile has at least one seed, got width {kernel.width}", field="options.tile")
    if kernel.kind in _SCALAR:
        leaves.require_scalar(chosen, f"a {kernel.kind.value}")
    if kernel.points or kernel.varying:
        _check_points(kernel, len(inputs))
    _check_complex(kernel, inputs, outputs)


def _check_points(kernel: Kernel, inputs: int) -> None:
    """Checks what a kernel of several points says of them."""
    most = inputs + kernel.seeds
    if kernel.points < 1 or kernel.batched:
        what = "a batch of seeds is for one point" if kernel.batched else f"got {kernel.points} points"
        raise Fault(Reason.INVALID_OPTION, f"a kernel whose arguments vary is for at least one point and one seed of each; {what}", field="points")
    if not kernel.varying or len(set(kernel.varying)) < len(kernel.varying) or not all(0 <= index < most for index in kernel.varying):
        text = f"several points differ in some of the {most} arguments, each named once by its index; got {kernel.varying}"
        raise Fault(Reason.INVALID_OPTION, text, field="points")


def _check_complex(kernel: Kernel, inputs: Sequence[Type], outputs: Sequence[Type]) -> None:
    """Holds the conventions of ``jax.jacfwd``, ``jax.jacrev``, ``jax.grad`` and ``jax.hessian``."""
    if kernel.kind in (Kind.VALUE, Kind.JVP, Kind.VJP):
        return
    if kernel.holomorphic:
        for field, indices, types in (("wrt", kernel.wrt, inputs), ("outputs", kernel.outputs, outputs)):
            for position, index in enumerate(indices):
                if not _is_complex(types[index]):
                    text = f"a holomorphic function takes and gives complex numbers, got {types[index]}; drop holomorphic, or convert to complex"
                    raise Fault(Reason.INVALID_OPTION, text, field=f"{field}[{position}]")
        return
    complex_in = any(_is_complex(inputs[index]) for index in kernel.wrt)
    complex_out = any(_is_complex(outputs[index]) for index in kernel.outputs)
    way_out = "set holomorphic=True if the function is holomorphic, else split it into real and imaginary parts"
    # An HVP is one JVP of the gradient along a tangent that the caller gives, which complex numbers do not trouble.
    if complex_in and kernel.kind in (Kind.FORWARD, Kind.HESSIAN):
        raise Fault(
            Reason.MODE_UNAVAILABLE, f"columns with respect to complex inputs are not defined; use reverse mode for real outputs, or {way_out}"
        )
    if complex_out and kernel.kind is not Kind.FORWARD:
        text = f"rows for complex outputs are not defined; use forward mode for real inputs, or {way_out}"
        raise Fault(Reason.MODE_UNAVAILABLE, text)


def _is_complex(type_: Type) -> bool:
    return type_.dtype.startswith("complex")
