"""What a service refuses over its wire: with which status, reason and field, and in which words."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from integration import graphs, service
from integration.service import Client, Process, request

from jacloom_api.v1 import blob_service_pb2 as blob_pb
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_api.v1 import function_service_pb2 as function_pb
from jacloom_api.v1 import graph_pb2
from jacloom_graph.types import Node

X = np.array([0.3, -0.7, 1.1])
S = np.array(2.0)
K = np.array([4, 5], np.int32)


@pytest.mark.parametrize(
    ("put", "field"),
    [
        ({"data": b"12345", "size": 6}, "data"),
        ({"data": b"12345", "size": 4}, "data"),
        ({"data": b"12345", "sha256": "0" * 64}, "header.sha256"),
        ({"data": b"12345", "sha256": "xyz"}, "header.sha256"),
        ({"data": b"", "size": 1 << 60}, "header.size"),
    ],
)
def test_bad_uploads_are_refused(client: Client, put: dict[str, object], field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.put(**put)
    found = service.failure(caught.value)
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


def test_an_upload_has_one_header(client: Client) -> None:
    header = blob_pb.PutHeader(size=6)
    with pytest.raises(grpc.RpcError) as caught:
        client.blobs.Put(iter([blob_pb.PutRequest(header=header, data=b"one"), blob_pb.PutRequest(header=header, data=b"two")]), timeout=60)
    found = service.failure(caught.value)
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["header"])
    assert "only the first message of an upload has a header" in found.text


@pytest.mark.parametrize(
    ("method", "form", "good"),
    [
        ("DerivativeService/Jacobian", "unary_stream", []),
        ("DerivativeService/Diagnose", "unary_unary", []),
        ("FunctionService/Get", "unary_unary", []),
        ("BlobService/Put", "stream_unary", []),
        ("BlobService/Put", "stream_unary", [blob_pb.PutRequest(header=blob_pb.PutHeader(size=9)).SerializeToString()]),
    ],
)
def test_what_is_no_request_is_refused_as_such(process: Process, method: str, form: str, good: list[bytes]) -> None:
    path, bad = f"/jacloom_api.v1.{method}", b"\xff\xfe\xfd"
    with grpc.insecure_channel(process.address) as channel:
        call = getattr(channel, form)(path)
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([*good, bad]) if form.startswith("stream") else bad, timeout=60))
    found = service.failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ARGUMENT_MISMATCH")
    assert found.text == f"the 3 bytes are no request of {path}; use stubs that were generated from this service's .proto files"


@pytest.mark.parametrize(
    ("method", "call", "reason", "field"),
    [
        ("Jacobian", request("functions/" + "0" * 64, []), "FUNCTION_NOT_FOUND", "function"),
        ("Jacobian", request("../../etc/passwd", []), "FUNCTION_NOT_FOUND", "function"),
        ("Jacobian", request("", []), "INVALID_OPTION", "function"),
        ("Jacobian", request("F", [X, S], [0], outputs=[0]), "ARGUMENT_MISMATCH", "args"),
        ("Jacobian", request("F", [X[:2], S, K], [0], outputs=[0]), "ARGUMENT_MISMATCH", "args[0]"),
        ("Jacobian", request("F", [X, S.astype("f4"), K], [0], outputs=[0]), "ARGUMENT_MISMATCH", "args[1]"),
        ("Jacobian", request("F", [X, S, K], [3], outputs=[0]), "INVALID_OPTION", "wrt[0]"),
        ("Jacobian", request("F", [X, S, K], [0, 2], outputs=[0]), "INVALID_OPTION", "wrt[1]"),
        ("Jacobian", request("F", [X, S, K], [0, 0], outputs=[0]), "INVALID_OPTION", "wrt[1]"),
        ("Jacobian", request("F", [X, S, K], [0]), "INVALID_OPTION", "outputs[2]"),
        ("Jacobian", request("F", [X, S, K], [0], outputs=[0], tile=5000), "INVALID_OPTION", "options.tile"),
        ("Jacobian", request("F", [X, S, K], [0], outputs=[0], mode=9), "INVALID_OPTION", "options.mode"),
        ("Jacobian", request("F", [X, S, K], [0], outputs=[0], seeds=[X]), "ARGUMENT_MISMATCH", "seeds"),
        ("Jvp", request("F", [X, S, K], [0], outputs=[0]), "ARGUMENT_MISMATCH", "seeds"),
        ("Jvp", request("F", [X, S, K], [0], outputs=[0], seeds=[X[:1]]), "ARGUMENT_MISMATCH", "seeds[0]"),
        ("Vjp", request("F", [X, S, K], [0], outputs=[0], seeds=[X]), "ARGUMENT_MISMATCH", "seeds[0]"),
        ("Gradient", request("F", [X, S, K], [0], outputs=[0]), "INVALID_OPTION", "outputs"),
        ("Hvp", request("F", [X, S, K], [0], outputs=[0], seeds=[X], weights=[S]), "ARGUMENT_MISMATCH", "weights[0]"),
        ("Hessian", request("F", [X, S, K], [0], outputs=[0, 1], weights=[X[:2]]), "ARGUMENT_MISMATCH", "weights"),
        ("Hessian", request("F", [X, S, K], [0], outputs=[0], sparsity=pb.SPARSE), "INVALID_OPTION", "options.sparsity"),
        ("Jacobian", request("F", [X, S, K], [0], outputs=[0], weights=[X[:2]]), "INVALID_OPTION", "weights"),
        ("Evaluate", request("F", [X, S, K], [0]), "INVALID_OPTION", "wrt"),
        ("Jvp", request("F", [X, S, K], [0], outputs=[0], seeds=[X], mode=pb.FORWARD), "INVALID_OPTION", "options.mode"),
    ],
)
def test_bad_calls_name_reason_and_field(client: Client, mixed: str, method: str, call: pb.CallRequest, reason: str, field: str) -> None:
    call = pb.CallRequest.FromString(call.SerializeToString())
    if call.function == "F":
        call.function = mixed
    found = service.refused(client, method, call)
    assert (found.reason, found.metadata["field"]) == (reason, field)
    assert found.code is (grpc.StatusCode.NOT_FOUND if reason == "FUNCTION_NOT_FOUND" else grpc.StatusCode.INVALID_ARGUMENT)
    assert len(found.text) < 500


def test_bytes_that_do_not_fit_their_type(client: Client, mixed: str) -> None:
    call = request(mixed, [X, S, K], outputs=[0])
    call.args[0].data = call.args[0].data[:-1]
    found = service.refused(client, "Jacobian", call)
    assert (found.reason, found.fields) == ("ARGUMENT_MISMATCH", ["args[0].data"])
    assert "24 bytes, got 23" in found.text


@pytest.mark.parametrize(
    ("graph", "code", "reason"),
    [
        (b"this is no graph", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_GRAPH"),
        (b"", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_GRAPH"),
        (b"x" * (5 << 20), grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE"),
    ],
)
def test_bad_graphs(client: Client, graph: bytes, code: grpc.StatusCode, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.functions.Register(function_pb.RegisterRequest(graph=graph), timeout=60)
    found = service.failure(caught.value)
    assert (found.code, found.reason) == (code, reason)


def test_an_unknown_op_is_named_with_its_place(client: Client) -> None:
    message = graph_pb2.Graph.FromString(graphs.serialized(graphs.sine(3)))
    message.functions[0].nodes[0].op = "sine_of_the_times"
    with pytest.raises(grpc.RpcError) as caught:
        client.functions.Register(function_pb.RegisterRequest(graph=message.SerializeToString()), timeout=60)
    found = service.failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED_OP")
    assert (found.metadata["op"], found.metadata["function"], found.metadata["node"]) == ("sine_of_the_times", "0", "0")


def test_operands_that_do_not_fit_an_op(client: Client) -> None:
    wrong = graphs.graph((graphs.vector(3), graphs.vector(2)), (Node("add", (0, 1)),), (2,))
    with pytest.raises(grpc.RpcError) as caught:
        client.register(wrong)
    found = service.failure(caught.value)
    assert (found.reason, found.metadata["op"]) == ("TYPE_MISMATCH", "add")


def test_a_mode_that_a_function_does_not_have(client: Client) -> None:
    name = client.register(graphs.rows_only(3))
    answer = client.call("Jacobian", request(name, [X]))
    np.testing.assert_array_equal(answer.arrays[0], np.diag([7.0, 7.0, 7.0]))
    assert answer.header.plan.mode == pb.REVERSE
    assert "not available" in answer.header.plan.considered[1].verdict
    found = service.refused(client, "Jacobian", request(name, [X], mode=pb.FORWARD))
    assert (found.reason, found.fields) == ("MODE_UNAVAILABLE", ["options.mode"])
    assert "'reverse'" in found.text
    # The rows themselves are an ordinary function, so forward mode goes through them.
    np.testing.assert_array_equal(client.call("Hessian", request(name, [X])).arrays[0], np.zeros((3, 3, 3)))


def test_a_message_beyond_the_limit_leaves_the_server_up(client: Client, mixed: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.call("Jvp", request(mixed, [np.zeros(3 << 20)], outputs=[0]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.serving()
