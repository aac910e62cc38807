"""The whole service over its wire: a server process with Ray and workers, and raw stubs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from integration import graphs, service
from integration.service import Client, Process, request

from jacloom_api.v1 import blob_service_pb2 as blob_pb
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_api.v1 import function_service_pb2 as function_pb
from jacloom_api.v1 import graph_pb2
from jacloom_graph import tensor
from jacloom_graph.types import Constant, Function, Node, Type

X = np.array([0.3, -0.7, 1.1])
S = np.array(2.0)
K = np.array([4, 5], np.int32)
INNER = graphs.WEIGHTS @ X
SLOPE = 1 - np.tanh(INNER) ** 2


def test_register_describes_the_function(client: Client) -> None:
    made = graphs.serialized(graphs.mixed())
    info = client.functions.Register(function_pb.RegisterRequest(graph=made, display_name="mixed"), timeout=60)
    again = client.functions.Register(function_pb.RegisterRequest(graph=made), timeout=60)
    assert again.name == info.name
    assert [(leaf.dtype, list(leaf.shape)) for leaf in info.inputs] == [("float64", [3]), ("float64", []), ("int32", [2])]
    assert [(leaf.dtype, list(leaf.shape)) for leaf in info.outputs] == [("float64", [2]), ("float64", []), ("int32", [2])]
    assert (info.nodes, info.functions, info.expanded_nodes) == (6, 1, 6)
    assert info.in_tree.kind == graph_pb2.Tree.TUPLE
    assert len(info.out_tree.children) == 3
    assert abs(info.create_time.ToSeconds() - time.time()) < 600
    assert client.functions.Get(function_pb.GetFunctionRequest(name=info.name)).name == info.name


def test_list_pages_newest_first_and_delete_forgets(client: Client) -> None:
    names = [client.register(graphs.sine(n)) for n in (21, 22, 23)]
    first = client.functions.List(function_pb.ListFunctionsRequest(page_size=2))
    second = client.functions.List(function_pb.ListFunctionsRequest(page_size=1, page_token=first.next_page_token))
    assert [info.name for info in (*first.functions, *second.functions)] == names[::-1]
    client.functions.Delete(function_pb.DeleteFunctionRequest(name=names[1]))
    assert names[1] not in [info.name for info in client.functions.List(function_pb.ListFunctionsRequest()).functions]
    assert service.refused(client, "Evaluate", request(names[1], [np.zeros(22)], wrt=())).reason == "FUNCTION_NOT_FOUND"


def test_validate_types_every_value_and_keeps_nothing(client: Client) -> None:
    made = graphs.decay(4, 3)
    found = client.functions.Validate(function_pb.ValidateRequest(graph=graphs.serialized(made)), timeout=60)
    types = {entry.function: [(value.dtype, list(value.shape)) for value in entry.values] for entry in found.functions}
    assert types == {0: [("float64", [4])] * 2, 1: [("float64", [4])] * 4}
    with pytest.raises(grpc.RpcError):
        client.functions.Get(function_pb.GetFunctionRequest(name=found.name))


def test_validate_needs_no_blobs_and_lists_functions_without_nodes(client: Client) -> None:
    same = Function("same", (graphs.vector(3),), (), (0,))
    constant = Constant(Type("float64", (2, 3)), None, "blobs/sha256:" + "0b" * 32)
    made = graphs.graph((graphs.vector(3),), (Node("call", (0,), {"function": 1}), graphs.dot(-1, 1)), (2,), others=(same,), constants=(constant,))
    found = client.functions.Validate(function_pb.ValidateRequest(graph=graphs.serialized(made)), timeout=60)
    assert {entry.function: [list(value.shape) for value in entry.values] for entry in found.functions} == {0: [[3], [3], [2]], 1: [[3]]}


def test_evaluate(client: Client, mixed: str) -> None:
    answer = client.call("Evaluate", request(mixed, [X, S, K], wrt=()))
    np.testing.assert_allclose(answer.arrays[0], 2 * np.tanh(INNER), rtol=1e-15)
    np.testing.assert_allclose(answer.arrays[1], X @ X, rtol=1e-15)
    np.testing.assert_array_equal(answer.arrays[2], K)
    assert [array.part for array in answer.header.arrays] == [pb.VALUE] * 3
    assert (answer.summary.passes, answer.messages) == (0, 1)
    only = client.call("Evaluate", request(mixed, [X, S, K], wrt=(), values=[2]))
    assert [array.output for array in only.header.arrays] == [2]


def test_jvp_vjp_and_their_values(client: Client, mixed: str) -> None:
    tangent, cotangent = np.array([1.0, 0.5, -2.0]), np.array([3.0, -1.0])
    pushed = client.call("Jvp", request(mixed, [X, S, K], wrt=[1, 0], seeds=[np.array(0.1), tangent], outputs=[1, 0], values=[0]))
    expected = [2 * X @ tangent, 0.1 * np.tanh(INNER) + 2 * SLOPE * (graphs.WEIGHTS @ tangent), 2 * np.tanh(INNER)]
    for got, wanted in zip(pushed.arrays, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert [array.part for array in pushed.header.arrays] == [pb.TANGENT, pb.TANGENT, pb.VALUE]
    assert (pushed.summary.passes, pushed.header.plan.strategy) == (1, "single pass")
    pulled = client.call("Vjp", request(mixed, [X, S, K], wrt=[0, 1], seeds=[cotangent], outputs=[0]))
    np.testing.assert_allclose(pulled.arrays[0], 2 * (cotangent * SLOPE) @ graphs.WEIGHTS, rtol=1e-12)
    np.testing.assert_allclose(pulled.arrays[1], cotangent @ np.tanh(INNER), rtol=1e-12)


@pytest.mark.parametrize("tile", [0, 2])
def test_a_batch_of_products_is_one_call(client: Client, mixed: str, tile: int) -> None:
    jacobian = np.concatenate([2.0 * SLOPE[:, None] * graphs.WEIGHTS, 2 * X[None]])  # [output entry, x]
    tangents, scales = np.arange(15.0).reshape(5, 3), np.zeros(5)
    call = request(mixed, [X, S, K], (0, 1), [tangents, scales], outputs=[0, 1], values=[2], batch=5, tile=tile)
    pushed = client.call("Jvp", call)
    assert [array.part for array in pushed.header.arrays] == [pb.VALUE, pb.TANGENT, pb.TANGENT]
    np.testing.assert_array_equal(pushed.arrays[0], K)
    np.testing.assert_allclose(pushed.arrays[1], tangents @ jacobian[:2].T, rtol=1e-13)
    np.testing.assert_allclose(pushed.arrays[2], tangents @ jacobian[2], rtol=1e-13)
    assert (pushed.header.plan.strategy, pushed.header.plan.passes, pushed.summary.passes) == ("batch", 5, 5)
    if tile:
        assert pushed.summary.tiles == 3
    cotangents, sums = np.arange(10.0).reshape(5, 2), np.linspace(-1, 1, 5)
    pulled = client.call("Vjp", request(mixed, [X, S, K], (0,), [cotangents, sums], outputs=[0, 1], batch=5, tile=tile))
    np.testing.assert_allclose(pulled.arrays[0], np.column_stack([cotangents, sums]) @ jacobian, rtol=1e-13)
    products = client.call("Hvp", request(mixed, [X, S, K], (0,), [tangents], outputs=[1], batch=5, tile=tile))
    np.testing.assert_allclose(products.arrays[0], 2 * tangents, rtol=1e-13)


def test_a_large_batch_is_cut_where_it_lies(client: Client) -> None:
    n, k = 40_000, 6
    function = client.register(graphs.cubes(n))
    x, seeds = np.linspace(0, 1, n), np.random.default_rng(3).normal(size=(k, n))
    tensors = [graph_pb2.Tensor(dtype="float64", shape=array.shape, blob=client.put(array.tobytes()).name) for array in (x, seeds)]
    answer = client.call("Hvp", request(function, tensors[:1], seeds=tensors[1:], batch=k, tile=4))
    np.testing.assert_allclose(answer.arrays[0], seeds * 6 * x, rtol=1e-13)


def test_what_is_no_batch_is_refused(client: Client, mixed: str) -> None:
    assert service.refused(client, "Jacobian", request(mixed, [X, S, K], outputs=[0, 1], batch=2)).fields == ["options.batch"]
    assert service.refused(client, "Jvp", request(mixed, [X, S, K], (), [], outputs=[0], batch=2)).fields == ["options.batch"]
    assert service.refused(client, "Jvp", request(mixed, [X, S, K], (0,), [X], outputs=[0], batch=2)).fields == ["seeds[0]"]


def test_gradient_hvp_and_hessian(client: Client) -> None:
    name = client.register(graphs.cubes(3))
    gradient = client.call("Gradient", request(name, [X], values=[0]))
    np.testing.assert_allclose(gradient.arrays[0], 3 * X**2, rtol=1e-15)
    np.testing.assert_allclose(gradient.arrays[1], np.sum(X**3), rtol=1e-15)
    product = client.call("Hvp", request(name, [X], seeds=[np.array([1.0, 2.0, 3.0])]))
    np.testing.assert_allclose(product.arrays[0], 6 * X * [1, 2, 3], rtol=1e-15)
    hessian = client.call("Hessian", request(name, [X], values=[0]))
    np.testing.assert_allclose(hessian.arrays[1], np.diag(6 * X), rtol=1e-15)
    np.testing.assert_allclose(hessian.arrays[0], np.sum(X**3), rtol=1e-15)
    assert list(hessian.header.arrays[1].type.shape) == [3, 3]
    assert hessian.summary.passes == 3


@pytest.mark.parametrize(("n", "mode", "passes"), [(1, pb.FORWARD, 1), (200, pb.MODE_UNSPECIFIED, 1)])
def test_the_gradient_of_a_loop_goes_the_cheaper_way(client: Client, n: int, mode: int, passes: int) -> None:
    answer = client.call("Gradient", request(client.register(graphs.doubling(n)), [np.full(n, 3.0 / n)], values=[0]))
    np.testing.assert_allclose(answer.arrays[0], np.full(n, 64.0), rtol=1e-15)  # six doublings of 3
    np.testing.assert_allclose(answer.arrays[1], 192.0, rtol=1e-12)
    assert (answer.header.plan.mode, answer.summary.passes) == (mode, passes)


def test_the_lecture_room_example_by_columns_and_by_rows(client: Client) -> None:
    name = client.register(graphs.lecture())
    for mode in (pb.FORWARD, pb.REVERSE):
        answer = client.call("Jacobian", request(name, [np.array(2.0), np.array(0.0)], wrt=[0, 1], mode=mode))
        assert [float(array) for array in answer.arrays] == [0.0, 4.0, 5.0, 1.0]
        assert (answer.summary.passes, answer.header.plan.mode) == (2, mode)


@pytest.mark.parametrize("mode", [pb.FORWARD, pb.REVERSE])
@pytest.mark.parametrize("tile", [0, 1, 3, 64])
def test_jacobian_over_several_leaves(client: Client, mixed: str, mode: pb.Mode, tile: int) -> None:
    call = request(mixed, [X, S, K], wrt=[0, 1], outputs=[0, 1], values=[2], mode=mode, tile=tile)
    client.call("Jacobian", call)
    answer = client.call("Jacobian", call)
    expected = [K, 2 * SLOPE[:, None] * graphs.WEIGHTS, np.tanh(INNER), 2 * X, np.array(0.0)]
    for got, wanted in zip(answer.arrays, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    passes = 4 if mode == pb.FORWARD else 3
    assert answer.summary.passes == passes
    assert answer.summary.tiles == -(-passes // tile) if tile else 1
    assert answer.messages == 1, "small, and compiled before"


@pytest.mark.parametrize(("rows", "columns", "mode"), [(40, 3, pb.FORWARD), (3, 40, pb.REVERSE)])
def test_the_plan_takes_the_side_with_fewer_passes(client: Client, rows: int, columns: int, mode: pb.Mode) -> None:
    matrix = np.arange(rows * columns, dtype=float).reshape(rows, columns)
    name = client.register(graphs.linear(matrix))
    answer = client.call("Jacobian", request(name, [np.ones(columns)]))
    np.testing.assert_array_equal(answer.arrays[0], matrix)
    plan = answer.header.plan
    assert (plan.mode, plan.passes, answer.summary.passes) == (mode, 3, 3)
    assert [considered.strategy for considered in plan.considered] == (["forward", "reverse"] if mode == pb.FORWARD else ["reverse", "forward"])
    assert plan.nbytes == rows * columns * 8
    explained = client.derivatives.Explain(pb.ExplainRequest(call=request(name, [])), timeout=60).plan
    assert (explained.mode, explained.passes) == (mode, 3)


def test_rows_of_a_loop_are_priced_with_its_steps_taken_again(client: Client) -> None:
    name = client.register(graphs.doubling(30))
    plan = client.derivatives.Explain(pb.ExplainRequest(call=request(name, [])), timeout=60).plan
    price = {considered.strategy: considered.price for considered in plan.considered}
    # A row and a column go through the same additions; only the row goes through the loop once more.
    assert price["reverse"] > price["forward"] + 0.9


def test_dtypes_promote_as_in_numpy(client: Client) -> None:
    matrix = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    for name in ("float16", "bfloat16", "float32"):
        function = client.register(graphs.linear(matrix.astype(tensor.DTYPES[name]), name))
        answer = client.call("Jacobian", request(function, [np.ones(3, tensor.DTYPES[name])], mode=pb.REVERSE))
        assert answer.arrays[0].dtype == tensor.DTYPES[name]
        np.testing.assert_array_equal(answer.arrays[0].astype(float), matrix)


def test_empty_and_scalar(client: Client, mixed: str) -> None:
    name = client.register(graphs.sine(0))
    answer = client.call("Jacobian", request(name, [np.zeros(0)]))
    assert (answer.arrays[0].shape, answer.summary.passes, answer.header.plan.strategy) == ((0, 0), 0, "empty")
    assert client.call("Jacobian", request(mixed, [X, S, K], wrt=[], outputs=[0])).arrays == []
    assert client.call("Jvp", request(name, [np.zeros(0)], seeds=[np.zeros(0)])).arrays[0].shape == (0,)
    assert client.call("Hessian", request(name, [np.zeros(0)])).arrays[0].shape == (0, 0, 0)


def test_a_graph_may_come_with_the_call(client: Client) -> None:
    call = request("", [np.array([1.0, 2.0])])
    call.graph = graphs.serialized(graphs.cubes(2))
    answer = client.call("Gradient", call)
    np.testing.assert_array_equal(answer.arrays[0], [3.0, 12.0])
    name = client.functions.Get(function_pb.GetFunctionRequest(name=answer.header.function)).name
    assert name == answer.header.function


def test_large_arrays_travel_as_blobs_and_answers_in_blocks(client: Client) -> None:
    n = 400_001
    x = np.linspace(0, 1, n)
    name = client.register(graphs.sine(n))
    blob = client.put(x.tobytes(), piece=777_777)
    assert blob.lease_seconds > 60
    by_name = graph_pb2.Tensor(dtype="float64", shape=[n], blob=blob.name)
    answer = client.call("Jvp", request(name, [by_name], seeds=[by_name]))
    np.testing.assert_allclose(answer.arrays[0], np.cos(x) * x, rtol=1e-15)
    assert answer.messages == 2 + -(-n * 8 // (1 << 20))
    client.blobs.Release(blob_pb.ReleaseRequest(name=blob.name))
    gone = service.refused(client, "Jvp", request(name, [by_name], seeds=[by_name]))
    assert (gone.code, gone.reason, gone.metadata["field"]) == (grpc.StatusCode.NOT_FOUND, "BLOB_NOT_FOUND", "args[0].blob")


@pytest.mark.parametrize("start", [0, 64, 8, 3])
def test_a_blob_may_hold_many_arrays(client: Client, start: int) -> None:
    x, v = np.linspace(1, 2, 5), np.arange(5.0)
    blob = client.put(bytes(start) + x.tobytes() + v.tobytes())
    name = client.register(graphs.sine(5))
    point, seed, beyond = (
        graph_pb2.Tensor(dtype="float64", shape=[5], blob=blob.name, offset=offset) for offset in (start, start + x.nbytes, start + x.nbytes + 1)
    )
    answer = client.call("Jvp", request(name, [point], seeds=[seed]))
    np.testing.assert_allclose(answer.arrays[0], np.cos(x) * v, rtol=1e-15)
    wrong = service.refused(client, "Jvp", request(name, [point], seeds=[beyond]))
    assert (wrong.reason, wrong.metadata["field"]) == ("ARGUMENT_MISMATCH", "seeds[0].blob")
    assert "has 40 bytes, and the blob 39 from byte" in wrong.text


def test_constants_travel_by_digest(client: Client) -> None:
    matrix = np.arange(6.0).reshape(2, 3) + 100
    named = graphs.linear(matrix)
    data = graphs.serialized(named)
    digest = "blobs/sha256:" + __import__("hashlib").sha256(matrix.tobytes()).hexdigest()
    message = graph_pb2.Graph.FromString(data)
    message.constants[0].tensor.blob = digest
    with pytest.raises(grpc.RpcError) as caught:
        client.functions.Register(function_pb.RegisterRequest(graph=message.SerializeToString()), timeout=60)
    assert service.failure(caught.value).reason == "BLOB_NOT_FOUND"
    assert list(client.blobs.Missing(blob_pb.MissingRequest(names=[digest])).names) == [digest]
    assert client.keep(matrix.tobytes()) == digest
    assert not client.blobs.Missing(blob_pb.MissingRequest(names=[digest])).names
    info = client.functions.Register(function_pb.RegisterRequest(graph=message.SerializeToString()), timeout=60)
    np.testing.assert_array_equal(client.call("Jacobian", request(info.name, [np.ones(3)])).arrays[0], matrix)
    assert client.register(named) == info.name, "the id is that of the content, wherever it lies"


def test_an_empty_blob(client: Client) -> None:
    blob = client.put(b"")
    name = client.register(graphs.sine(0))
    empty = graph_pb2.Tensor(dtype="float64", shape=[0], blob=blob.name)
    assert client.call("Evaluate", request(name, [empty], wrt=())).arrays[0].shape == (0,)


def test_derivatives_of_each_leaf_are_described(client: Client, mixed: str) -> None:
    found = client.functions.DescribeDerivatives(function_pb.DescribeDerivativesRequest(name=mixed), timeout=60)
    yes, no = function_pb.Availability.AVAILABLE, function_pb.Availability.UNAVAILABLE
    assert [(leaf.forward.state, leaf.reverse.state) for leaf in found.inputs] == [(yes, yes), (yes, yes), (no, no)]
    assert found.inputs[2].forward.reason == found.inputs[2].reverse.reason == "no derivative: int32"
    assert (list(found.outputs), found.traces) == ([0, 1], 2)
    assert client.functions.DescribeDerivatives(function_pb.DescribeDerivativesRequest(name=mixed), timeout=60) == found
    with pytest.raises(grpc.RpcError) as caught:
        client.functions.DescribeDerivatives(function_pb.DescribeDerivativesRequest(name=f"functions/{'0' * 64}"), timeout=60)
    assert service.failure(caught.value).reason == "FUNCTION_NOT_FOUND"


def test_health_can_be_watched(client: Client) -> None:
    watched = client.health.Watch(health_pb2.HealthCheckRequest(), timeout=service.TIMEOUT)
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()


def test_health_answers_while_everything_computes(client: Client) -> None:
    name = client.register(graphs.decay(64, 60_000))
    call = request(name, [np.ones(64)], tile=8, sparsity=pb.DENSE)
    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(client.call, "Jacobian", call) for _ in range(3)]
        slowest = 0.0
        while not all(future.done() for future in running):
            started = time.monotonic()
            assert client.health.Check(health_pb2.HealthCheckRequest(service="jacloom_api.v1.DerivativeService"), timeout=5).status == 1
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.02)
        first, *others = [future.result() for future in running]
    assert slowest < 1.0
    assert first.summary.workers == 2
    assert first.messages >= 1
    for other in others:
        np.testing.assert_array_equal(other.arrays[0], first.arrays[0])


def test_reflection_names_the_services(process: Process) -> None:
    with grpc.insecure_channel(process.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    names = {each.name for each in answer.list_services_response.service}
    assert {"jacloom_api.v1.DerivativeService", "jacloom_api.v1.FunctionService", "jacloom_api.v1.BlobService", "grpc.health.v1.Health"} <= names


def test_a_call_that_its_client_gives_up_leaves_no_work_behind(client: Client, process: Process) -> None:
    name = client.register(graphs.decay(64, 60_000))
    stream = client.derivatives.Jacobian(request(name, [np.ones(64)], tile=1, sparsity=pb.DENSE), timeout=60)
    time.sleep(1.0)
    assert not stream.done()
    stream.cancel()

    def idle() -> bool:
        before = {worker.pid: sum(worker.cpu_times()[:2]) for worker in process.workers()}
        time.sleep(0.5)
        return all(sum(worker.cpu_times()[:2]) - before.get(worker.pid, 0.0) < 0.2 for worker in process.workers())

    service.wait_for(idle, 20)
    np.testing.assert_allclose(client.call("Jacobian", request(client.register(graphs.cubes(2)), [np.ones(2)])).arrays[0], [3.0, 3.0])
