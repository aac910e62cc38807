"""JAX's own catalogue of primitive calls, a tenth of its float cases: values, JVPs and VJPs through the graph equal JAX's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest
from conformance.roundtrip import Flat, differentiable, directions, flat, through_bytes

with jax.enable_x64(True):  # the catalogue makes its float64 cases on import, and only then
    from jax._src.internal_test_util import test_harnesses

# Sorted, because JAX makes some of them from a set of types: in that order every process would take another tenth, and test runners that compare
# what their processes have collected would give up.
FLOAT = sorted((case for case in test_harnesses.all_harnesses if case.dtype in (np.float32, np.float64)), key=lambda case: case.fullname)

_BINDS_LESS = "the case binds the primitive without a parameter that JAX's own transpose needs, so JAX raises a TypeError where we have a derivative"
EXCEPTIONS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "mul_dtypes_lhs_float32_20_20_rhs_float32_20_20_",
            "mul_dtypes_lhs_float64_20_20_rhs_float64_20_20_",
            "mul_broadcasting_lhs_float32_20_20_rhs_float32_1_20_",
            "mul_broadcasting_lhs_float32_1_20_rhs_float32_20_20_",
            "conj_dtypes_operand_float32_3_4_kwargs_",
            "conj_dtypes_operand_float64_3_4_kwargs_",
            "conj_kwargs_operand_float32_3_4_kwargs_input_dtype_:_class_numpy_float32_",
        ),
        _BINDS_LESS,
    ),
    "regularized_incomplete_beta__float32": "XLA fuses its series in another order, one unit in the last place",
}
"""Cases that do not agree, by name, with the reason."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = FLOAT if metafunc.config.getoption("--whole-catalogue") else FLOAT[::10]
        metafunc.parametrize("case", [pytest.param(case, id=case.fullname, marks=_marks(case)) for case in cases])


def _marks(case: test_harnesses.Harness) -> list[pytest.MarkDecorator]:
    reason = EXCEPTIONS.get(case.fullname)
    # Strict: a case that has come to agree must leave the list.
    return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]


def test_the_catalogue_is_the_one_this_suite_was_written_for() -> None:
    assert len(FLOAT) >= 1_700


def test_the_exceptions_are_cases_and_few() -> None:
    assert set(EXCEPTIONS) <= {case.fullname for case in FLOAT}
    assert len(EXCEPTIONS) <= len(FLOAT) // 100


def test_case(case: test_harnesses.Harness) -> None:
    compare(case)


def compare(case: test_harnesses.Harness) -> None:
    """Asserts that a case's value is JAX's bit for bit, and its derivatives JAX's to rounding, or refused where JAX refuses."""
    # Cases of float32 that ask for wider types need those types.
    wide = case.dtype == np.float64 or any(bits in case.fullname for bits in ("64", "128"))
    with jax.enable_x64(True):
        args = case.dyn_args_maker(np.random.RandomState(0))
    with jax.enable_x64(wide):
        reference = flat(case.dyn_fun, args)
        leaves = [leaf if _is_key(leaf) else np.asarray(jax.numpy.asarray(leaf)) for leaf in jax.tree.leaves(tuple(args))]
        expected = jax.jit(reference)(*leaves)
        expected_jvp = attempt(lambda: jvp(reference, leaves))
        expected_vjp = attempt(lambda: vjp(reference, leaves))
    program, _ = through_bytes(case.dyn_fun, jax.tree.unflatten(jax.tree.structure(tuple(args)), leaves), x64=wide)
    with jax.enable_x64(True):
        for ours, theirs in zip(jax.jit(program)(*leaves), expected, strict=True):
            np.testing.assert_array_equal(plain(ours), plain(theirs))
            assert ours.dtype == theirs.dtype
        agree(attempt(lambda: jvp(program, leaves)), expected_jvp)
        agree(attempt(lambda: vjp(program, leaves)), expected_vjp)


def jvp(fun: Flat, leaves: list[Any]) -> list[Any]:
    """Returns the tangents of the inexact results in a fixed random direction."""
    moving, of_moving = inexact_part(fun, leaves)
    tangents = [directions(leaves, 1)[index] for index in moving]
    return list(jax.jit(lambda xs, ts: jax.jvp(of_moving, (xs,), (ts,))[1])([leaves[index] for index in moving], tangents))


def vjp(fun: Flat, leaves: list[Any]) -> list[Any]:
    """Returns the cotangents of the inexact leaves for fixed random cotangents of the results."""
    moving, of_moving = inexact_part(fun, leaves)

    def pulled(values: list[Any]) -> Any:
        outputs, pull = jax.vjp(of_moving, values)
        return pull(list(map(jax.numpy.asarray, directions(outputs, 2))))[0]

    return list(jax.jit(pulled)([leaves[index] for index in moving]))


def inexact_part(fun: Flat, leaves: list[Any]) -> tuple[list[int], Callable[[list[Any]], list[Any]]]:
    """Returns which leaves can have a tangent, and the function of these alone to the results that can have one."""
    moving = [index for index, leaf in enumerate(leaves) if differentiable(leaf)]

    def of_moving(values: list[Any]) -> list[Any]:
        full = list(leaves)
        for index, value in zip(moving, values, strict=True):
            full[index] = value
        return [result for result in fun(*full) if differentiable(result)]

    return moving, of_moving


def attempt(compute: Callable[[], list[Any]]) -> list[np.ndarray] | Exception:
    """Returns the arrays, or the exception where there is no derivative."""
    try:
        return [np.asarray(array) for array in compute()]
    except Exception as error:  # JAX refuses with many classes
        return error


def agree(ours: list[np.ndarray] | Exception, theirs: list[np.ndarray] | Exception) -> None:
    """Asserts that both are refusals, or arrays equal to rounding."""
    if isinstance(theirs, Exception) or isinstance(ours, Exception):
        assert type(theirs) is not list, f"JAX has a derivative, here: {ours!r}"
        assert type(ours) is not list, f"JAX refuses ({theirs!r}), here there is one"
        return
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.dtype == expected.dtype
        tolerance = 32 * float(jax.numpy.finfo(expected.dtype).eps)
        np.testing.assert_allclose(mine, expected, rtol=tolerance, atol=tolerance)


def plain(array: Any) -> np.ndarray:
    """Returns an array's elements; of keys their data."""
    return np.asarray(jax.random.key_data(array)) if _is_key(array) else np.asarray(array)


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and bool(jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key))
