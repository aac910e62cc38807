"""Jobs of the scripted service that are done, and their results."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from unit.scripted_jobs import Jobs

import jacloom as jl
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph.answer import Part

COUNT = 6
RANDOM = np.random.default_rng(3)


def model(p: Any) -> Any:
    return {"y": p["x"] * p["s"], "z": (p["s"],)}


def blocks(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [RANDOM.normal(size=(COUNT, *shape)) for shape in shapes]


def finished(client: jl.Client, jobs: Jobs, f: Any, points: Any, arrays: Any, *, dtype: str = "", **options: Any) -> jl.Job:
    """Returns a job that is done, with arrays by path and key as its results."""
    job = client.submit(f, points, **options)
    made = jobs.jobs[job.name]
    made.state = pb.JOB_SUCCEEDED
    for path, key, array in arrays:
        jobs.add_array(made, path, key, array, dtype)
    jobs.results["status"] = np.array([1, 1, 2, 1, 1, 1], np.uint8)
    return job.refresh()


POINTS = {"s": np.arange(6.0), "x": np.zeros((6, 2))}
Y_S, Y_X, Z_S, Z_X, Y, Z = blocks((2,), (2, 2), (), (2,), (2,), ())
JACOBIAN = [
    ("value/y", (Part.VALUE, 0, 0, 0), Y),
    ("value/z", (Part.VALUE, 1, 0, 0), Z),
    ("jacobian/y/s", (Part.JACOBIAN, 0, 0, 0), Y_S),
    ("jacobian/y/x", (Part.JACOBIAN, 0, 1, 0), Y_X),
    ("jacobian/z/s", (Part.JACOBIAN, 1, 0, 0), Z_S),
    ("jacobian/z/x", (Part.JACOBIAN, 1, 1, 0), Z_X),
]

SQUARE = blocks((3, 3))[0]
ROW = blocks((3,))[0]
SCALAR = blocks(())[0]
PATTERN = sparse.csr_array(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]))
DATA = blocks((3,))[0]
SPARSE = [
    ("data", (Part.ENTRIES, 0, 0, 0), DATA),
    ("indices", (Part.INDICES, 0, 0, 0), PATTERN.indices),
    ("indptr", (Part.POINTERS, 0, 0, 0), PATTERN.indptr),
]
