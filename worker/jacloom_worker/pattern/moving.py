"""Operations that move entries about: what they do to an array they do to the numbers of its sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jacloom_worker.pattern.detection import Footprint, Scope, rule
from jacloom_worker.pattern.elementwise import filled
from jacloom_worker.pattern.ranges import Equation


@rule("reshape")
def _reshape(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    operand, order = _only(operands), eqn.params["dimensions"]
    return [(operand if order is None else operand.transpose(order)).reshape(eqn.outvars[0].aval.shape)]


@rule("squeeze", "expand_dims")
def _squeeze(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    return [_only(operands).reshape(eqn.outvars[0].aval.shape)]


@rule("transpose")
def _transpose(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    return [_only(operands).transpose(eqn.params["permutation"])]


@rule("rev")
def _reverse(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    return [np.flip(_only(operands), eqn.params["dimensions"])]


@rule("broadcast_in_dim")
def _broadcast(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    operand, dims, shape = _only(operands), eqn.params["broadcast_dimensions"], eqn.params["shape"]
    sizes = dict(zip(dims, operand.shape, strict=True))
    return [np.broadcast_to(operand.reshape([sizes.get(axis, 1) for axis in range(len(shape))]), shape)]


@rule("slice")
def _cut(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    operand, params = _only(operands), eqn.params
    strides = params["strides"] or (1,) * operand.ndim
    return [operand[tuple(slice(*each) for each in zip(params["start_indices"], params["limit_indices"], strides, strict=True))]]


@rule("concatenate")
def _concatenate(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    parts = [filled(operand, atom.aval.shape) for operand, atom in zip(operands, eqn.invars, strict=True)]
    return [np.concatenate(parts, eqn.params["dimension"])]


@rule("split")
def _split(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    return list(np.split(_only(operands), np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"]))


@rule("pad")
def _pad(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of an array with the padding's between and around its entries; negative padding cuts entries off."""
    operand = filled(operands[0], eqn.invars[0].aval.shape)
    shape = eqn.outvars[0].aval.shape
    result = np.full(shape, 0 if operands[1] is None else operands[1])
    sources, targets = [], []
    for size, length, (low, _, interior) in zip(operand.shape, shape, eqn.params["padding_config"], strict=True):
        places = low + np.arange(size) * (interior + 1)
        inside = (places >= 0) & (places < length)
        sources.append(np.flatnonzero(inside))
        targets.append(places[inside])
    result[np.ix_(*targets)] = operand[np.ix_(*sources)]
    return [result]


@rule("tile")
def _tile(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    return [np.tile(_only(operands), eqn.params["reps"])]


@rule("stack")
def _stack(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    return [np.stack([filled(operand, atom.aval.shape) for operand, atom in zip(operands, eqn.invars, strict=True)], eqn.params["axis"])]


@rule("unstack")
def _unstack(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    return list(np.moveaxis(_only(operands), eqn.params["axis"], 0))


def _only(operands: Sequence[Footprint]) -> np.ndarray:
    """Returns the footprint of an operation's only operand that can have one."""
    (operand,) = (each for each in operands if each is not None)
    return operand
