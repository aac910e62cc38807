"""A service that answers by script, for the tests of the client, and its command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
from unit.finished import JACOBIAN, POINTS, finished, model
from unit.scripted import Script, serving
from unit.scripted_jobs import Jobs, client_of_jobs

import jacloom as jl
from jacloom._connect import connect
from jacloom.cli import app as cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[jl.Client]:
    with serving(script) as port, connect(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def jobs_client(script: Script, jobs: Jobs) -> Iterator[jl.Client]:
    """A client of a service that has jobs."""
    with client_of_jobs(script, jobs) as client:
        yield client


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process and returns its status, standard output and standard error."""
    monkeypatch.delenv("JACLOOM_ADDRESS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jacloom", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else int(code is not None), said.out, said.err)

    return run


@pytest.fixture
def job(jobs_client: jl.Client, jobs: Jobs) -> jl.Job:
    """A job that has computed the Jacobian of a function of trees."""
    return finished(jobs_client, jobs, model, POINTS, JACOBIAN)
