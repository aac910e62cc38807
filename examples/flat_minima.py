"""How curved the loss of a neural network is, in every direction of its weights.

A small equinox network learns a sine, and the eigenvalues of its loss's Hessian tell what the training has found: a few steep directions, many
flat ones in which the weights may move at no cost, and whether it is a minimum at all.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import jacloom as jl

jax.config.update("jax_enable_x64", True)  # for the comparison at the end; the service computes in 64 bits wherever the arguments have them

INPUTS = np.linspace(-2.0, 2.0, 32)
TARGETS = np.sin(2 * INPUTS)

untrained = eqx.nn.MLP("scalar", "scalar", width_size=6, depth=2, activation=jnp.tanh, key=jax.random.key(0))
start, as_network = ravel_pytree(eqx.filter(untrained, eqx.is_array))
static = eqx.filter(untrained, eqx.is_array, inverse=True)


def loss(weights: jax.Array) -> jax.Array:
    """Returns the mean squared error of the network with the weights ``(61,)``."""
    network = eqx.combine(as_network(weights), static)
    return jnp.mean((jax.vmap(network)(INPUTS) - TARGETS) ** 2)


def trained(weights: jax.Array, steps: int) -> jax.Array:
    """Returns the weights after ``steps`` of Adam."""
    optimizer = optax.adam(3e-2)

    def step(carry: tuple[jax.Array, optax.OptState], _: None) -> tuple[tuple[jax.Array, optax.OptState], None]:
        weights, state = carry
        update, state = optimizer.update(jax.grad(loss)(weights), state)
        return (weights + update, state), None

    (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), None, length=steps)
    return weights


def main() -> None:
    with jl.connect() as client:
        for steps in (0, 2_000):
            weights = np.asarray(jax.jit(trained, static_argnums=1)(start, steps))
            hessian = client.hessian(loss)(weights)  # from one second-order pass for each weight, spread over the workers
            curvatures = np.linalg.eigvalsh(hessian)
            flat = np.sum(np.abs(curvatures) < 1e-3 * curvatures[-1])
            print(
                f"after {steps:4} steps: loss {loss(jnp.asarray(weights)):.2g}, curvature from {curvatures[0]:.2g} to {curvatures[-1]:.2g},", end=" "
            )
            print(f"{flat} of {weights.size} directions are flat")
            np.testing.assert_allclose(hessian, jax.hessian(loss)(jnp.asarray(weights)), rtol=1e-8, atol=1e-10)
    print("equal to JAX on this machine")


if __name__ == "__main__":
    main()
