"""Options of a Jacobian or a Hessian, whether it is computed or explained: checked as soon as they are passed."""

from __future__ import annotations

from jacloom._client.methods import label
from jacloom._options import check_mode, check_tile
from jacloom._session import AnyFunction
from jacloom._sparsity import Output, Sparsity, check_output, pattern
from jacloom._transform import Transform


def sparse_options(method: str, f: AnyFunction, sparsity: Sparsity, output: Output) -> tuple[Sparsity, Output]:
    """Returns the sparsity, read if it is a pattern, and the output.

    Raises:
        OptionError: if one is none, or they do not go together.
    """
    call = f"client.{method}({label(f)}, ...)"
    given = pattern(call, sparsity)
    check_output(call, output, sparsity)
    return sparsity if given is None else given, output


def check_passes(f: AnyFunction, transform: Transform, mode: str, tile: object) -> None:
    """Raises OptionError unless a matrix can have this mode and tile."""
    call = transform.spelled(label(f))
    check_mode(call, mode)
    check_tile(call, tile)
