"""Certificates: right derivatives hold at every scale, and wrong ones, kinks and jumps are told apart and named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from unit.plain import passes

import jacloom as jl
from jacloom._checking import certify
from jacloom._line import Line
from jacloom_graph.answer import Derivative

X = np.array([0.3, -1.2, 0.7, 2.5])
A = np.array([[1.0, -2.0, 0.5, 3.0], [0.25, 1.5, -1.0, 0.125], [2.0, 0.0, 1.0, -0.5]])
OFFSET = 1e6
SIZES = [1e-8, 1e-4, 1.0, 1e4, 1e8]


def hilbert(n: int) -> np.ndarray:
    return 1.0 / (np.arange(n)[:, None] + np.arange(n) + 1.0)


FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray], Any], Any]] = {
    "linear": (lambda x: A @ x, lambda x: A, X),
    "constant": (lambda x: 0 * x[:2] + 3, lambda x: np.zeros((2, 4)), X),
    "sine": (np.sin, lambda x: np.diag(np.cos(x)), X),
    "scalar": (lambda x: (x**2).sum(), lambda x: 2 * x, X),
    "square at zero": (lambda x: x**2, lambda x: np.diag(2 * x), np.zeros(3)),
    "exponential": (np.exp, lambda x: np.diag(np.exp(x)), np.array([-80.0, 0.0, 80.0])),
    "logarithm": (np.log, lambda x: np.diag(1 / x), np.array([1e-8, 1.0, 1e8])),
    "sum of logarithms": (lambda x: np.log(x).sum(), lambda x: 1 / x, np.array([1e-8, 1.0, 1e8])),
    "norm": (np.linalg.norm, lambda x: x / np.linalg.norm(x), X),
    "product": (np.prod, lambda x: np.prod(x) / x, X),
    "fast": (lambda x: np.sin(1e4 * x), lambda x: np.diag(1e4 * np.cos(1e4 * x)), np.array([1e-4, 2e-4])),
    "fast at zero": (lambda x: np.sin(1e4 * x), lambda x: np.diag(1e4 * np.cos(1e4 * x)), np.zeros(2)),
    "ill-conditioned": (lambda x: np.linalg.solve(hilbert(6), x), lambda x: np.linalg.inv(hilbert(6)), np.arange(6.0) - 2),
    "offset": (lambda x: (x + 1e3) - 1e3, lambda x: np.eye(4), X),
    "layer": (lambda x: np.tanh(A @ x), lambda x: (1 - np.tanh(A @ x) ** 2)[:, None] * A, X),
    "outputs of many sizes": (lambda x: np.sin(x) * 10.0 ** (4 * np.arange(-2, 2)), lambda x: np.diag(np.cos(x) * 10.0 ** (4 * np.arange(-2, 2))), X),
    "polynomial": (lambda x: x**9 - x**4, lambda x: np.diag(9 * x**8 - 4 * x**3), X),
    "steep sigmoid": (lambda x: 1 / (1 + np.exp(-20 * x)), lambda x: np.diag(20 * np.exp(-20 * x) / (1 + np.exp(-20 * x)) ** 2), X / 10),
    "large on large": (lambda x: x / (1 + x**2) * 1e6, lambda x: np.diag((1 - x**2) / (1 + x**2) ** 2 * 1e6), X),
}


@pytest.mark.parametrize("without", [(), (Derivative.JVP,), (Derivative.VJP,)], ids=["both", "reverse", "forward"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_derivatives_hold(name: str, dtype: str, without: tuple[Derivative, ...]) -> None:
    f, jacobian, point = FUNCTIONS[name]
    for seed in range(5):
        certificate = certify(passes(f, jacobian, point, dtype=dtype, without=without), seed)
        assert certificate, f"{certificate}"
        assert certificate.ok


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("argument", SIZES, ids=lambda size: f"x{size:g}")
@pytest.mark.parametrize("result", SIZES, ids=lambda size: f"y{size:g}")
def test_sizes_of_argument_and_result_do_not_matter(argument: float, result: float, dtype: str) -> None:
    def f(x: np.ndarray) -> np.ndarray:
        return np.asarray(result * np.sin(A @ (x / argument)), x.dtype)

    def right(x: np.ndarray) -> np.ndarray:
        return result / argument * np.cos(A @ (x / argument))[:, None] * A

    def wrong(x: np.ndarray) -> np.ndarray:
        return right(x) * np.array([1.0, 1.1, 1.0])[:, None]

    found = certify(passes(f, right, X * argument, dtype=dtype))
    assert found, f"{found}"
    assert (found.evaluations, found.jvps, found.vjps, found.passes) == (5, 1, 3, 9)
    assert [finding.verdict for finding in found.findings] == [jl.Verdict.HOLDS] * 4
    caught = certify(passes(f, wrong, X * argument, dtype=dtype))
    assert [(finding.verdict, finding.place) for finding in caught.findings if finding.verdict.bad] == [(jl.Verdict.DIFFERS, "out[1]")]


def test_a_wrong_entry_is_named() -> None:
    def wrong(x: np.ndarray) -> np.ndarray:
        return A + np.array([[0, 0, 0, 0], [0, 0, 1e-4, 0], [0, 0, 0, 0]])

    found = certify(passes(lambda x: A @ x, wrong, X))
    (bad,) = [finding for finding in found.findings if finding.verdict.bad]
    assert (bad.check, bad.verdict, bad.place, bad.argument) == ("finite differences", jl.Verdict.DIFFERS, "out[1]", "x[2]")
    assert not found
    assert bad.error is not None
    assert bad.tolerance is not None
    assert bad.error > bad.tolerance
    assert "finite differences: differs at out[1] by x[2] (" in str(found)
    assert "a custom rule, a stop_gradient, or what is rough" in bad.detail
    assert "along a random direction expected" in bad.detail
    assert str(found).startswith("does not hold (")


def test_a_wrong_entry_is_named_without_forward_mode() -> None:
    def wrong(x: np.ndarray) -> np.ndarray:
        return A + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 1e-3, 0, 0]])

    found = certify(passes(lambda x: A @ x, wrong, X, without=(Derivative.JVP,)))
    (bad,) = [finding for finding in found.findings if finding.verdict.bad]
    assert (bad.verdict, bad.place, bad.argument) == (jl.Verdict.DIFFERS, "out[2]", "x[1]")
    (open_,) = [finding for finding in found.findings if finding.verdict is jl.Verdict.NOT_CHECKED]
    assert str(open_) == "adjoint identity: not checked; forward mode is not available: no Jvp"


def test_a_wrong_transpose_breaks_the_adjoint_identity() -> None:
    found = certify(passes(lambda x: A @ x, lambda x: A, X, transpose=lambda x: A * 1.0001))
    assert [(finding.check, finding.verdict) for finding in found.findings if finding.verdict.bad] == [("adjoint identity", jl.Verdict.DIFFERS)]
    assert certify(passes(lambda x: A @ x, lambda x: A, X, transpose=lambda x: A * (1 + 1e-12)))


BENDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "clipped": lambda bar: np.clip(bar, -1, 1),
    "norm clipped": lambda bar: bar / max(1.0, float(np.linalg.norm(bar))),
    "guided": lambda bar: np.maximum(bar, 0),
    "signs": np.sign,
}


@pytest.mark.parametrize("without", [(), (Derivative.JVP,)], ids=["both", "reverse"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("factor", [0.1, 1.0, 100.0, 1e6, 1e12])
@pytest.mark.parametrize("bend", BENDS)
def test_a_rule_that_bends_cotangents_is_found_at_every_scale(bend: str, factor: float, dtype: str, without: tuple[Derivative, ...]) -> None:
    for f, jacobian in ((lambda x: factor * x, lambda x: factor * np.eye(4)), (lambda x: factor * x.sum(), lambda x: np.full(4, factor))):
        found = certify(passes(f, jacobian, X, dtype=dtype, without=without, bend=BENDS[bend]))
        assert not found.ok
        (bad,) = [finding for finding in found.findings if finding.check == "linearity"]
        assert bad.verdict is jl.Verdict.DIFFERS
        assert "bends its cotangent" in bad.detail
        assert bad.argument.startswith("x[")


def test_gradients_that_overflow_are_no_bent_ones() -> None:
    found = certify(passes(lambda x: 1e36 * x, lambda x: 1e36 * np.eye(4), X, dtype="float32"))
    assert [finding.verdict for finding in found.findings if finding.check == "linearity"] == [jl.Verdict.NOT_CHECKED]
    assert (
        certify(passes(lambda x: 100 * x, lambda x: 100 * np.eye(4), X, dtype="float16", without=(Derivative.JVP,))).verdict is not jl.Verdict.DIFFERS
    )


@pytest.mark.parametrize("factor", [-1.0, 0.0, 2.0, 1.01])
@pytest.mark.parametrize(("large", "small"), [(1e3, 1e-3), (1e4, 0.1), (1e6, 1e-2), (1e2, 1e-4)])
def test_a_wrong_rule_of_an_entry_far_smaller_than_its_neighbours_is_found(large: float, small: float, factor: float) -> None:
    found = certify(passes(lambda x: np.stack([2 * x[0], x[1] ** 3]), lambda x: np.diag([2, factor * 3 * x[1] ** 2]), [large, small]))
    (bad,) = [finding for finding in found.findings if finding.verdict.bad]
    assert (bad.verdict, bad.place, bad.argument) == (jl.Verdict.DIFFERS, "out[1]", "x[1]")
    right = certify(passes(lambda x: np.stack([2 * x[0], x[1] ** 3]), lambda x: np.diag([2, 3 * x[1] ** 2]), [large, small]))
    assert right.ok
    assert all(finding.verdict is jl.Verdict.HOLDS for finding in right.findings)


def test_what_is_certified_is_resolved() -> None:
    """Functions and entries of all sizes with one rule that is wrong: none is certified without a word on what was not compared."""
    generator = np.random.default_rng(5)
    several = [
        (np.sin, np.cos),
        (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
        (lambda x: x**3, lambda x: 3 * x**2),
        (lambda x: 1 / x, lambda x: -1 / x**2),
    ]
    certified = 0
    for seed in range(200):
        chosen = generator.choice(len(several), 3)
        x = generator.choice([-1, 1], 3) * 10.0 ** generator.uniform(-3, 4, 3)
        wrong = np.array([1.0, generator.choice([-1, 0, 1.05, 2]), 1.0])

        def f(x: np.ndarray, chosen: np.ndarray = chosen) -> np.ndarray:
            return np.stack([several[kind][0](x[at]) for at, kind in enumerate(chosen)])

        def jacobian(x: np.ndarray, chosen: np.ndarray = chosen, wrong: np.ndarray = wrong) -> np.ndarray:
            return np.diag([several[kind][1](x[at]) for at, kind in enumerate(chosen)]) * wrong

        with np.errstate(all="ignore"):
            if abs(jacobian(x, wrong=np.ones(3))[1, 1] * x[1]) < 1e-6 * abs(f(x)[1]):  # too small to matter
                continue
            found = certify(passes(f, jacobian, x), seed)
        certified += found.ok and all(finding.verdict is jl.Verdict.HOLDS for finding in found.findings)
    assert certified == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nothing_that_could_be_compared_is_no_certificate(dtype: str) -> None:
    found = certify(passes(lambda x: x**3, lambda x: np.diag(-3 * x**2), np.array([0.5, 1.25, 2.0]), dtype=dtype))
    assert (found.verdict, bool(found)) == (jl.Verdict.NOT_CHECKED, False)
    assert str(found).startswith("not checked (")
    assert "3 of 3 entries cannot be resolved" in str(found)


def test_the_derivative_at_a_minimum_is_compared_with_what_it_is_nearby() -> None:
    def certified(offset: float, slope: float) -> jl.Verdict:
        return certify(passes(lambda x: ((x - 1) ** 2 + x - x).sum() + offset, lambda x: 2 * (x - 1) + slope, [1.0, 1.0])).verdict

    assert certified(0.3, 1e-17) is jl.Verdict.HOLDS
    assert certified(0.3, 1e-3) is jl.Verdict.DIFFERS
    assert certified(1e12, 1e-17) is jl.Verdict.NOT_CHECKED


def test_a_function_without_any_derivative_is_refused() -> None:
    with pytest.raises(jl.ModeUnavailableError, match="no Jvp"):
        certify(passes(np.sin, np.cos, X, without=(Derivative.JVP, Derivative.VJP)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("f", "jacobian", "point", "verdict", "argument"),
    [
        (np.abs, lambda x: np.diag(np.sign(x)), [1.0, 0.0, -2.0], jl.Verdict.KINK, "x[1]"),
        (lambda x: np.maximum(x, 0), lambda x: np.diag(x > 0).astype(x.dtype), [1.0, 0.0, -2.0], jl.Verdict.KINK, "x[1]"),
        (
            lambda x: np.abs(x) * np.exp(x),
            lambda x: np.diag(np.sign(x) * np.exp(x) + np.abs(x) * np.exp(x)),
            [1.0, 0.0, 2.0],
            jl.Verdict.KINK,
            "x[1]",
        ),
        (np.floor, lambda x: np.zeros((3, 3)), [0.5, 1.0, 0.7], jl.Verdict.JUMP, "x[1]"),
        (np.sign, lambda x: np.zeros((3, 3)), [0.5, 0.0, 0.7], jl.Verdict.JUMP, "x[1]"),
    ],
    ids=["abs", "relu", "curved abs", "floor", "sign"],
)
@pytest.mark.parametrize("without", [(), (Derivative.JVP,)], ids=["both", "reverse"])
def test_kinks_and_jumps_are_no_wrong_rules(
    f: Any, jacobian: Any, point: Any, verdict: jl.Verdict, argument: str, without: tuple[Derivative, ...], dtype: str
) -> None:
    found = certify(passes(f, jacobian, point, dtype=dtype, without=without))
    assert [(finding.verdict, finding.place, finding.argument) for finding in found.findings if finding.verdict.bad] == [
        (verdict, "out[1]", argument)
    ]
    assert "on one side" in str(found)


def test_a_tie_of_a_maximum_is_a_kink() -> None:
    found = certify(passes(np.max, lambda x: (x == x.max()) / (x == x.max()).sum(), [2.0, 1.0, 2.0]))
    assert [finding.verdict for finding in found.findings if finding.verdict.bad] == [jl.Verdict.KINK]


@pytest.mark.parametrize("distance", [1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2])
def test_a_kink_beside_the_point_is_no_wrong_rule(distance: float) -> None:
    found = certify(passes(lambda x: np.abs(x - 1), lambda x: np.diag(np.sign(x - 1)), [1 + distance, 2.0]))
    verdicts = {finding.verdict for finding in found.findings}
    assert jl.Verdict.DIFFERS not in verdicts
    # From a step away, one that is a billionth of it away is at the point.
    assert (jl.Verdict.KINK in verdicts) == (distance < 1e-8)


def test_a_pole_beside_the_point_is_no_wrong_rule() -> None:
    for distance in (1e-3, 1e-5, 1e-7):
        assert certify(passes(lambda x: 1 / (x - 1), lambda x: np.diag(-1 / (x - 1) ** 2), [1 + distance, 2.0]))


def test_what_is_not_finite_is_told_and_the_rest_is_compared() -> None:
    with np.errstate(invalid="ignore"):
        found = certify(passes(np.log, lambda x: np.diag(1 / x), [-1.0, 2.0]))
        wrong = certify(passes(np.log, lambda x: np.diag(2 / x), [-1.0, 2.0]))
    assert str(found.findings[0]) == "value: not finite at out[0]; 1 of 2 entries; client.diagnose says which operation makes it so"
    assert [finding.verdict for finding in found.findings[1:]] == [jl.Verdict.HOLDS] * 3
    assert not found
    assert [finding.place for finding in wrong.findings if finding.verdict is jl.Verdict.DIFFERS] == ["out[1]"]


def test_the_edge_of_a_domain_is_left_open() -> None:
    with np.errstate(all="ignore"):
        found = certify(passes(np.sqrt, lambda x: np.diag(0.5 / np.sqrt(x)), [0.0, 1.0]))
    verdicts = {finding.check: finding.verdict for finding in found.findings}
    assert verdicts["JVP"] is jl.Verdict.NOT_FINITE
    assert jl.Verdict.DIFFERS not in verdicts.values()


def test_equal_seeds_have_equal_certificates_that_pickle() -> None:
    first, second, other = (certify(passes(np.sin, lambda x: np.diag(np.cos(x)), X), seed) for seed in (3, 3, 4))
    assert first == second != other
    assert pickle.loads(pickle.dumps(first)) == first


def test_nothing_to_differentiate_is_said() -> None:
    found = certify(passes(lambda x: x, lambda x: np.zeros((0, 0)), np.zeros(0)))
    assert (bool(found), found.verdict, found.passes) == (False, jl.Verdict.NOT_CHECKED, 0)
    assert str(found) == "not checked\nfinite differences: not checked; there is nothing to differentiate"


def test_the_slope_of_a_cubic_is_exact_up_to_rounding() -> None:
    """Richardson's extrapolation takes away the error of the order ``step ** 2``, which is all that there is for a cubic."""
    line = Line.along(lambda length: np.array([(2 + length) ** 3]), np.array([8.0]), 2.0**-4, np.finfo(float).eps)
    np.testing.assert_allclose(line.slope, [12.0], rtol=1e-13)
    assert line.truncation[0] > 0.1
