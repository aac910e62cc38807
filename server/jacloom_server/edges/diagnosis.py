"""The answer to ``DerivativeService.Diagnose`` as a message."""

from __future__ import annotations

from typing import Final

from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_graph.errors import Place
from jacloom_worker.protocol import Diagnosis, NonFinite, Verdict

_KINDS: Final = {"nan": pb.NonFinite.NOT_A_NUMBER, "inf": pb.NonFinite.INFINITE}
MOST_TEXT: Final = 2000
"""Characters of a reason; a worker's own errors are shorter."""


def encode(diagnosis: Diagnosis) -> pb.DiagnoseReply:
    """Returns a diagnosis as it travels."""
    reply = pb.DiagnoseReply(
        forward=_verdict(diagnosis.forward), reverse=_verdict(diagnosis.reverse), unused=diagnosis.unused, constant=diagnosis.constant
    )
    if diagnosis.value is not None:
        reply.value.CopyFrom(_non_finite(diagnosis.value))
    if diagnosis.derivative is not None:
        reply.derivative.CopyFrom(_non_finite(diagnosis.derivative))
    if diagnosis.unwatched is not None:
        place, reply.watched_iterations = diagnosis.unwatched
        reply.unwatched.CopyFrom(_place(place))
    return reply


def _non_finite(found: NonFinite) -> pb.NonFinite:
    message = pb.NonFinite(
        kind=_KINDS[found.kind],
        count=found.count,
        size=found.size,
        place=_place(found.place) if found.place is not None else None,
        result=found.result,
        iterations=found.iterations,
        operands=[pb.Range() if extent is None else pb.Range(low=extent[0], high=extent[1]) for extent in found.operands],
        cause=_non_finite(found.cause) if found.cause is not None else None,
        calls=map(_place, found.calls),
    )
    if found.input is not None:
        message.input = found.input
    if found.constant is not None:
        message.constant = found.constant
    return message


def _verdict(verdict: Verdict) -> pb.Verdict:
    refusal = verdict.refusal
    if refusal is not None:
        return pb.Verdict(state=pb.Verdict.UNAVAILABLE, reason=refusal.message[:MOST_TEXT], place=place_to_message(refusal.place))
    if verdict.finite is None:
        return pb.Verdict()
    return pb.Verdict(state=pb.Verdict.FINITE if verdict.finite else pb.Verdict.NOT_FINITE, leaves=verdict.leaves)


def place_to_message(place: Place | None) -> pb.NodePlace | None:
    """Returns the place of a node as it travels; None where no node is meant."""
    return _place(place) if place is not None and place.node is not None else None


def _place(place: Place) -> pb.NodePlace:
    return pb.NodePlace(function=place.function, node=place.node or 0, op=place.op)
