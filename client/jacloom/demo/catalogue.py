"""All demo problems, in the order in which they are shown."""

from __future__ import annotations

from jacloom.demo import NAMES, brusselator, gaussian_mixture, lecture, lorenz96, robot_arm, tall, wide
from jacloom.demo.problem import Problem


def problems() -> tuple[Problem, ...]:
    """Returns the problems, from the blackboard to the grid."""
    found = (
        lecture.by_columns(),
        lecture.by_rows(),
        tall.problem(),
        wide.problem(),
        robot_arm.problem(),
        gaussian_mixture.problem(),
        lorenz96.problem(),
        brusselator.problem(),
    )
    assert tuple(problem.name for problem in found) == NAMES
    return found
