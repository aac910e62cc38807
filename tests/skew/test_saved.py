"""Graphs that other versions of JAX have traced, on the workers of today: equal ids, equal values, equal derivatives.

Each folder under ``graphs`` was written by ``make.py`` in an environment with the version of JAX that names it, which computed the numbers too.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from skew import recording
from skew.catalogue import CASES
from skew.recording import Arrays, Recording, differentiable

import jacloom as jl
from jacloom_graph import wire
from jacloom_graph.errors import Fault, Reason
from jacloom_worker.engine import Engine
from jacloom_worker.protocol import Done, Kernel, Kind, Load, Task

pytestmark = pytest.mark.usefixtures("worker_jax")

GRAPHS = Path(__file__).parent / "graphs"
VERSIONS = ("0.8.3", "0.9.2", "0.10.2", "0.11.2")
"""The versions of JAX whose graphs must run, oldest first. A version is never taken away: users have graphs of it."""

TOLERANCE = {"float64": 1e-12, "complex128": 1e-12, "float32": 5e-6, "complex64": 5e-6, "float16": 4e-3, "bfloat16": 3e-2}
"""Greatest difference, relative to the largest entry of an array.

Not zero, because compilers differ in what they fuse, and processors and LAPACKs in how they add and in the last digit of an exponential: a few units
in the last place of a single operation, and some dozens after a factorization or a loop. Integers, booleans and keys are equal.
"""


@pytest.fixture(scope="module")
def engine(worker_jax: None) -> Engine:
    """Returns one worker for all tests: it holds what it has compiled, and versions share many graphs."""
    return Engine()


def saved(version: str, name: str) -> tuple[jl.Function, Recording]:
    path = GRAPHS / f"jax-{version}" / name
    function = jl.load(path.with_suffix(".jacloom"))
    return function, recording.load(path.with_suffix(".npz"), function)


@cache
def retraced(name: str) -> jl.Function:
    return recording.trace(CASES[name])


def run(engine: Engine, function: jl.Function, kind: Kind, *arrays: np.ndarray) -> Arrays | Fault:
    """Returns what a worker computes: for the kinds with derivatives those alone."""
    wrt, outputs = differentiable(function.inputs), differentiable(function.outputs)
    kernel = Kernel(function.id, kind, values=tuple(range(len(function.outputs)))) if kind is Kind.VALUE else Kernel(function.id, kind, wrt, outputs)
    answer = engine.run(Task(kernel, Load(wire.to_bytes(function.graph))), *arrays)
    assert isinstance(answer, Done | Fault)
    return answer if isinstance(answer, Fault) else answer.arrays


def assert_equal(found: Arrays | Fault, expected: Arrays) -> None:
    assert not isinstance(found, Fault), found
    assert [(array.dtype, array.shape) for array in found] == [(array.dtype, array.shape) for array in expected]
    for mine, theirs in zip(found, expected, strict=True):
        tolerance = TOLERANCE.get(theirs.dtype.name)
        if tolerance is None:
            np.testing.assert_array_equal(mine, theirs)
        else:
            exact = np.complex128 if theirs.dtype.kind == "c" else np.float64
            scale = max(1.0, np.abs(theirs.astype(exact)).max(initial=0.0))
            np.testing.assert_allclose(mine.astype(exact), theirs.astype(exact), rtol=0, atol=tolerance * scale)


def assert_runs(engine: Engine, function: jl.Function, recorded: Recording) -> None:
    """Asserts that a worker computes what was recorded, and refuses forward mode where that JAX did; in reverse it knows more than JAX does."""
    assert_equal(run(engine, function, Kind.VALUE, *recorded.leaves), recorded.value)
    for kind, seeds, expected in ((Kind.JVP, recorded.tangents, recorded.jvp), (Kind.VJP, recorded.cotangents, recorded.vjp)):
        found = run(engine, function, kind, *recorded.leaves, *seeds)
        if expected is not None:
            assert_equal(found, expected)
        elif kind is Kind.JVP:
            assert isinstance(found, Fault)
            assert found.reason is Reason.MODE_UNAVAILABLE
        else:
            assert_transposed(found, recorded)


def assert_transposed(found: Arrays | Fault, recorded: Recording) -> None:
    """Asserts that cotangents belong to the recorded tangents: ``<w, J v> = <J^T w, v>``."""
    assert not isinstance(found, Fault), found
    assert recorded.jvp is not None
    pushed = sum(np.vdot(w, jv) for w, jv in zip(recorded.cotangents, recorded.jvp, strict=True))
    pulled = sum(np.vdot(jtw, v) for jtw, v in zip(found, recorded.tangents, strict=True))
    np.testing.assert_allclose(pulled, pushed, rtol=1e-10)


def test_folders_of_all_versions_are_there() -> None:
    assert {folder.name for folder in GRAPHS.iterdir()} == {f"jax-{version}" for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_has_each_case(version: str) -> None:
    expected = {f"{name}{suffix}" for name in CASES for suffix in (".jacloom", ".npz")}
    assert {path.name for path in (GRAPHS / f"jax-{version}").iterdir()} == expected


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("version", VERSIONS)
class TestSaved:
    def test_is_what_its_file_says(self, version: str, name: str) -> None:
        function, recorded = saved(version, name)
        assert function.id == recorded.id
        assert function.graph.producer == recorded.producer
        assert recorded.producer.endswith(f", jax {version}")
        assert (recorded.jvp is not None, recorded.vjp is not None) == (CASES[name].forward, CASES[name].reverse)

    @pytest.mark.slow
    def test_runs_with_equal_results(self, engine: Engine, version: str, name: str) -> None:
        assert_runs(engine, *saved(version, name))


@pytest.mark.parametrize("name", CASES)
class TestRetraced:
    def test_by_the_same_version_has_the_same_id(self, name: str) -> None:
        if jax.__version__ not in VERSIONS:
            pytest.skip(f"there are no graphs of JAX {jax.__version__}; tests/skew/make.py writes them")
        assert retraced(name).id == saved(jax.__version__, name)[0].id

    @pytest.mark.slow
    @pytest.mark.parametrize("version", VERSIONS)
    def test_has_the_results_of_each_version(self, engine: Engine, version: str, name: str) -> None:
        assert_runs(engine, retraced(name), saved(version, name)[1])
