"""What a kernel asks of the function it differentiates; checked before anything is traced."""

from __future__ import annotations

from collections.abc import Sequence

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import INEXACT
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
            and for a tile without width; MODE_UNAVAILABLE where JAX's conventions for complex numbers leave only the other mode.
    """
    _check_indices("wrt", kernel.wrt, inputs, "input")
    _check_indices("outputs", kernel.outputs, outputs, "output")
    _check_indices("values", kernel.values, outputs, "output", inexact=False)
    if kernel.kind in TILES and kernel.width < 1:
        raise Fault(Reason.INVALID_OPTION, f"a tile has at least one seed, got width {kernel.width}", field="options.tile")
    if kernel.kind in _SCALAR:
        chosen = [outputs[index] for index in kernel.outputs]
        if len(chosen) != 1 or chosen[0].shape != ():
            got = ", ".join(map(str, chosen)) or "none"
            text = f"a {kernel.kind.value} is that of one scalar output, got {got}; return a scalar, or ask for the Jacobian"
            raise Fault(Reason.INVALID_OPTION, text, field="outputs")
    _check_complex(kernel, inputs, outputs)


def _check_indices(field: str, indices: Sequence[int], types: Sequence[Type], what: str, *, inexact: bool = True) -> None:
    for position, index in enumerate(indices):
        where = f"{field}[{position}]"
        if not 0 <= index < len(types):
            raise Fault(Reason.INVALID_OPTION, f"the function has {len(types)} {what} leaves, numbered from 0; got {index}", field=where)
        if inexact and types[index].dtype not in INEXACT:
            text = f"{what} leaf {index} is {types[index]}, and only floating and complex leaves have derivatives; leave it out"
            raise Fault(Reason.INVALID_OPTION, text, field=where)
    if len(set(indices)) != len(indices):
        raise Fault(Reason.INVALID_OPTION, f"a leaf may be named once, got {list(indices)}", field=field)


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
