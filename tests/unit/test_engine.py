"""The engine on graphs written by hand: answers, what it keeps and what it drops."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from unit.handmade import (
    DOUBLING,
    JACOBIAN,
    LAYER,
    PRODUCT,
    REVERSE_ONLY,
    REVERSE_TWICE,
    SCALAR,
    VECTOR,
    W,
    X,
    arrays,
    fault,
    inline,
    layer,
    load_of,
    node,
    single,
    task,
)

from jacloom_graph import identity, wire
from jacloom_graph.errors import Reason
from jacloom_graph.tree import LEAF
from jacloom_graph.types import AttrValue, Constant, Node, Tree, TreeKind, Type
from jacloom_worker import engine
from jacloom_worker.engine import Engine
from jacloom_worker.protocol import Cost, Description, Done, Kernel, Kind, Load, Missing, Survey, Task

pytestmark = pytest.mark.usefixtures("worker_jax")


@pytest.fixture
def compiled_programs() -> Iterator[list[str]]:
    """Yields the list of programs that XLA has compiled since."""
    programs: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield programs
    jax.monitoring.unregister_event_duration_listener(listen)


class TestRun:
    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE])
    def test_tiles_make_up_the_jacobian(self, kind: Kind) -> None:
        here, axis, seeds = Engine(), *((1, 4) if kind is Kind.FORWARD else (0, 3))
        tiles = [here.run(task(LAYER, kind, start=start, count=min(2, seeds - start), width=2), X) for start in range(0, seeds, 2)]
        blocks = [arrays(tile)[0] for tile in tiles]
        np.testing.assert_allclose(np.concatenate(blocks, axis=axis), JACOBIAN, rtol=1e-14)
        assert all(block.flags.c_contiguous for block in blocks)

    def test_hessian_tile_without_its_padding(self) -> None:
        (block,) = arrays(Engine().run(task(PRODUCT, Kind.HESSIAN, start=2, count=2, width=3), np.array([1.0, 2.0, 3.0, 4.0]), np.int32(0)))
        np.testing.assert_allclose(block, [[8.0, 6.0], [4.0, 3.0], [0.0, 2.0], [2.0, 0.0]])
        assert block.flags.c_contiguous

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_a_batch_without_its_padding(self, count: int) -> None:
        seeds = np.arange(12.0).reshape(3, 4)[:count]
        (tangents,) = arrays(Engine().run(task(LAYER, Kind.JVP, count=count, width=3), X, seeds))
        assert tangents.shape == (count, 3)
        np.testing.assert_allclose(tangents, seeds @ JACOBIAN.T, rtol=1e-13)

    def test_a_batch_larger_than_its_kernel_is_refused(self) -> None:
        assert fault(Engine().run(task(LAYER, Kind.JVP, count=3, width=2), X, np.ones((3, 4)))).field == "seeds[0]"
        assert fault(Engine().run(task(LAYER, Kind.JVP, count=3, width=2), X, np.ones((2, 4)))).field == "seeds"
        assert fault(Engine().run(task(LAYER, Kind.JVP, count=3, width=4), X, np.ones((2, 4)))).field == "seeds[0]"

    def test_single_passes(self) -> None:
        here, x, three = Engine(), np.array([1.0, 2.0, 3.0, 4.0]), np.int32(3)
        v = np.array([1.0, 0.0, 0.0, -1.0])
        gradient = np.array([24.0, 12.0, 8.0, 6.0])
        expected = {
            Kind.VALUE: ((), [6]),
            Kind.JVP: ((v,), [18.0, 6]),
            Kind.VJP: ((np.float64(2.0),), [2 * gradient, 6]),
            Kind.GRADIENT: ((), [gradient, 6]),
            Kind.HVP: ((v,), [[-6.0, 12 - 3.0, 8 - 2.0, 6.0], 6]),
        }
        for kind, (seeds, results) in expected.items():
            got = arrays(here.run(task(PRODUCT, kind, values=(1,)), x, three, *seeds))
            assert len(got) == len(results)
            for array, result in zip(got, results, strict=True):
                np.testing.assert_allclose(array, result)
            assert got[-1].dtype == np.int32

    def test_a_second_tile_of_a_width_compiles_nothing(self, compiled_programs: list[str]) -> None:
        here = Engine()
        first = here.run(task(LAYER, Kind.FORWARD, start=0, count=3, width=3), X)
        assert isinstance(first, Done)
        assert first.compile_seconds > 0
        compiled_programs.clear()
        second = here.run(task(LAYER, Kind.FORWARD, start=3, count=1, width=3, load=False), X + 1)
        assert isinstance(second, Done)
        assert (second.compile_seconds, compiled_programs) == (0.0, [])
        assert second.seconds > 0
        here.run(task(LAYER, Kind.FORWARD, start=0, count=2, width=2, load=False), X)
        assert len(compiled_programs) == 1

    def test_missing_until_loaded(self) -> None:
        here = Engine()
        assert here.run(task(LAYER, Kind.VALUE, values=(0,), load=False), X) == Missing()
        arrays(here.run(task(LAYER, Kind.VALUE, values=(0,)), X))
        arrays(here.run(task(LAYER, Kind.JVP, load=False), X, X))

    def test_arguments_are_not_looked_at_after_the_answer(self) -> None:
        here, x = Engine(), np.ones(4)
        (value,) = arrays(here.run(task(LAYER, Kind.VALUE, values=(0,)), x))
        before = value.copy()
        x[:] = 7
        np.testing.assert_array_equal(value, before)
        (other,) = arrays(here.run(task(LAYER, Kind.VALUE, values=(0,)), x))
        np.testing.assert_allclose(other, np.tanh(W @ x))

    def test_read_only_arguments(self) -> None:
        x = np.frombuffer(X.tobytes())
        assert not x.flags.writeable
        np.testing.assert_allclose(arrays(Engine().run(task(LAYER, Kind.VALUE, values=(0,)), x))[0], np.tanh(W @ X))

    def test_uploaded_constants(self) -> None:
        w = np.random.default_rng(0).normal(size=(3, 4))
        name = "blobs/sha256:" + hashlib.sha256(w.tobytes()).hexdigest()
        uploaded = layer(Constant(Type("float64", (3, 4)), w, name))
        assert identity.graph_id(uploaded) == identity.graph_id(layer(inline(w)))
        np.testing.assert_allclose(arrays(Engine().run(task(uploaded, Kind.VALUE, values=(0,)), X))[0], np.tanh(w @ X))
        missing = Task(Kernel("a" * 64, Kind.VALUE, values=(0,)), Load(wire.to_bytes(uploaded)))
        assert fault(Engine().run(missing, X)).reason is Reason.BLOB_NOT_FOUND

    def test_empty_and_scalar_leaves(self) -> None:
        empty = single((Type("float32", (0, 2)), SCALAR), (node("neg", 0), node("sin", 1)), (2, 3))
        here, none = Engine(), np.zeros((0, 2), np.float32)
        blocks = arrays(here.run(task(empty, Kind.FORWARD, wrt=(0, 1), outputs=(0, 1), count=1, width=2), none, np.float64(0.0)))
        assert [(block.dtype, block.shape) for block in blocks] == [(np.float32, (0, 1)), (np.float64, (1, 1))]
        assert blocks[1] == 1.0


class TestDescribe:
    def test_says_what_the_graph_is(self) -> None:
        name = "blobs/sha256:" + "0" * 64
        here = Engine().describe(Load(wire.to_bytes(layer(Constant(Type("float64", (3, 4)), None, name)))))
        assert isinstance(here, Description)
        assert (here.inputs, here.outputs) == ((VECTOR,), (Type("float64", (3,)),))
        assert (here.nodes, here.functions, here.expanded_nodes, here.blobs) == (2, 1, 2, (name,))
        assert here.in_tree == Tree(TreeKind.TUPLE, (LEAF,))
        assert len(here.id) == 64

    def test_the_id_is_that_of_the_content(self) -> None:
        here = Engine().describe(load_of(PRODUCT))
        assert isinstance(here, Description)
        assert here.id == identity.graph_id(PRODUCT)
        assert here.outputs == (SCALAR, Type("int32"))

    def test_declared_types_are_compared(self) -> None:
        lying = single((VECTOR,), (Node("sin", (0,), {}, 1, (Type("float32", (4,)),)),), (1,))
        answer = fault(Engine().describe(load_of(lying)))
        assert (answer.reason, str(answer.place)) == (Reason.TYPE_MISMATCH, "function 0, node 0 (sin)")

    @pytest.mark.parametrize(
        "attrs",
        [{"dimension": 1}, {"dimension": -1}, {"dimension": 0, "num_keys": 2}, {"dimension": 0, "num_keys": 0}],
        ids=str,
    )
    def test_what_jax_does_not_check_itself(self, attrs: dict[str, AttrValue]) -> None:
        answer = fault(Engine().describe(load_of(single((VECTOR,), (node("sort", 0, **attrs),), (1,)))))
        assert (answer.reason, str(answer.place)) == (Reason.TYPE_MISMATCH, "function 0, node 0 (sort)")

    def test_sizes_are_checked_without_allocating(self) -> None:
        huge = single((SCALAR,), (node("broadcast_in_dim", 0, shape=(1 << 30, 1 << 30)), node("reduce_sum", 1, axes=(0, 1))), (2,))
        answer = fault(Engine().describe(load_of(huge)))
        assert (answer.reason, str(answer.place)) == (Reason.TOO_LARGE, "function 0, node 0 (broadcast_in_dim)")
        # A constant of 8 GB that nobody has uploaded costs nothing to describe.
        absent = Constant(Type("float64", (1 << 28, 4)), None, "blobs/sha256:" + "1" * 64)
        here = Engine().describe(Load(wire.to_bytes(layer(absent))))
        assert isinstance(here, Description)
        assert here.outputs == (Type("float64", (1 << 28,)),)


class TestSurvey:
    def test_both_modes(self) -> None:
        here = Engine().survey(load_of(LAYER), (0,), (0,))
        assert isinstance(here, Survey)
        assert isinstance(here.forward, Cost)
        assert isinstance(here.reverse, Cost)
        assert 24 <= here.forward.flops <= 40
        assert 24 <= here.reverse.flops <= 40
        assert here.value.flops == 24 + 3 * 40

    def test_what_rows_share_is_the_value_and_of_loops_their_steps_once_more(self) -> None:
        for graph, loops in ((LAYER, False), (DOUBLING, True)):
            described, here = Engine().describe(load_of(graph)), Engine().survey(load_of(graph), (0,), (0,))
            assert isinstance(described, Description)
            assert described.loops is loops
            assert isinstance(here, Survey)
            assert isinstance(here.forward, Cost)
            assert isinstance(here.reverse, Cost)
            if loops:
                assert (here.reverse.shared_flops, here.reverse.shared_bytes) == (2 * here.value.flops, 2 * here.value.bytes)
            else:
                assert here.value.flops <= here.reverse.shared_flops <= here.forward.shared_flops + here.forward.flops

    def test_a_mode_that_is_not_there_is_recorded(self) -> None:
        here = Engine().survey(load_of(REVERSE_ONLY), (0,), (0,))
        assert isinstance(here, Survey)
        assert fault(here.forward).reason is Reason.MODE_UNAVAILABLE
        assert isinstance(here.reverse, Cost)

    def test_second_derivatives_are_looked_at_when_asked(self) -> None:
        for graph, there in ((LAYER, True), (REVERSE_ONLY, True), (REVERSE_TWICE, False)):
            here = Engine().survey(load_of(graph), (0,), (0,), second=True)
            assert isinstance(here, Survey)
            assert (here.second is None) == there
        assert "client.jacobian(jax.grad(f), mode='reverse')" in fault(here.second).message
        unasked = Engine().survey(load_of(REVERSE_TWICE), (0,), (0,))
        assert isinstance(unasked, Survey)
        assert unasked.second is None

    def test_complex_leaves(self) -> None:
        conjugate = load_of(single((Type("complex128", (2,)),), (node("conj", 0), node("real", 1)), (2,)))
        here = Engine().survey(conjugate, (0,), (0,))
        assert isinstance(here, Survey)
        assert "holomorphic=True" in fault(here.forward).message
        assert isinstance(here.reverse, Cost)

    def test_leaves_without_derivatives_are_a_fault(self) -> None:
        assert fault(Engine().survey(load_of(PRODUCT), (1,), (0,))).field == "wrt[0]"
        assert fault(Engine().survey(load_of(PRODUCT), (0,), (1,))).field == "outputs[0]"

    def test_nothing_is_compiled(self, compiled_programs: list[str]) -> None:
        Engine().survey(load_of(LAYER), (0,), (0,))
        assert compiled_programs == []


class TestBounds:
    def test_functions_and_their_kernels_leave_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "_FUNCTIONS", 2)
        here = Engine()
        graphs = [layer(inline(W + shift)) for shift in range(3)]
        for graph_ in graphs:
            arrays(here.run(task(graph_, Kind.VALUE, values=(0,)), X))
        assert here.run(task(graphs[0], Kind.VALUE, values=(0,), load=False), X) == Missing()
        for graph_ in graphs[1:]:
            arrays(here.run(task(graph_, Kind.VALUE, values=(0,), load=False), X))

    def test_a_function_whose_kernels_are_used_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "_FUNCTIONS", 2)
        here, hot = Engine(), layer(inline(W))
        arrays(here.run(task(hot, Kind.VALUE, values=(0,)), X))
        for shift in (1, 2, 3):
            arrays(here.run(task(layer(inline(W + shift)), Kind.VALUE, values=(0,)), X))
            arrays(here.run(task(hot, Kind.VALUE, values=(0,), load=False), X))

    def test_a_dropped_kernel_is_compiled_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "_KERNELS", 1)
        here = Engine()
        for width in (1, 2, 1):
            answer = here.run(task(LAYER, Kind.FORWARD, count=1, width=width), X)
            assert isinstance(answer, Done)
            assert answer.compile_seconds > 0
