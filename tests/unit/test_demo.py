"""The demo's functions compute what they say; what the service makes of them is tested in integration."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jacloom.demo import brusselator, gaussian_mixture, lecture, lorenz96, robot_arm, tall, wide
from jacloom.demo.catalogue import problems


@pytest.fixture(autouse=True)
def float64() -> object:
    with jax.enable_x64(True):
        yield


def test_lecture() -> None:
    np.testing.assert_array_equal(lecture.f(np.array([2.0, 0.0])), [0.0, 10.0])


def test_tall_at_the_start() -> None:
    parameters = np.array([[2.0, 0.1, 3.0, 0.0], [0.5, 0.2, 1.0, np.pi]])
    assert tall.curve(parameters)[0] == pytest.approx(2.0 - 0.5)


def test_wide_keeps_an_even_temperature() -> None:
    even = np.full((wide.SIDE, wide.SIDE), 0.5)
    np.testing.assert_allclose(wide.figures(even), [0.25, 0.5, 0.0], atol=1e-15)


def test_arm_stretched_out() -> None:
    np.testing.assert_allclose(robot_arm.tip(np.zeros(7)), [0.0, 0.0, 0.340 + 0.400 + 0.400 + 0.126], atol=1e-15)


def test_arm_keeps_its_reach() -> None:
    shoulder = np.array([0.0, 0.0, 0.340])
    for angles in np.random.default_rng(1).uniform(-np.pi, np.pi, (5, 7)):
        assert np.linalg.norm(robot_arm.tip(angles) - shoulder) <= 0.400 + 0.400 + 0.126 + 1e-12


def test_mixture_of_one_is_a_normal_distribution() -> None:
    points = np.random.default_rng(2).normal(size=(5, 3))
    value = gaussian_mixture.log_likelihood(np.zeros(1), np.zeros((1, 3)), np.zeros((1, 6)), points)
    prior = gaussian_mixture.log_wishart(np.eye(3)[None], 0.0)
    assert value - prior == pytest.approx(multivariate_normal(np.zeros(3)).logpdf(points).sum())


def test_lorenz_rests_at_its_forcing() -> None:
    rest = np.full(lorenz96.SITES, lorenz96.FORCING)
    np.testing.assert_allclose(lorenz96.state_after(rest), rest)


def test_brusselator_has_an_even_steady_state() -> None:
    even = np.broadcast_to(np.array([brusselator.A, brusselator.B / brusselator.A])[:, None, None], (2, brusselator.SIDE, brusselator.SIDE))
    np.testing.assert_allclose(brusselator.residual(even), 0.0, atol=1e-12)


def test_names_differ() -> None:
    names = [problem.name for problem in problems()]
    assert len(set(names)) == len(names) == 8
