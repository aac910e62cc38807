"""Certificates and verified results through a real service, for functions that JAX traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import jacloom as jl

X = np.array([0.5, -1.0, 2.0, 0.25])
W = np.linspace(-1.0, 1.0, 12).reshape(3, 4)
PARAMS = {"w": W, "bias": np.zeros(3), "last": np.array([0.5, -0.25, 1.0])}
CHAIN = np.linspace(0.5, 2.0, 9)


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


def loss(params: dict[str, Any], x: jax.Array) -> jax.Array:
    return jnp.mean((params["last"] * jnp.tanh(params["w"] @ x + params["bias"])) ** 2)


def reaction(y: jax.Array, rate: jax.Array) -> jax.Array:
    """Twenty steps of a stiff reaction of three kinds, by a loop."""

    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        slow, fast = rate * y[0] - 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
        return y + 1e-6 * jnp.stack([-slow, slow - fast, fast])

    return jax.lax.fori_loop(0, 20, step, y)


def halved(x: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda y: jnp.sum(y**2) > 0.1, lambda y: y / 2, x)


def chain(x: jax.Array) -> jax.Array:
    return x[1:] ** 2 * x[:-1] + jnp.sin(x[1:])


def energy(x: jax.Array) -> jax.Array:
    return jnp.sum(x[1:] ** 2 * x[:-1] ** 2)


@jax.custom_jvp
def damped(x: jax.Array) -> jax.Array:
    return jnp.exp(-(x**2))


damped.defjvps(lambda tangent, out, x: -2 * x * out * tangent * jnp.where(x > 1, 1.01, 1.0))


@jax.custom_jvp
def shifted(x: jax.Array) -> jax.Array:
    return jnp.sin(x)


shifted.defjvp(lambda primals, tangents: (jnp.sin(primals[0]) + 0.5, jnp.cos(primals[0]) * tangents[0]))


@jax.custom_vjp
def cubed(x: jax.Array) -> jax.Array:
    return x**3


cubed.defvjp(lambda x: (x**3, x), lambda x, cotangent: (3 * x**2 * cotangent,))


@jax.custom_vjp
def miscubed(x: jax.Array) -> jax.Array:
    return x**3


miscubed.defvjp(lambda x: (x**3, x), lambda x, cotangent: (jnp.where(x > 1, 2, 3) * x**2 * cotangent,))


@jax.custom_jvp
def negated(x: jax.Array) -> jax.Array:
    return x**3


negated.defjvp(lambda primals, tangents: (primals[0] ** 3, -3 * primals[0] ** 2 * tangents[0]))


@jax.custom_vjp
def gently(x: jax.Array) -> jax.Array:
    return x


gently.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.clip(cotangent, -1.0, 1.0),))


def mistransposed(x: jax.Array) -> jax.Array:
    return jax.custom_derivatives.linear_call(lambda w, x: w @ x, lambda w, cotangent: 1.001 * w.T @ cotangent, jnp.asarray(W), x)


@pytest.mark.parametrize(
    ("f", "args"),
    [
        (jnp.sin, (0.5,)),
        (lambda x: jnp.outer(x, x), (X,)),
        (lambda x: {"x": x * 2, "none": x[:0]}, (X,)),
        (loss, (PARAMS, X)),
        (loss, (jax.tree.map(np.float32, PARAMS), X.astype(np.float32))),
        (loss, (PARAMS, X.astype(np.float32))),
        (lambda x, n, k: (x**n * k, n), (X, np.arange(4), 2)),
        (reaction, (np.array([1.0, 2e-5, 1e-1]), np.array(0.04))),
        (halved, (X,)),
        (lambda z: z**2 / (1 + z), (X + 1j,)),
        (lambda z: jnp.abs(z), (X + 1j,)),
        (lambda x: jnp.fft.rfft(x), (X,)),
        (lambda a: jnp.linalg.solve(a @ a.T + jnp.eye(3), a), (W,)),
        (lambda x: jnp.sort(x)[::-1], (X,)),
        (lambda x: jax.nn.logsumexp(x * 1e3), (X,)),
        (lambda x: jnp.where(x > 0, 1e8 * x, 1e-8 * x), (X,)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_derivatives_of_all_kinds_hold(client: jl.Client, f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    found = client.check(f, *args)
    assert found, f"{found}"
    assert found.passes <= 27


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: x.sum(), np.zeros((0, 3))),
        (lambda x: x**2, X.astype(jnp.bfloat16)),
        (lambda x: jnp.sin(x), X.astype(np.float16)),
        (lambda x: negated(x), X.astype(np.float16)),
    ],
)
def test_where_nothing_can_be_compared_there_is_no_certificate(client: jl.Client, f: Any, x: Any) -> None:
    found = client.check(f, x)
    assert (found.verdict, found.ok, bool(found)) == (jl.Verdict.NOT_CHECKED, False, False)
    assert str(found).startswith("not checked")


@pytest.mark.parametrize("factor", [0.1, 1.0, 100.0, 1e12])
def test_a_clipped_gradient_is_reported_whatever_its_size(client: jl.Client, factor: float) -> None:
    for f in (lambda x: jnp.sum(factor * gently(x)), lambda x: factor * gently(x)):
        (bad,) = [finding for finding in client.check(f, np.array([1.0, 2.0])).findings if finding.verdict.bad]
        assert (bad.check, bad.verdict) == ("linearity", jl.Verdict.DIFFERS)


@pytest.mark.parametrize("x", [np.array([1e3, 1e-3]), np.array([1e4, 0.1])])
def test_a_wrong_rule_of_a_small_entry_is_found_beside_a_large_one(client: jl.Client, x: np.ndarray) -> None:
    (bad,) = [finding for finding in client.check(lambda x: jnp.stack([2 * x[0], negated(x[1])]), x).findings if finding.verdict.bad]
    assert (bad.verdict, bad.place, bad.argument) == (jl.Verdict.DIFFERS, "out[1]", "args[0][1]")


def test_a_check_takes_nine_passes_and_reads_well(client: jl.Client) -> None:
    found = client.check(loss, PARAMS, X, argnums=0)
    assert (found.evaluations, found.jvps, found.vjps, found.hvps) == (5, 1, 3, 0)
    lines = str(found).splitlines()
    assert lines[:2] == ["holds (5 evaluations, 1 JVP, 3 VJPs)", "value: holds"]
    assert [line.partition(" (")[0] for line in lines[2:]] == ["finite differences: holds", "adjoint identity: holds", "linearity: holds"]


def test_a_wrong_jvp_rule_is_named(client: jl.Client) -> None:
    (bad,) = [finding for finding in client.check(lambda p: {"y": damped(p["x"])}, {"x": X}).findings if finding.verdict.bad]
    assert (bad.verdict, bad.place, bad.argument) == (jl.Verdict.DIFFERS, "out['y'][2]", "args[0]['x'][2]")
    (value,) = {finding.check for finding in client.check(shifted, X).findings if finding.verdict.bad}
    assert value == "value"


def test_a_wrong_vjp_rule_is_named(client: jl.Client) -> None:
    right = client.check(cubed, X)
    assert right
    assert (right.evaluations, right.jvps, right.vjps) == (5, 0, 3)
    assert "adjoint identity: not checked; forward mode is not available: a function here has a reverse rule only" in str(right)
    (bad,) = [finding for finding in client.check(miscubed, X).findings if finding.verdict.bad]
    assert (bad.verdict, bad.place, bad.argument) == (jl.Verdict.DIFFERS, "out[2]", "args[0][2]")


def test_a_wrong_transpose_breaks_the_adjoint_identity(client: jl.Client) -> None:
    bad = [finding.check for finding in client.check(mistransposed, X).findings if finding.verdict.bad]
    assert bad == ["adjoint identity"]


@pytest.mark.parametrize(
    ("f", "x", "place"),
    [
        (jnp.abs, np.array([1.0, 0.0, -3.0]), "out[1]"),
        (jax.nn.relu, np.array([1.0, 0.0, -3.0], np.float32), "out[1]"),
        (lambda x: x.max(), np.array([2.0, 1.0, 2.0]), "out"),
    ],
    ids=["abs", "relu", "max"],
)
def test_a_kink_is_named(client: jl.Client, f: Any, x: np.ndarray, place: str) -> None:
    (bad,) = [finding for finding in client.check(f, x).findings if finding.verdict.bad]
    assert (bad.verdict, bad.place) == (jl.Verdict.KINK, place)
    assert bad.argument.startswith("args[0][")


def test_what_is_not_finite_is_no_wrong_rule(client: jl.Client) -> None:
    found = client.check(jnp.log, np.array([-1.0, 2.0]))
    assert [finding.verdict for finding in found.findings if finding.verdict.bad] == [jl.Verdict.NOT_FINITE]
    assert "client.diagnose" in str(found)


def test_functions_and_arguments_of_all_sorts_are_checked(client: jl.Client) -> None:
    remote = client.register(loss, PARAMS, X)
    for f in (remote, remote.id, jl.trace(loss, PARAMS, X)):
        assert client.check(f, PARAMS, X, argnums=(1, 0), seed=3)
    with pytest.raises(jl.ArgumentError, match=r"argnums must be 0 or 1; got 2"):
        client.check(loss, PARAMS, X, argnums=2)
    nothing = client.check(lambda n: n + 1, np.arange(3))
    assert (nothing.verdict, nothing.ok, nothing.passes) == (jl.Verdict.NOT_CHECKED, False, 0)


def pattern_of(f: Callable[..., Any], x: np.ndarray) -> sparse.lil_array:
    return sparse.lil_array(np.asarray(jax.jacobian(f)(x)) != 0)


@pytest.mark.parametrize("output", ["csr", "dense"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_pattern_that_misses_an_entry_is_refused_with_the_place(client: jl.Client, mode: Any, output: Any) -> None:
    allowed = pattern_of(chain, CHAIN)
    right = client.jacobian(chain, mode=mode, sparsity=allowed, output=output)(CHAIN)
    np.testing.assert_allclose(right if output == "dense" else right.toarray(), jax.jacobian(chain)(CHAIN), rtol=1e-5)
    allowed[3, 4] = 0
    with pytest.raises(jl.VerificationError) as caught:
        client.jacobian(chain, mode=mode, sparsity=allowed, output=output)(CHAIN)
    assert "at out[3] with respect to args[0][4]: expected 2.97" in str(caught.value)
    assert "The pattern misses this entry" in str(caught.value)
    assert caught.value.certificate is not None
    assert caught.value.certificate.passes <= 4


def test_a_pattern_of_a_function_with_a_reverse_rule_only_is_held_against_vjps(client: jl.Client) -> None:
    np.testing.assert_allclose(client.jacobian(cubed, sparsity=np.eye(4))(X), np.diag(3 * X**2))
    with pytest.raises(jl.VerificationError, match=r"at out\[3\] with respect to args\[0\]\[0\]: expected 0\.015625, got 0\. The pattern misses"):
        client.jacobian(lambda x: cubed(x).at[3].multiply(x[0]), sparsity=np.eye(4))(X)


def test_a_pattern_beside_values_that_are_not_finite(client: jl.Client) -> None:
    """What can be compared is, the entry that is missed is named, and what cannot be is told."""
    with pytest.raises(jl.VerificationError, match=r"with respect to args\[0\]\[0\]: expected .*, got 0\. The pattern misses"):
        client.jacobian(lambda x: jnp.log(x) * x[0], sparsity=np.eye(3))(np.array([-1.0, 2.0, 3.0]))
    with pytest.warns(jl.JacloomWarning, match=r"not finite, first at out\[0\], and what is not cannot be compared with the pattern") as caught:
        client.jacobian(lambda x: jnp.sqrt(x) * jnp.roll(x, 1), sparsity=np.eye(3))(np.array([0.0, -1.0, -2.0]))
    assert [warning.filename for warning in caught] == [__file__]


def test_a_pattern_of_a_hessian_is_held_against_an_hvp(client: jl.Client) -> None:
    band = sparse.diags_array([np.ones(8), np.ones(9), np.ones(8)], offsets=[-1, 0, 1])
    np.testing.assert_allclose(client.hessian(energy, sparsity=band)(CHAIN), jax.hessian(energy)(CHAIN), rtol=1e-5)
    with pytest.raises(jl.VerificationError, match=r"at out with respect to args\[0\]\[7\] and args\[0\]\[8\]: expected 14\.5, got 0\."):
        client.hessian(energy, sparsity=np.eye(9), output="csr")(CHAIN)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.jacobian(chain, verify=True)(CHAIN),
        lambda client: client.jacobian(chain, verify=True, output="csc")(CHAIN),
        lambda client: client.jacobian(chain, verify=True, sparsity="dense", mode="reverse")(CHAIN),
        lambda client: client.jacobian(loss, argnums=(1, 0), verify=True)(PARAMS, X.astype(np.float32)),
        lambda client: client.jacobian(lambda x: x[:0], verify=True)(X),
        lambda client: client.jacobian(lambda x: {"a": x.sum(), "b": (x, jnp.outer(x, x))}, verify=True)(X),
        lambda client: client.jacobian(lambda z: z**2, holomorphic=True, verify=True)(X + 1j),
        lambda client: client.jacobian(lambda z: jnp.abs(z), verify=True)(X + 1j),
        lambda client: client.jacobian(lambda x: jnp.exp(1j * x), verify=True)(X),
        lambda client: client.jacobian(jnp.sin, verify=True)(X.astype(jnp.bfloat16)),
        lambda client: client.hessian(energy, verify=True)(CHAIN),
        lambda client: client.hessian(energy, verify=True, output="coo")(CHAIN),
        lambda client: client.hessian(lambda x: (energy(x), x.sum()), has_aux=True, verify=True)(CHAIN),
        lambda client: client.hessian(loss, argnums=(0, 1), verify=True)(PARAMS, X),
        lambda client: client.hessian(chain, verify=True)(CHAIN),
        lambda client: client.hessian(lambda z: (z**3).sum(), holomorphic=True, verify=True)(X + 1j),
        lambda client: client.grad(loss, verify=True)(PARAMS, X),
        lambda client: client.value_and_grad(lambda x: (energy(x), x), has_aux=True, verify=True)(CHAIN),
        lambda client: client.grad(lambda x: cubed(x).sum(), verify=True)(X),
        lambda client: client.grad(lambda x: jnp.abs(x).sum(), verify=True)(np.array([0.0, 1.0])),
    ],
)
def test_right_results_are_verified(client: jl.Client, call: Callable[[jl.Client], Any]) -> None:
    call(client)


def test_a_verified_result_is_the_same_result(client: jl.Client) -> None:
    for name in ("jacobian", "hessian", "grad"):
        derivative = getattr(client, name)
        np.testing.assert_array_equal(derivative(energy, verify=True)(CHAIN), derivative(energy)(CHAIN))


def test_a_wrong_rule_is_refused_where_verification_was_asked_for(client: jl.Client) -> None:
    wrong = lambda x: damped(x).sum()  # noqa: E731
    assert np.isfinite(client.grad(wrong)(X)).all()
    with pytest.raises(
        jl.VerificationError,
        match=r"`client.grad\(f\)`: the result is wrong, at out with respect to args\[0\]\[2\]: along a random direction expected",
    ):
        client.grad(wrong, verify=True)(X)
    with pytest.raises(jl.VerificationError, match=r"args\[0\]\[2\]"):
        client.value_and_grad(lambda x: miscubed(x).sum(), verify=True)(X)
    with pytest.raises(jl.VerificationError, match=r"at out\[\d\] with respect to args\[0\]\[\d\]: expected .*client.check"):
        client.jacobian(mistransposed, mode="reverse", verify=True)(X)
    with pytest.raises(jl.VerificationError, match=r"So a pass is not linear in its seed: a custom rule on the way bends it"):
        client.grad(lambda x: jnp.sum(100.0 * gently(x)), verify=True)(X)
    with pytest.raises(jl.VerificationError, match=r"So a pass is not linear in its seed: a custom rule on the way bends it"):
        client.jacobian(lambda x: 100.0 * gently(x), output="csr", verify=True)(X)
    with pytest.raises(jl.VerificationError, match=r"not finite, at out\[0\].*client.diagnose"):
        client.jacobian(jnp.sqrt, verify=True)(np.array([0.0, 1.0]))
