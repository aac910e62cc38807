"""What a job can compute at each point, each by the transformation that does so at one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, assert_never, get_args

from jacloom._errors import OptionError
from jacloom._jobs.products import PointPullback, PointPushforward
from jacloom._matrices import Hessian, Jacobian
from jacloom._options import Mode
from jacloom._outline import outline
from jacloom._sparsity import Pattern
from jacloom._transform import Evaluation, Gradient, Transform

JobDerivative = Literal["value", "jvp", "vjp", "gradient", "jacobian", "hessian"]
"""What a job computes at each point."""

_TAKEN_BY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "seeds": ("jvp", "vjp"),
        "mode": ("jacobian",),
        "sparsity": ("jacobian", "hessian"),
        "output": ("jacobian", "hessian"),
        "holomorphic": ("gradient", "jacobian", "hessian"),
    }
)
"""For each option the derivatives that take it."""


def transform(
    derivative: JobDerivative,
    *,
    mode: Mode = "auto",
    sparsity: Literal["auto", "dense"] | Pattern = "auto",
    output: Literal["dense", "csr"] = "dense",
    holomorphic: bool = False,
) -> Transform:
    """Returns the transformation that a job applies at each point, with respect to the first argument."""
    match derivative:
        case "value":
            return Evaluation()
        case "jvp":
            return PointPushforward()
        case "vjp":
            return PointPullback()
        case "gradient":
            return Gradient(holomorphic=holomorphic)
        case "jacobian":
            return Jacobian(holomorphic=holomorphic, sparsity=sparsity, output=output, mode=mode)
        case "hessian":
            return Hessian(holomorphic=holomorphic, sparsity=sparsity, output=output)
        case _:
            assert_never(derivative)


def check_derivative(call: str, derivative: object, given: Mapping[str, bool]) -> None:
    """Raises OptionError unless a derivative is one, and is given the options that it takes.

    Args:
        call: The user's call up to its options.
        derivative: What the user passed.
        given: For each option that not all derivatives take, whether it was passed.
    """
    possible = get_args(JobDerivative)
    if not isinstance(derivative, str) or derivative not in possible:
        names = ", ".join(map(repr, possible[:-1]))
        raise OptionError(f"`{call}, derivative=...)`: derivative must be {names} or {possible[-1]!r}, got {outline(derivative)}.")
    for option, there in given.items():
        if there and derivative not in _TAKEN_BY[option]:
            takes = " and ".join(map(repr, _TAKEN_BY[option]))
            raise OptionError(f"`{call}, derivative={derivative!r}, {option}=...)`: {option} is for {takes}; leave it out.")
    if derivative in _TAKEN_BY["seeds"] and not given["seeds"]:
        belongs = "tangents, like the points" if derivative == "jvp" else "cotangents, like the results"
        raise OptionError(f"`{call}, derivative={derivative!r})`: pass seeds=..., one for each point: {belongs}.")


def stored_transform(derivative: JobDerivative, *, sparse: bool, holomorphic: bool) -> Transform:
    """Returns the transformation that reads a job's results: that which made them, as far as their trees go."""
    output: Literal["csr", "dense"] = "csr" if sparse else "dense"
    if derivative == "jacobian":
        return Jacobian(holomorphic=holomorphic, output=output)
    if derivative == "hessian":
        return Hessian(holomorphic=holomorphic, output=output)
    return transform(derivative, holomorphic=holomorphic and derivative == "gradient")
