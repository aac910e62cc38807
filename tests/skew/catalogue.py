"""Small functions that together use what graphs can hold: traced by each supported version of JAX, and run by every later version of the workers.

The numbers are dyadic fractions and nothing here draws any with NumPy, so constants, and with them ids, are the same on every machine. What a matrix
factorization leaves open (signs, the order of equal values) cancels in the results. A case that is changed is a new case: its graphs are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.scipy import special


@dataclass(frozen=True)
class Case:
    """A function, a point, and the derivatives that JAX does not have there."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    forward: bool = True
    """Whether JAX has a JVP."""
    reverse: bool = True
    """Whether JAX has a VJP."""


def spread(*shape: int, dtype: Any = np.float64, start: int = 0) -> Any:
    """Returns numbers of ``shape`` between -1.6 and 1.6, the same everywhere and exact in every dtype; NumPy's scalar for no shape."""
    numbers = (np.arange(start, start + math.prod(shape)) * 37 + 11) % 101
    array = ((numbers - 50) / 32).astype(dtype).reshape(shape)
    return array if shape else array[()]


X = spread(5)
WIDE = spread(3, 5, start=7)
TALL = spread(4, 3, start=20)
SYMMETRIC = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, -0.25], [0.5, -0.25, 2.0]])
CASES: dict[str, Case] = {}


def case(*arguments: Any, **without: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds a function under its own name."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES[function.__name__] = Case(function, arguments, **without)
        return function

    return add


@case(X, np.float64(0.75), np.zeros((0, 3)))
def elementwise(x: Any, scale: Any, empty: Any) -> Any:
    waves = jnp.sin(x) * jnp.cos(scale * x) + jnp.tan(x / 4) + jnp.tanh(x) - jnp.arctan2(x, 1 + x * x)
    powers = jnp.exp(-x * x) + jnp.expm1(x) + jnp.log1p(x * x) + jnp.cbrt(x) + lax.rsqrt(1 + x * x) + x**3 + jnp.exp2(x) + jnp.hypot(x, scale)
    pieces = jnp.where(x > 0, jnp.sqrt(jnp.abs(x)), x) + jnp.clip(x, -1, 1) + jnp.maximum(x, scale) + jnp.round(x) * x + jnp.sign(x) + x % 0.7
    return waves, powers, pieces, jnp.exp(empty)


@case(X, np.array([3, -2, 5, 0, 1], np.int32))
def further_elementwise(x: Any, i: Any) -> Any:
    small = x / 2
    inverses = jnp.arcsin(small) + jnp.arccos(small) + jnp.arctan(x) + jnp.arcsinh(x) + jnp.arctanh(small) + jnp.arccosh(x * x + 1.5)
    powers = (x * x + 1) ** (x / 3) + special.zeta(2.5, x * x + 1) + special.gammaincc(1.5, x * x + 1) + jnp.log2(x * x + 1)
    kept = jax.checkpoint(lambda a: jnp.sin(checkpoint_name(jnp.cos(a), "inner")), policy=jax.checkpoint_policies.everything_saveable)(x)
    whole = lax.reduce(i, np.int32(1), lambda a, b: a * 2 + b, (0,)), i >> 1, jnp.argmin(x), jnp.all(i > 0), lax.optimization_barrier(i)
    return inverses, powers, kept, lax.cummin(x), whole


@case(X, spread(5, start=40))
def special_functions(x: Any, y: Any) -> Any:
    positive = x * x + 0.5
    errors = special.erf(x) + special.erfc(y) + special.erfinv(x / 4)
    gammas = special.gammaln(positive) + special.digamma(positive) + special.polygamma(1, positive) + special.gammainc(positive, 2 + y)
    others = special.i0e(x) + special.i1(y) + special.xlogy(positive, 3 + y) + special.betainc(1.5, 2.0, jax.nn.sigmoid(y))
    return errors, gammas, others, jnp.sinc(x), special.ndtri(jax.nn.sigmoid(x))


@case(spread(2, 3, 4, dtype=np.float32), spread(2, 4, 5, dtype=np.float32, start=9))
def products(a: Any, b: Any) -> Any:
    batched = jnp.einsum("bij,bjk->bki", a, b)
    double = lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)
    return batched, jnp.tensordot(a, double, axes=((0, 1), (0, 1))), jnp.einsum("bij->ji", a), jnp.outer(a[0, :, 0], b[1, 2])


@case(spread(2, 4, 9, dtype=np.float32), spread(6, 2, 3, dtype=np.float32, start=30))
def convolutions(signal: Any, kernel: Any) -> Any:
    grouped = lax.conv_general_dilated(signal, kernel, (2,), [(1, 2)], rhs_dilation=(2,), feature_group_count=2)
    dilated = lax.conv_general_dilated(signal, jnp.concatenate([kernel, kernel], 1), (1,), [(2, 1)], lhs_dilation=(3,))
    greatest = lax.reduce_window(signal, -jnp.inf, lax.max, (1, 2, 3), (1, 1, 2), "SAME")
    added = lax.reduce_window(signal, 0.0, lax.add, (1, 1, 2), (1, 2, 2), "VALID")
    return grouped, dilated, greatest, added, jnp.convolve(signal[0, 0], kernel[1, 1], mode="same")


@case(spread(4, 6), spread(3, start=50), np.array([2, 0, 2], np.int32))
def indexing(x: Any, updates: Any, rows: Any) -> Any:
    gathered = x[rows, jnp.array([5, 1, 9])] + jnp.take_along_axis(x, rows[None, :], axis=1)[0]
    scattered = x.at[rows, 1].add(updates).at[0, rows].min(updates).at[3, 4].set(updates[0]).at[1, :3].multiply(updates).at[2, 2].max(0.25)
    window = lax.dynamic_slice(x, (rows[1], rows[0]), (2, 3)) * lax.dynamic_index_in_dim(x, rows[2], axis=1, keepdims=False)[1]
    moved = lax.dynamic_update_slice(x, window[:, :2], (rows[0], jnp.int32(3)))
    return gathered, scattered, jnp.flip(moved, 0)[1:, ::2], jnp.pad(window, ((1, 0), (0, 2)), constant_values=1.5), jnp.tile(updates, 2)


@case(spread(3), spread(6, 3, start=13))
def scans(start: Any, steps: Any) -> Any:
    def forward(carry: Any, step: Any) -> Any:
        position, count = carry
        return (jnp.tanh(position * step + 0.5), count + 1), {"seen": position.sum(), "nothing": None}

    def backward(carry: Any, step: Any) -> Any:
        return 0.5 * carry + step[::-1], jnp.sin(carry)

    (final, count), record = lax.scan(forward, (start, 0), steps)
    total, states = lax.scan(backward, final, steps, reverse=True, unroll=2)
    return final, count, record, total, states, lax.associative_scan(lambda a, b: a * b + a, steps, axis=0)


@case(np.float64(2.75), spread(3), reverse=False)
def loops(square: Any, x: Any) -> Any:
    def far(state: Any) -> Any:
        root, _ = state
        return jnp.abs(root * root - square) > 1e-9

    def closer(state: Any) -> Any:
        root, steps = state
        return (root + square / root) / 2, steps + 1

    halved = jax.vmap(lambda a: lax.while_loop(lambda b: jnp.abs(b) > 0.1, lambda b: b / 2 + 0.01, a))(x)
    return lax.while_loop(far, closer, (square, 0)), halved, lax.fori_loop(0, 4, lambda i, a: a * x + i, x)


@case(spread(4), np.array([2, 0, 1], np.int32))
def branches(x: Any, which: Any) -> Any:
    chosen = lax.switch(which[0], [jnp.sin, jnp.exp, lambda a: a**2 * x[1]], x)
    nested = lax.cond(x[0] > 0, lambda a: lax.cond(x[1] > 0, jnp.cos, jnp.tan, a), lambda a: a * 3, x)
    each = jax.vmap(lambda index, a: lax.switch(index, [jnp.sin, jnp.exp, jnp.tanh], a))(which, x[:3])
    return chosen, nested, each, lax.select_n(which, spread(3), x[:3], x[1:])


@case(np.array([0.0, 0.5, -1.25, 2.0, 0.0]), np.array([0.0, -0.5, -1.25, 30.0, 1.0]))
def rules_of_jax(x: Any, y: Any) -> Any:
    activations = jax.nn.relu(x) + jax.nn.softplus(y) + jax.nn.silu(x) + jax.nn.relu6(y) + jax.nn.gelu(x)
    return activations, jnp.logaddexp(x, y), jax.nn.logsumexp(x + y), jax.nn.softmax(y), jax.nn.log_softmax(x), jnp.linalg.norm(x)


@jax.custom_jvp
def _flattened(x: Any, y: Any) -> Any:
    return jnp.round(x * 4) / 4 * y


@_flattened.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    return _flattened(x, y), dx * y + jnp.round(x * 4) / 4 * dy


def _power_rule(power: int, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return _power(x, power), power * _power(x, power - 1) * dx


_power = jax.custom_jvp(lambda x, power: x**power, nondiff_argnums=(1,))
_power.defjvp(_power_rule)


@case(spread(5), spread(5, start=60))
def rules_of_users(x: Any, y: Any) -> Any:
    first = jax.grad(lambda a: _flattened(a, y).sum())(x)
    return _flattened(x, y), _flattened(x, jnp.float64(2.0)), first, _power(x, 3) + _power(y, 2)


def _clipped_forward(bounds: tuple[float, float], x: Any, tree: Any) -> Any:
    result = jnp.sinh(x) * tree["by"]
    return {"y": result, "count": jnp.int32(x.size)}, (jnp.cosh(x), x, tree["by"])


def _clipped_backward(bounds: tuple[float, float], residuals: Any, cotangent: Any) -> Any:
    slope, x, by = residuals
    return jnp.clip(cotangent["y"], *bounds) * slope * by, {"by": (cotangent["y"] * jnp.sinh(x)).sum(), "unused": None}


_clipped = jax.custom_vjp(lambda bounds, x, tree: _clipped_forward(bounds, x, tree)[0], nondiff_argnums=(0,))
_clipped.defvjp(_clipped_forward, _clipped_backward)


@case(spread(4), np.float64(1.5), forward=False)
def backward_rules(x: Any, by: Any) -> Any:
    inner = _clipped((-0.5, 0.75), x, {"by": by, "unused": x[0]})
    outer = jax.vmap(lambda a: _clipped((-2.0, 2.0), a, {"by": by, "unused": by})["y"])(x)
    return inner, outer, jax.grad(lambda a: (_clipped((-1.0, 1.0), a, {"by": by, "unused": a[1]})["y"] ** 2).sum())(x)


@case(spread(3), spread(4, 3, start=3))
def checkpoints(x: Any, weights: Any) -> Any:
    plain = jax.checkpoint(lambda a: jnp.sin(jnp.cos(weights @ a)))
    chosen = jax.checkpoint(lambda a: jnp.tanh(jnp.tanh(a) @ weights), policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False)
    return plain(x), chosen(plain(x)), lax.scan(jax.checkpoint(lambda carry, row: (jnp.sin(carry * row), carry.sum())), x, weights)


@case(spread(3, 5, start=2), spread(3, start=70))
def solves(factor: Any, right: Any) -> Any:
    matrix = factor @ factor.T + SYMMETRIC
    lower = jnp.linalg.cholesky(matrix)
    solved = jnp.linalg.solve(matrix + jnp.triu(factor[:, :3]), right)
    triangular = jax.scipy.linalg.solve_triangular(lower, factor, lower=True, trans=1)
    return lower, solved, triangular, jnp.linalg.slogdet(matrix)[1], jnp.linalg.inv(matrix), jax.scipy.linalg.cho_solve((lower, True), right)


@case(spread(4, 3, start=5), spread(3, start=33))
def factorizations(a: Any, d: Any) -> Any:
    q, r = jnp.linalg.qr(a)
    u, s, vt = jnp.linalg.svd(a, full_matrices=False)
    values, vectors = jnp.linalg.eigh(SYMMETRIC + jnp.outer(d, d))
    return q @ jnp.tanh(q.T @ a), r.T @ (r * d), (u * jnp.sin(s)) @ vt, s, values, (vectors * jnp.exp(values)) @ vectors.T


@case(spread(3, start=8), spread(3, 5, start=41))
def linear_solves(right: Any, factor: Any) -> Any:
    apply = lambda x: {"a": (factor @ (factor.T @ x["a"])) + SYMMETRIC @ x["a"]}  # noqa: E731
    solved, _ = jax.scipy.sparse.linalg.cg(apply, {"a": right}, tol=1e-12, maxiter=20)
    direct = lax.custom_linear_solve(
        lambda x: SYMMETRIC @ x * factor[0, 0], right, lambda _, b: jnp.linalg.solve(SYMMETRIC * factor[0, 0], b), symmetric=True
    )
    return solved, direct


@case(spread(3, 8), spread(3, 5, start=17))
def fourier(x: Any, y: Any) -> Any:
    spectrum = jnp.fft.rfft(x)
    back = jnp.fft.irfft(spectrum * jnp.exp(-0.5 * jnp.arange(5.0)), n=8)
    return jnp.abs(spectrum + 3), back, jnp.fft.fft2(y + 1j * y[::-1]), jnp.fft.fftshift(jnp.fft.ifft(y).real)


@case(spread(4, 5, start=1), spread(5, start=90))
def orders(x: Any, keys: Any) -> Any:
    by_key = lax.sort((keys, x[0], x[1]), num_keys=1)[1:]
    running = jnp.cumsum(x, axis=1) + jnp.cumprod(x, axis=0) + lax.cummax(x, axis=1, reverse=True) + lax.cumlogsumexp(x, axis=0)
    return jnp.sort(x, axis=1), by_key, running, lax.top_k(x, 2), jnp.argsort(keys), jnp.searchsorted(jnp.sort(keys), x[2]), jnp.median(x, axis=0)


@case(spread(3, 4, start=10))
def reductions(x: Any) -> Any:
    whole = jnp.stack([x.sum(), x.prod(), x.max(), x.min(), x.var(), jnp.linalg.norm(x), jnp.trace(x)])
    return (
        whole,
        jnp.argmax(x, axis=1),
        jnp.any(x > 1, axis=0),
        jnp.max(x, axis=0),
        lax.reduce_precision(x, 8, 10),
        jnp.interp(x, np.sort(spread(4)), X[:4]),
    )


@case(spread(5, dtype=np.float32))
def samples(x: Any) -> Any:
    keys = jax.random.split(jax.random.key(7), 7)
    uniform = jax.random.uniform(keys[0], (5,), minval=-1.0, maxval=2.0) + jax.random.truncated_normal(keys[1], -1.0, 1.0, (5,))
    noise = jax.random.normal(keys[2], (3, 5)) * x + jax.random.gumbel(keys[3], (5,))
    whole = jax.random.randint(keys[4], (4,), -9, 9), jax.random.bernoulli(jax.random.PRNGKey(3), 0.4, (6,)), jax.random.permutation(keys[5], 7)
    return x * uniform, noise, whole, jax.random.categorical(keys[6], x)


@case(jax.random.key(11), spread(2, 3, dtype=np.float32, start=4))
def keys(key: Any, x: Any) -> Any:
    first, second = jax.random.split(jax.random.fold_in(key, 5))
    dropped = jnp.where(jax.random.bernoulli(first, 0.6, x.shape), x, 0.0)
    drawn = lax.scan(lambda carry, each: (carry + jax.random.exponential(each) * x, carry.sum()), x, jax.random.split(second, 3))
    return dropped, drawn, jax.random.fold_in(second, 1)


@case(np.array([1 + 2j, -0.5 + 1j, 2 - 1.5j]), spread(3, 4).astype(np.complex64) * np.complex64(1 + 0.5j))
def complex_numbers(z: Any, w: Any) -> Any:
    whole = jnp.exp(z) * jnp.conj(z) + lax.complex(jnp.real(z), jnp.abs(z)) / (z + 3j)
    return whole, jnp.angle(z), jnp.sqrt(z), w.T.conj() @ w[:, 1:], (jnp.abs(w) ** 2).sum(), jnp.imag(z) ** 2


@case(spread(3, 4, dtype=ml_dtypes.bfloat16), spread(4, dtype=np.float16, start=25), spread(5, dtype=np.float32, start=6))
def short_floats(b: Any, h: Any, f: Any) -> Any:
    return jnp.tanh(b) @ b.T[:, :2], jnp.exp(h) * h, b.astype(jnp.float32) @ h.astype(jnp.float32), f.astype(jnp.bfloat16) * 2, jax.nn.relu(h)


@case(np.array([7, -3, 0, 12], np.int32), np.array([200, 3, 17], np.uint8), np.array([True, False, True, True]), spread(4, dtype=np.float32))
def integers(i: Any, u: Any, flags: Any, x: Any) -> Any:
    bits = (u << 2) ^ (u >> 1) | jnp.uint8(4), lax.population_count(u), lax.clz(i), ~i & 5
    arithmetic = i // 3, i % 5, i**2, jnp.abs(i), jnp.gcd(i, 6), i.astype(jnp.int8), lax.shift_right_logical(i, jnp.int32(2))
    return bits, arithmetic, jnp.cumsum(i), flags ^ (i > 0), jnp.where(flags, x * i, x), jnp.dot(i, i), jnp.bincount(u % 4, length=5)


class Point(NamedTuple):
    position: Any
    weights: dict[str, Any]


@case({"b": spread(3), "a": [np.float64(0.5), None]}, (Point(spread(2, 3), {"w": spread(3, 2, start=8)}), ()))
def trees(params: Any, pair: Any) -> Any:
    point, nothing = pair
    moved = Point(point.position * params["b"], {"w": point.weights["w"] @ point.position + params["a"][0]})
    return {"moved": moved, "same": params["b"], "nothing": (nothing, None), "constant": np.float64(1.25)}, [point.position[0, 0]]


LAYERS = {
    "first": {"w": spread(4, 3, dtype=np.float32), "b": spread(3, dtype=np.float32, start=2)},
    "second": {"w": spread(3, 2, dtype=np.float32, start=31), "b": spread(2, dtype=np.float32)},
}


@case(LAYERS, spread(6, 4, dtype=np.float32, start=15), np.array([0, 1, 1, 0, 1, 0], np.int32))
def network_loss(layers: Any, inputs: Any, labels: Any) -> Any:
    hidden = jax.nn.gelu(inputs @ layers["first"]["w"] + layers["first"]["b"])
    scores = jax.nn.log_softmax(hidden @ layers["second"]["w"] + layers["second"]["b"])
    decay = sum(jnp.sum(weights**2) for weights in jax.tree.leaves(layers))
    return -jnp.mean(jnp.sum(jax.nn.one_hot(labels, 2) * scores, axis=1)) + 1e-2 * decay


@case(spread(7, start=3), np.float64(0.05))
def ode_steps(state: Any, step: Any) -> Any:
    def rate(x: Any) -> Any:
        return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + 8.0

    def advance(x: Any, _: Any) -> Any:
        first = rate(x)
        second = rate(x + step / 2 * first)
        third = rate(x + step / 2 * second)
        following = x + step / 6 * (first + 2 * second + 2 * third + rate(x + step * third))
        return following, following[:2]

    return lax.scan(jax.jit(advance), state, None, length=6)


@case(spread(4, start=12))
def derivatives(x: Any) -> Any:
    energy = lambda a: jnp.sum(jnp.tanh(WIDE @ jnp.append(a, 0.5)) ** 2) + jax.nn.logsumexp(a)  # noqa: E731
    return jax.grad(energy)(x), jax.hessian(energy)(x)[:, :3], jax.vmap(jax.grad(lambda a: jnp.sinc(a) * a))(x), jax.jvp(energy, (x,), (x,))


@case(spread(4, start=5), np.float64(0.75))
def implicit_roots(a: Any, slope: Any) -> Any:
    """The x with ``x**3 + slope x = a``, differentiated by that equation."""

    def newton(equation: Any, guess: Any) -> Any:
        return lax.fori_loop(0, 20, lambda _, x: x - equation(x) / (3 * x * x + slope), guess)

    return lax.custom_root(lambda x: x**3 + slope * x - a, jnp.ones_like(a), newton, lambda diagonal, y: y / diagonal(jnp.ones_like(y)))
