"""JAX's equation parameters as attributes of the op table.

Most parameters have the name and meaning of an attribute and pass through one conversion by kind. The few records that JAX
keeps in one parameter (dimension numbers) are spread over several attributes here, as StableHLO does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, assert_never

import numpy as np

from jacloom._trace.types import Unrepresentable, dtype_name
from jacloom_graph.attrs import AttrKind, AttrSpec
from jacloom_graph.ops import TABLE
from jacloom_graph.types import AttrValue

Params = Mapping[str, Any]


PLACEMENT = frozenset(
    {
        "sharding",
        "out_sharding",
        "in_shardings",
        "out_shardings",
        "in_layouts",
        "out_layouts",
        "ctx_mesh",
        "devices",
        "srcs",
        "copy_semantics",
        "donated_invars",
    }
)
"""Where values live, which is the cluster's business: dropped."""

_REDUNDANT = frozenset(
    {
        "computation",  # of reduce: the jaxpr beside it says the same
        "update_jaxpr",  # of scatter_add and kin: the op's name says the same
        "update_consts",
        "input_dtype",  # of conj: the operand's type says the same
        "_input_dtype",
        "select_callable",
    }
)

_UNSET = frozenset({"accuracy", "compiler_options_kvs"})
"""Parameters that must be unset: the op table has no word for their other values."""


def attributes(op: str, params: Params) -> dict[str, AttrValue]:
    """Returns the attributes of an op that has no functions among its parameters; values equal to the default are left out.

    Args:
        op: A name in the op table.
        params: The equation's parameters.

    Raises:
        Unrepresentable: if a parameter has no attribute that can hold it.
    """
    if not params:
        return {}
    spread = _RECORDS[op](params) if op in _RECORDS else params
    conversions = _conversions(op)
    found: dict[str, AttrValue] = {}
    for name, value in spread.items():
        known = conversions.get(name)
        if known is None:
            _refuse_unless_idle(op, name, value)
            continue
        spec, convert = known
        try:
            converted = None if value is None else convert(spec, value)
        except (TypeError, ValueError) as error:
            raise Unrepresentable(f"{spec.name}={value!r} is not {spec.kind.value}") from error
        if converted != spec.default:
            found[name] = converted
    return found


def _refuse_unless_idle(op: str, name: str, value: Any) -> None:
    if name in PLACEMENT or name in _REDUNDANT:
        return
    if name in _UNSET and (value is None or value == ()):
        return
    raise Unrepresentable(f"parameter {name}={value!r} of {op} has no counterpart in the op table")


@cache
def _conversions(op: str) -> Mapping[str, tuple[AttrSpec, Callable[[AttrSpec, Any], AttrValue]]]:
    """Returns the attributes of an op by name, each with what makes a parameter's value one of its kind."""
    return {spec.name: (spec, _converter(spec.kind)) for spec in TABLE[op].attrs}


def _converter(kind: AttrKind) -> Callable[[AttrSpec, Any], AttrValue]:
    match kind:
        case AttrKind.INT:
            return lambda _, value: int(value)
        case AttrKind.INTS:
            return lambda _, value: tuple(map(int, value))
        case AttrKind.PAIRS | AttrKind.TRIPLES:
            return lambda _, value: tuple([tuple(map(int, each)) for each in value])
        case AttrKind.BOOL:
            return lambda _, value: bool(value)
        case AttrKind.FLOAT:
            return lambda _, value: float(value)
        case AttrKind.SCALAR:
            return lambda _, value: _number(value)
        case AttrKind.STRING:
            return _word
        case AttrKind.STRINGS:
            return lambda spec, value: tuple([_word(spec, item) for item in value])
        case AttrKind.DTYPE:
            return lambda _, value: dtype_name(value)
        case AttrKind.FUNCTION | AttrKind.FUNCTIONS | AttrKind.RULE:
            return _refuse_function
        case _:
            assert_never(kind)


def _refuse_function(spec: AttrSpec, value: Any) -> AttrValue:
    raise TypeError("functions are lowered with the op that holds them")


def _number(value: Any) -> int | float:
    scalar = np.asarray(value)
    if scalar.shape or scalar.dtype.kind not in "biuf":
        raise TypeError(f"{value!r} is not a real number")
    return float(scalar) if scalar.dtype.kind == "f" else int(scalar)


def _word(spec: AttrSpec, value: Any) -> str:
    word = value if isinstance(value, str) else value.name if isinstance(value, Enum) or hasattr(value, "name") else str(value)
    if spec.members and word.upper() in spec.members:
        word = word.upper()
    if spec.members and word not in spec.members:
        raise Unrepresentable(f"{spec.name} must be one of {', '.join(spec.members)}, got {value!r}")
    return word


def _renamed(params: Params, **groups: tuple[str, ...]) -> dict[str, Any]:
    """Spreads each record parameter named in ``groups`` over attributes of the given names, which are also its fields' names."""
    spread = {name: value for name, value in params.items() if name not in groups}
    for record, fields in groups.items():
        spread.update({field: getattr(params[record], field) for field in fields})
    return spread


def _gather(params: Params) -> dict[str, Any]:
    fields = ("offset_dims", "collapsed_slice_dims", "start_index_map", "operand_batching_dims", "start_indices_batching_dims")
    return _renamed(params, dimension_numbers=fields)


def _scatter(params: Params) -> dict[str, Any]:
    fields = ("update_window_dims", "inserted_window_dims", "scatter_dims_to_operand_dims", "operand_batching_dims", "scatter_indices_batching_dims")
    return _renamed(params, dimension_numbers=fields)


def _conv(params: Params) -> dict[str, Any]:
    return _precise(_renamed(params, dimension_numbers=("lhs_spec", "rhs_spec", "out_spec")))


def _dot(params: Params) -> dict[str, Any]:
    (lhs_contracting, rhs_contracting), (lhs_batch, rhs_batch) = params["dimension_numbers"]
    rest = {name: value for name, value in params.items() if name != "dimension_numbers"}
    return _precise({**rest, "lhs_contracting": lhs_contracting, "rhs_contracting": rhs_contracting, "lhs_batch": lhs_batch, "rhs_batch": rhs_batch})


def _precise(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters without the precision: the service computes at the highest, whatever was asked."""
    precision = params.pop("precision")
    if precision is not None and not isinstance(precision, tuple):
        raise Unrepresentable(f"precision={precision!r}: algorithms are chosen by the service, which computes at the highest precision")
    return params


def _platforms(params: Params) -> dict[str, Any]:
    return {"platforms": tuple(",".join(group) if group is not None else "" for group in params["platforms"])}


_RECORDS: Mapping[str, Callable[[Params], dict[str, Any]]] = {
    "gather": _gather,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_sub", "scatter_mul", "scatter_min", "scatter_max"), _scatter),
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "platform_index": _platforms,
}
