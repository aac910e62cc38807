"""The structure of a derivative: detected in the programs of its products, or given, then coloured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_worker import structuring
from jacloom_worker.kernels import Subject
from jacloom_worker.pattern import colouring
from jacloom_worker.pattern.sets import TooDense
from jacloom_worker.protocol import Dense, Kernel, Kind, Prices, Structure

pytestmark = pytest.mark.usefixtures("worker_jax")

EQUAL = Prices(1.0, 1.0)
FIVE = Type("float64", (5,))


def subject(f: Callable[..., Any], *inputs: Type, constants: tuple[np.ndarray, ...] = ()) -> Subject:
    def apply(given: Any, leaves: Any) -> list[Any]:
        return jax.tree.leaves(f(*leaves, *given))

    with jax.enable_x64(True):
        types = [jax.ShapeDtypeStruct(type_.shape, type_.dtype) for type_ in inputs]
        outs = jax.eval_shape(lambda *leaves: apply(constants, leaves), *types)
    return Subject(apply, inputs, tuple(Type(out.dtype.name, out.shape) for out in outs), constants)


def kernel(kind: Kind = Kind.FORWARD, **options: Any) -> Kernel:
    return Kernel("f", kind, **({"wrt": (0,), "outputs": (0,)} | options))


def found(subject: Subject, kernel: Kernel, prices: Prices = EQUAL, **options: Any) -> Structure:
    made = structuring.structure(subject, kernel, prices, **options)
    assert isinstance(made, Structure)
    return made


def drawn(made: Structure) -> list[str]:
    rows = [["."] * made.shape[1] for _ in range(made.shape[0])]
    for row in range(made.shape[0]):
        for column in made.indices[made.pointers[row] : made.pointers[row + 1]]:
            rows[row][column] = "x"
    return ["".join(row) for row in rows]


def shifted(x: jax.Array) -> jax.Array:
    return jnp.sin(x[1:]) * x[0]


@jax.custom_vjp
def backward(x: jax.Array) -> jax.Array:
    return shifted(x)


backward.defvjp(lambda x: jax.vjp(shifted, x), lambda pullback, bar: pullback(bar))
SHIFTED = ["xx...", "x.x..", "x..x.", "x...x"]


class TestDetected:
    @pytest.mark.parametrize("f", [shifted, backward], ids=["both rules", "a reverse rule only"])
    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE])
    def test_columns_and_rows_have_one_pattern(self, f: Any, kind: Kind) -> None:
        assert drawn(found(subject(f, FIVE), kernel(kind))) == SHIFTED

    def test_zeros_of_large_constants_count(self) -> None:
        weights = np.array([[1.0, 0, 2], [0, 3, 0]])
        made = found(subject(lambda x, w: w @ x, Type("float64", (3,)), constants=(weights,)), kernel())
        assert drawn(made) == ["x.x", ".x."]
        assert made.seconds > 0

    def test_several_leaves_in_the_order_asked_for(self) -> None:
        two = subject(lambda a, b: (a[0] * b, a[1:] ** 2), Type("float32", (3,)), Type("float64", (2,)))
        assert drawn(found(two, kernel(wrt=(1, 0), outputs=(1, 0)))) == ["...x.", "....x", "x.x..", ".xx.."]
        assert drawn(found(two, kernel(wrt=(1,), outputs=(1,)))) == ["..", ".."]

    @pytest.mark.parametrize(
        ("f", "leaf", "expected"),
        [
            (lambda x: jnp.concatenate([x, jnp.ones(2)]), Type("float64", (0,)), ["", ""]),
            (lambda x: x[:0], FIVE, []),
            (lambda x: x**2, Type("float64"), ["x"]),
            (lambda x: jnp.floor(x[:2]), FIVE, [".....", "....."]),
        ],
        ids=["no columns", "no rows", "scalar", "zero"],
    )
    def test_edges(self, f: Any, leaf: Type, expected: list[str]) -> None:
        made = found(subject(f, leaf), kernel())
        assert drawn(made) == expected
        assert made.passes == (1 if "x" in expected else 0)

    def test_complex_inputs_have_a_pattern_though_they_have_no_columns(self) -> None:
        f = subject(lambda z: jnp.abs(z[1:]), Type("complex128", (4,)))
        assert drawn(found(f, kernel(), Prices(None, 1.0))) == [".x..", "..x.", "...x"]

    def test_too_many_entries(self) -> None:
        f = subject(lambda x: x[1:] * jnp.sum(x), FIVE)
        made = structuring.structure(f, kernel(), EQUAL, most=10)
        assert made == Dense("its pattern has more than 10 entries")
        assert found(f, kernel(), most=1000).entries == 20
        with pytest.raises(TooDense):
            structuring.pattern(f, kernel(), most=10)

    def test_what_has_no_derivative(self) -> None:
        f = subject(lambda x, n: x * n[0], FIVE, Type("int64", (2,)))
        with pytest.raises(Fault) as caught:
            structuring.structure(f, kernel(wrt=(1,)), EQUAL)
        assert caught.value.field == "wrt[0]"


class TestHessian:
    ARROW = ("xxxxx", "xx...", "x.x..", "x..x.", "x...x")

    @staticmethod
    def energy(x: jax.Array) -> jax.Array:
        return jnp.sum(x[1:] ** 3 * x[0]) + x[0] ** 4

    @pytest.mark.parametrize("inner", ["forward", "reverse"])
    def test_star_coloured(self, inner: Any) -> None:
        made = found(subject(self.energy, FIVE), kernel(Kind.HESSIAN, inner=inner), Prices(1.0, None))
        assert drawn(made) == list(self.ARROW)
        assert (made.strategy, made.passes, made.entries) == ("star-coloured", 2, 9)

    def test_of_two_leaves(self) -> None:
        f = subject(lambda a, b: jnp.sum(a[:2] ** 2 * b), Type("float64", (3,)), Type("float32", (2,)))
        exact = drawn(found(f, kernel(Kind.HESSIAN, wrt=(0, 1), inner="reverse"), Prices(1.0, None)))
        assert exact == ["x..x.", ".x..x", ".....", "x....", ".x..."]
        # Not every zero of the seeds within is seen: there may be more entries, never fewer.
        forward = drawn(found(f, kernel(Kind.HESSIAN, wrt=(0, 1), inner="forward"), Prices(1.0, None)))
        assert all(more == "x" for row, rows in zip(exact, forward, strict=True) for one, more in zip(row, rows, strict=True) if one == "x")

    def test_that_only_forward_mode_has(self) -> None:
        f = subject(lambda x: jnp.sum(jax.lax.custom_linear_solve(lambda y: 3 * y, x[1:] ** 3, lambda _, b: b / 3)), Type("float64", (4,)))
        assert drawn(found(f, kernel(Kind.HESSIAN, inner="forward"), Prices(1.0, None))) == ["....", ".x..", "..x.", "...x"]
        with pytest.raises(Exception, match="transpose_solve"):
            structuring.structure(f, kernel(Kind.HESSIAN, inner="reverse"), Prices(1.0, None))

    def test_a_full_one_is_not_star_coloured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(colouring, "star_coloured", lambda pattern: pytest.fail("coloured"))
        made = found(subject(lambda x: jnp.sum(x[:4]) ** 3, FIVE), kernel(Kind.HESSIAN), Prices(1.0, None))
        assert drawn(made) == ["xxxx.", "xxxx.", "xxxx.", "xxxx.", "....."]
        # Of each two entries that mirror each other one is computed.
        assert (made.passes, made.entries) == (4, 10)

    def test_edges(self) -> None:
        assert found(subject(jnp.sum, FIVE), kernel(Kind.HESSIAN), Prices(1.0, None)).passes == 0
        assert drawn(found(subject(lambda x: x**3, Type("float64")), kernel(Kind.HESSIAN), Prices(1.0, None))) == ["x"]
        empty = found(subject(lambda x: jnp.sum(x**2) + 1, Type("float64", (0,))), kernel(Kind.HESSIAN), Prices(1.0, None))
        assert (empty.shape, empty.passes, empty.entries) == ((0, 0), 0, 0)


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


class TestGiven:
    F = staticmethod(lambda x: shifted(x)[:2])

    def test_it_is_not_looked_for(self) -> None:
        made = found(subject(self.F, FIVE), kernel(), given=(integers(0, 1, 3), integers(4, 0, 2)))
        assert drawn(made) == ["....x", "x.x.."]
        # Columns in any order, and twice.
        again = found(subject(self.F, FIVE), kernel(), given=(integers(0, 1, 4), integers(4, 2, 0, 2)))
        assert (drawn(again), again.digest) == (drawn(made), made.digest)
        assert found(subject(self.F, FIVE), kernel(), given=(integers(0, 0, 0), integers())).passes == 0

    def test_of_a_hessian_either_half_will_do(self) -> None:
        f = subject(lambda x: x[0] * x[1] + x[2] ** 2, Type("float64", (3,)))
        for given in ((integers(0, 1, 1, 2), integers(1, 2)), (integers(0, 0, 1, 2), integers(0, 2))):
            assert drawn(found(f, kernel(Kind.HESSIAN), Prices(1.0, None), given=given)) == [".x.", "x..", "..x"]

    @pytest.mark.parametrize(
        ("pointers", "indices", "text", "field"),
        [
            (integers(0, 1), integers(0), "2 rows has 3 row pointers, got", "pattern.pointers"),
            (integers(0, 1, 1).reshape(1, 3), integers(0), "2 rows has 3 row pointers, got", "pattern.pointers"),
            (integers(0, 1, 1), integers(0).reshape(1, 1), "2 rows has 3 row pointers", "pattern.pointers"),
            (integers(1, 1, 1), integers(0), "rise from 0", "pattern.pointers"),
            (integers(0, 1, 2), integers(0), "rise from 0", "pattern.pointers"),
            (integers(0, 2, 1), integers(0), "rise from 0", "pattern.pointers"),
            (integers(0, 1, 1), integers(5), "between 0 and 4", "pattern.indices"),
            (integers(0, 1, 1), integers(-1), "between 0 and 4", "pattern.indices"),
        ],
    )
    def test_numbers_that_are_none(self, pointers: np.ndarray, indices: np.ndarray, text: str, field: str) -> None:
        with pytest.raises(Fault, match=text) as caught:
            structuring.structure(subject(self.F, FIVE), kernel(), EQUAL, given=(pointers, indices))
        assert (caught.value.reason, caught.value.field) == (Reason.INVALID_OPTION, field)
