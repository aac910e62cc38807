"""Tracing, saving, loading, binding: functions as data on the client's side."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacloom as jl
from jacloom._binding import bind_traced
from jacloom._cache import PerObject, Recent
from jacloom._tracing import bind_callable
from jacloom_graph.types import Type

X = np.array([1.0, 2.0, 3.0])


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


def bind(function: jl.Function, *args: Any, **kwargs: Any) -> Any:
    signature = function.signature
    assert signature is not None
    return bind_traced(signature, function, function.bindings, args, kwargs)[0]


def scaled(x: jax.Array, n: int = 2, *, factor: Any = 1.0) -> Any:
    return {"y": jnp.stack([x * factor] * n)}


def test_trace_says_what_it_traced() -> None:
    function = jl.trace(scaled, jax.ShapeDtypeStruct((3,), jnp.float32), 4, factor=np.float32(2))
    assert function.inputs == (Type("float32", (3,)), Type("float32"))
    assert function.outputs == (Type("float32", (4, 3)),)
    assert len(function.id) == 64
    assert repr(function) == f"<jacloom.Function {function.id[:12]}: (float32[3], float32[]) -> (float32[4,3])>"


def test_same_function_same_id() -> None:
    again = jl.trace(scaled, X, 2, factor=0.5)
    assert jl.trace(scaled, X, 2, factor=99.0) == again
    assert hash(again) == hash(jl.trace(scaled, X + 1, 2, factor=1.0))
    assert jl.trace(scaled, X, 3, factor=0.5) != again
    assert jl.trace(scaled, X[:2], 2, factor=0.5) != again


def test_saved_functions_are_whole(tmp_path: Path) -> None:
    big = np.random.default_rng(0).normal(size=(300, 100))
    function = jl.trace(lambda x: jnp.tanh(big @ x), np.ones(100))
    function.save(tmp_path / "f.jacloom")
    loaded = jl.load(tmp_path / "f.jacloom")
    assert loaded == function
    assert (loaded.inputs, loaded.outputs, loaded.in_tree, loaded.out_tree) == (
        function.inputs,
        function.outputs,
        function.in_tree,
        function.out_tree,
    )
    assert pickle.loads(pickle.dumps(function)) == function
    assert any(constant.data is not None and np.array_equal(constant.data, big) for constant in loaded.graph.constants)


def test_loading_does_not_need_jax(tmp_path: Path) -> None:
    jl.trace(scaled, X, 2, factor=1.0).save(tmp_path / "f.jacloom")
    program = """
import sys
sys.modules["jax"] = None  # import jax raises ImportError
import jacloom as jl, numpy as np
from jacloom._binding import bind_traced
f = jl.load(sys.argv[1])
binding, leaves = bind_traced(f.signature, f, f.bindings, (np.ones(3), None), {"factor": 2.0})
print(binding.inputs(leaves)[1], f.signature.result.unflatten([7]))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "f.jacloom")], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("2.0 {'y': 7}\n", "")


def test_files_that_are_no_functions(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\x00\x01 not a graph")
    with pytest.raises(jl.GraphError, match="not a serialized"):
        jl.load(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        jl.load(tmp_path / "g")


def test_fixed_values_are_checked() -> None:
    function = jl.trace(scaled, X, 4, factor=1.0)
    assert bind(function, X, 4, factor=1.0) is bind(function, X + 1, 4, factor=3.0)
    assert bind(function, X, None, factor=1.0).slots == (0, None, 1)
    with pytest.raises(jl.ArgumentError, match=r"✗ args\[1\] +fixed to 4 while tracing, got 5"):
        bind(function, X, 5, factor=1.0)
    loaded = pickle.loads(pickle.dumps(function))
    assert bind(loaded, X, None, factor=1.0).slots == (0, 1)
    with pytest.raises(
        jl.ArgumentError, match=r"expected `f\(array, None, factor=array\)`, got `f\(array, 4, factor=1\.0\)`\. What was fixed .* None here"
    ):
        bind(loaded, X, 4, factor=1.0)


def test_mismatch_marks_each_argument() -> None:
    function = jl.trace(lambda p, x: p["w"] @ x + p["b"], {"w": np.ones((2, 3)), "b": np.ones(2)}, X)
    with pytest.raises(jl.ArgumentError) as caught:
        bind(function, {"w": np.ones((2, 3)), "b": np.ones(2, np.float32)}, np.ones(4))
    assert str(caught.value).splitlines()[1:] == [
        "  ✗ args[0]['b']  float64[2] expected, got float32[2]",
        "  ✓ args[0]['w']  float64[2,3]",
        "  ✗ args[1]       float64[3] expected, got float64[4]",
        "Its types are fixed and nothing is cast: convert the arguments, or trace the function again for these.",
    ]
    with pytest.raises(jl.ArgumentError, match=r"expected `f\(\{'b': array, 'w': array\}, array\)`, got `f\(array\)`\.$"):
        bind(function, X)


@pytest.mark.parametrize("through", [lambda function: function, lambda function: pickle.loads(pickle.dumps(function))], ids=["traced", "loaded"])
def test_a_call_in_another_form_is_shown_beside_the_one_that_was_traced(through: Any) -> None:
    function = through(jl.trace(lambda x, y: x * y, X, X))
    for args, kwargs, got in (((X,), {}, "array"), ((X, X, X), {}, "array, array, array"), ((X,), {"y": X}, "array, y=array")):
        with pytest.raises(jl.ArgumentError) as caught:
            bind(function, *args, **kwargs)
        assert str(caught.value) == f"the arguments must be passed as when f was traced: expected `f(array, array)`, got `f({got})`."


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ([1.0, 2.0, 3.0], "list [1.0, 2.0, 3.0]: pass np.asarray(..., 'float64')"),
        ((X,), "tuple (array,): pass its item alone, without the tuple around it"),
        (2, "int64[]: pass np.asarray(2, 'float64')"),
        ({"x": X}, "dict {'x': array}"),
    ],
    ids=["list", "tuple", "number", "dict"],
)
def test_what_comes_in_place_of_an_array_is_named_with_the_way_out(given: Any, got: str) -> None:
    function = jl.trace(lambda x, y: x + y, X, X)
    with pytest.raises(jl.ArgumentError) as caught:
        bind(function, given, X)
    assert str(caught.value).splitlines()[1:3] == [f"  ✗ args[0]  float64[3] expected, got {got}", "  ✓ args[1]  float64[3]"]


def test_registered_functions_are_one_line_in_a_list_and_all_there_is_when_printed() -> None:
    function = jl.trace(lambda p, x: (p["w"] @ x, p), {"w": np.ones((2, 3)), "b": np.ones(2), "s": 1.0}, X)
    remote = jl.RemoteFunction(
        function.id, "layer", function.inputs, function.outputs, function.in_tree, function.out_tree, 1, "2026-01-02T03:04:05Z"
    )
    shown = "(float64[2], float64[], float64[2,3], and 1 more) -> (float64[2], float64[2], float64[], and 1 more)"
    assert repr([remote]) == f"[<jacloom.RemoteFunction layer {function.id[:12]}: {shown}>]"
    assert str(remote).splitlines() == [
        "layer: 1 node, registered 2026-01-02T03:04:05Z",
        f"functions/{function.id}",
        "args[0]['b']  float64[2]",
        "args[0]['s']  float64[]",
        "args[0]['w']  float64[2,3]",
        "args[1]       float64[3]",
        "out[0]        float64[2]",
        "out[1]['b']   float64[2]",
        "out[1]['s']   float64[]",
        "out[1]['w']   float64[2,3]",
    ]


def test_integers_may_be_inputs_of_a_traced_function() -> None:
    function = jl.trace(lambda x, n: x * n, X, np.int64(3))
    assert bind(function, X, 5).slots == (0, 1)
    with pytest.raises(jl.ArgumentError, match=r"int64\[\] expected, got bool\[\]"):
        bind(function, X, True)


def test_callables_are_traced_once_per_types_and_static_values() -> None:
    traces = []

    def f(x: jax.Array, n: int) -> jax.Array:
        traces.append(n)
        return x * n

    for x, n in [(X, 2), (X + 1, 2), (X, 3), (X.astype(np.float32), 2), (X, 2), (jnp.asarray(X, jnp.float32), 2)]:
        bind_callable(f, (x, n), {})
    assert traces == [2, 3, 2]


def test_settings_of_jax_are_part_of_the_key() -> None:
    key = np.asarray(jax.random.key_data(jax.random.key(0)))

    def f(key: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.wrap_key_data(key))

    narrow, _ = bind_callable(f, (key,), {})
    with jax.enable_x64(True):
        wide, _ = bind_callable(f, (key,), {})
    assert (narrow.signature.outputs, wide.signature.outputs) == ((Type("float32"),), (Type("float64"),))


def test_caching_keeps_no_callable_alive() -> None:
    class Model:
        def __call__(self, x: jax.Array) -> jax.Array:
            return x * 2

    model = Model()
    bind_callable(model, (X,), {})
    gone = weakref.ref(model)
    del model
    jax.clear_caches()  # JAX's own caches hold the last functions traced
    gc.collect()
    assert gone() is None


def test_unhashable_callables_are_cached_by_identity() -> None:
    traces = []

    class Model(list):  # type: ignore[type-arg]
        def __call__(self, x: jax.Array) -> jax.Array:
            traces.append(1)
            return x * 2

    one, other = Model(), Model()
    assert one == other
    for model in (one, other, one):
        bind_callable(model, (X,), {})
    assert len(traces) == 2


def test_recent_forgets_the_oldest() -> None:
    cache: Recent[int] = Recent(size=2)
    assert [cache.put(key, number) for number, key in enumerate("abac")] == [0, 1, 0, 3]
    assert [cache.get(key) for key in "abc"] == [None, 1, 3]
    cache.drop("b")
    assert cache.get("b") is None


def test_objects_without_weak_references_are_not_cached() -> None:
    caches: PerObject[int] = PerObject()
    caches.of(1).put("key", 1)
    assert caches.of(1).get("key") is None
    holder = lambda: 0  # noqa: E731
    caches.of(holder).put("key", 1)
    assert caches.of(holder).get("key") == 1


def test_functions_that_cannot_be_traced() -> None:
    with pytest.raises(jl.TraceError, match="kept static"):
        jl.trace(lambda x: x if x > 0 else -x, 1.0)
    with pytest.raises(jl.TraceError, match="An index or a size depends on a traced value"):
        jl.trace(lambda x, n: [x, x][n], X, np.int64(1))
    with pytest.raises(jl.TraceError, match="An index or a size depends on a traced value"):
        jl.trace(lambda n: jnp.ones(n), np.int64(1))
    with pytest.raises(jl.TraceError, match="Return arrays and numbers"):
        jl.trace(lambda x: "text", X)
    with pytest.raises(jl.TraceError, match=rf"mask picks .* use jnp\.where\(x > 0, x, 0\).* \(at {__file__}:\d+ "):
        jl.trace(lambda x: x[x > 0].sum(), X)
    with pytest.raises(jl.TraceError, match=r"size of a result depends on values.* pass size="):
        jl.trace(lambda x: jnp.nonzero(x)[0], X)
    with pytest.raises(jl.GraphError, match=r"'\\ud800' has a lone surrogate"):
        jl.trace(lambda p: p["\ud800"], {"\ud800": X})
    with pytest.raises(jl.ArgumentError, match=r"got Unhashable, which has no hash\. Close over it instead of passing it"):
        jl.trace(lambda x, thing: x, X, Unhashable())
    with pytest.raises(jl.UnsupportedOpError) as caught:
        jl.trace(lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float64), x), 1.0)
    assert "callback" in str(caught.value)
    with pytest.raises(jl.ArgumentError, match=r"args\[0\]\['t'\]: .*datetime64"):
        jl.trace(lambda p: p["x"], {"x": X, "t": np.zeros(2, "datetime64[s]")})


def test_errors_name_the_function_as_the_user_knows_it() -> None:
    def doubtful(weights: jax.Array) -> jax.Array:
        return weights if weights.sum() > 0 else -weights

    with pytest.raises(jl.TraceError) as caught:
        jl.trace(doubtful, X)
    line = doubtful.__code__.co_firstlineno
    assert f"while tracing the function doubtful at {__file__}:{line}" in str(caught.value)
    assert "depends on the value of the argument weights" in str(caught.value)
    assert "entry.py" not in str(caught.value)


def test_a_look_at_placement_is_left_out() -> None:
    def looking(x: Any) -> Any:
        jax.debug.inspect_array_sharding(x, callback=print)
        return x * 2

    with pytest.warns(jl.JacloomWarning, match="inspect_sharding was dropped"):
        binding, _ = bind_callable(looking, (np.ones(2),), {})
    assert binding.function is not None
    assert [node.op for node in binding.function.graph.entry.nodes] == ["mul"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "f.jacloom").write_bytes(b"nothing of the kind")
    with pytest.raises(jl.GraphError, match=r"f\.jacloom: not a serialized"):
        jl.load(tmp_path / "f.jacloom")


def test_what_is_left_out_is_a_warning_once() -> None:
    def talking(x: Any) -> Any:
        jax.debug.print("x = {}", x)
        return x * 2

    with pytest.warns(jl.JacloomWarning, match=r"^talking: debug_(print|callback) was dropped: .* return the value to look at it") as caught:
        bind_callable(talking, (np.ones(2),), {})
    assert len(caught) == 1
    bind_callable(talking, (np.ones(2),), {})
