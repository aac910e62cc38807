"""Jobs through the SDK, against a real service: what comes back is what a call at each point returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from scipy.sparse import csr_array

import jacloom as jl

RNG = np.random.default_rng(11)
X = RNG.normal(size=(60, 3))
POINTS = {"x": X, "k": RNG.uniform(1, 2, size=60)}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[jl.Client]:
    with jl.connect(data=tmp_path_factory.mktemp("data")) as client:
        yield client


def f(point: dict[str, jax.Array], scale: float) -> dict[str, jax.Array]:
    return {"u": scale * jnp.sin(point["k"] * point["x"][:2]), "v": jnp.sum(point["x"] ** 2) * point["k"]}


def point(at: int) -> dict[str, np.ndarray]:
    return {name: leaf[at] for name, leaf in POINTS.items()}


def same(got: object, expected: object) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14), got, expected)


def test_jacobians_have_the_trees_of_a_call(client: jl.Client, tmp_path: Path) -> None:
    job = client.submit(f, POINTS, 2.5, name="both", out="trees/both").wait()
    result = job.result()
    assert (len(result), job.progress.points_done) == (60, 60)
    call = client.jacobian(f)
    for at in (0, 17, -1):
        same(result[at], call(point(at % 60), 2.5))
    same(result.value[5], client.evaluate(f)(point(5), 2.5))
    whole = result[10:13]
    np.testing.assert_array_equal(whole["u"]["x"], np.stack([result[at]["u"]["x"] for at in (10, 11, 12)]))
    assert result.status.tolist() == [1] * 60
    # The same for whoever knows the id alone.
    again = client.job(job.id)
    assert (again.display_name, again.state) == ("both", "succeeded")
    same(again.result()[17], result[17])
    job.fetch(tmp_path / "files")
    np.testing.assert_array_equal(np.load(tmp_path / "files" / "jacobian" / "u" / "x.npy"), result[:]["u"]["x"])


@pytest.mark.parametrize("derivative", ["value", "gradient", "hessian", "jvp", "vjp"])
def test_every_derivative(client: jl.Client, derivative: jl.JobDerivative) -> None:
    scalar = lambda x, c: jnp.sum(jnp.exp(c * x)) * x[0]  # noqa: E731
    vector = lambda x, c: jnp.tanh(c * x[:2])  # noqa: E731
    tangents, cotangents = RNG.normal(size=X.shape), RNG.normal(size=(60, 2))
    function = scalar if derivative in ("gradient", "hessian") else vector
    seeds = {"jvp": tangents, "vjp": cotangents}.get(derivative)
    result = client.submit(function, X, 0.5, derivative=derivative, seeds=seeds).wait().result()
    expected = {
        "value": lambda at: vector(X[at], 0.5),
        "gradient": lambda at: jax.grad(scalar)(X[at], 0.5),
        "hessian": lambda at: jax.hessian(scalar)(X[at], 0.5),
        "jvp": lambda at: jax.jvp(lambda x: vector(x, 0.5), (X[at],), (tangents[at],))[1],
        "vjp": lambda at: jax.vjp(lambda x: vector(x, 0.5), X[at])[1](cotangents[at])[0],
    }[derivative]
    with jax.enable_x64(True):
        for at in (0, 31, 59):
            np.testing.assert_allclose(result[at], expected(at), rtol=1e-12, atol=1e-14)


def test_points_from_wherever_they_are(client: jl.Client, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "points.npz", **POINTS)
    group = zarr.open_group(tmp_path / "points.zarr", mode="w")
    for name, leaf in POINTS.items():
        group.create_array(name, data=leaf, chunks=(7, *leaf.shape[1:]))
    square = lambda x: x**2  # noqa: E731
    expected = client.submit(square, X).wait().result()[:]
    for points in (tmp_path / "x.npy", iter(X), (row.copy() for row in X), zarr.open_array(tmp_path / "points.zarr", path="x")):
        np.testing.assert_array_equal(client.submit(square, points).wait().result()[:], expected)
    trees = client.submit(f, POINTS, 1.0).wait().result()[:]
    for points in (tmp_path / "points.npz", group, tmp_path / "points.zarr"):
        same(client.submit(f, points, 1.0).wait().result()[:], trees)


def second(x: jax.Array) -> dict[str, jax.Array]:
    return {"product": x["a"][1:] * x["a"][:-1], "cube": x["b"] ** 3}


def test_coloured_jacobians_are_read_as_they_are_asked_for(client: jl.Client) -> None:
    points = {"a": RNG.normal(size=(9, 40)), "b": RNG.normal(size=(9, 2, 3))}
    at = {name: leaf[4] for name, leaf in points.items()}
    sparse = client.submit(second, points, output="csr", out="sparse").wait()
    assert isinstance(sparse.result()[4], csr_array)
    np.testing.assert_allclose(sparse.result()[4].toarray(), client.jacobian(second, output="csr")(at).toarray())
    pattern = client.explain(second, at, output="csr").pattern()
    dense = client.submit(second, points, sparsity=pattern).wait()
    assert set(dense.result().arrays) >= {"data", "indices", "indptr"}, "it is stored by its pattern"
    same(dense.result()[4], client.jacobian(second, sparsity="dense")(at))
    np.testing.assert_array_equal(dense.result()[2:5]["product"]["a"][2], dense.result()[4]["product"]["a"])


def test_coloured_hessians_are_read_as_they_are_asked_for(client: jl.Client) -> None:
    scalar = lambda p: jnp.sum(p["a"][1:] ** 2 * p["a"][:-1]) + jnp.sum(p["b"] ** 4)  # noqa: E731
    points = {"a": RNG.normal(size=(5, 12)), "b": RNG.normal(size=(5, 2, 3))}
    at = {name: leaf[3] for name, leaf in points.items()}
    pattern = client.explain(scalar, at, derivative="hessian", output="csr").pattern()
    job = client.submit(scalar, points, derivative="hessian", sparsity=pattern).wait()
    same(job.result()[3], client.hessian(scalar, sparsity="dense")(at))


def test_the_first_bad_point_is_named_and_there_is_no_job(client: jl.Client) -> None:
    before = len(client.jobs())
    rows = [np.zeros(3)] * 17 + [np.zeros(4)] + [np.zeros(3)]
    with pytest.raises(jl.ArgumentError, match=r"point 17"):
        client.submit(lambda x: x**2, iter(rows))
    with pytest.raises(jl.ArgumentError, match=r"60|59"):
        client.submit(f, {"x": X, "k": POINTS["k"][:59]}, 1.0)
    with pytest.raises(jl.OptionError, match=r"\.\."):
        client.submit(lambda x: x**2, X, out="../elsewhere")
    with pytest.raises(jl.JobNotFoundError):
        client.job("0" * 20)
    assert len(client.jobs()) == before


def test_a_job_that_is_cancelled_has_no_results_yet(client: jl.Client) -> None:
    slow = lambda x: jax.lax.fori_loop(0, 3_000_000, lambda _, y: y + 1e-6 * jnp.sin(y), x)  # noqa: E731
    job = client.submit(slow, X)
    assert job.cancel().state == "cancelled"
    with pytest.raises(jl.JobError):
        job.result()[0]
    job.delete()
    with pytest.raises(jl.JobNotFoundError):
        job.refresh()


def test_jobs_outlive_the_service(tmp_path: Path) -> None:
    with jl.connect(data=tmp_path) as client:
        job = client.submit(lambda x: jnp.sin(x), X, request_id="evening")
    with jl.connect(data=tmp_path) as client:
        again = client.job(job.id).wait()
        np.testing.assert_allclose(again.result()[3], np.diag(np.cos(X[3])))
        assert client.submit(lambda x: jnp.sin(x), X, request_id="evening").id == job.id
