"""From failures to statuses: total, bounded, and without our insides."""

from __future__ import annotations

import logging

import grpc
import pytest
from google.rpc import error_details_pb2

from jacloom_api.v1 import error_pb2
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_server import status


def test_every_reason_has_a_code_and_a_place_on_the_wire() -> None:
    assert set(status.CODES) == set(Reason)
    assert {reason.value for reason in Reason} == set(error_pb2.Reason.keys()) - {"REASON_UNSPECIFIED"}
    assert grpc.StatusCode.OK not in status.CODES.values()


@pytest.mark.parametrize("reason", Reason)
def test_every_status_says_its_reason(reason: Reason) -> None:
    made = status.to_status(Fault(reason, "why", field="args[0]"))
    info = error_details_pb2.ErrorInfo()
    assert made.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason.value, "jacloom", {"field": "args[0]"})
    kinds = [detail.TypeName() for detail in made.details[1:]]
    assert ("google.rpc.RetryInfo" in kinds) == (reason is Reason.OVER_QUOTA)
    assert ("google.rpc.BadRequest" in kinds) == (made.code == grpc.StatusCode.INVALID_ARGUMENT.value[0])


def test_the_place_travels() -> None:
    made = status.to_status(Fault(Reason.TYPE_MISMATCH, "why", place=Place(2, 17, "add")))
    info = error_details_pb2.ErrorInfo()
    made.details[0].Unpack(info)
    assert dict(info.metadata) == {"function": "2", "node": "17", "op": "add"}


def test_details_stay_small() -> None:
    made = status.to_status(Fault(Reason.INVALID_GRAPH, "\N{SNOWMAN}" * 100_000, field="x" * 100_000, place=Place(0, 1, "y" * 100_000)))
    assert made.ByteSize() < 4096
    assert made.message.endswith("...")


def test_unknown_failures_show_an_id_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        fault = status.to_fault(RuntimeError("secret of 10.0.0.7"))
    assert fault.reason is Reason.INTERNAL
    assert "secret" not in fault.message
    identity = fault.message.rsplit(" ", 1)[1]
    assert identity in caplog.text
    assert "secret of 10.0.0.7" in caplog.text
    known = Fault(Reason.TOO_SLOW, "why")
    assert status.to_fault(known) is known
