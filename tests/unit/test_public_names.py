"""The public surface of the SDK is a list, and changing it is a decision."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import jacloom as jl

NAMES = [
    "ArgumentError",
    "AuthenticationError",
    "BlobNotFoundError",
    "Certificate",
    "Client",
    "ClientStateError",
    "Considered",
    "DeadlineExceeded",
    "Derivatives",
    "Diagnosis",
    "Finding",
    "Function",
    "FunctionNotFoundError",
    "GraphError",
    "InternalError",
    "JacloomError",
    "JacloomWarning",
    "Job",
    "JobArray",
    "JobError",
    "JobFailure",
    "JobNotFoundError",
    "JobProgress",
    "JobRecord",
    "JobResult",
    "JobState",
    "JobVerification",
    "LeafDerivatives",
    "LocalServiceError",
    "MissingExtraError",
    "ModeSupport",
    "ModeUnavailableError",
    "NonFinite",
    "OptionError",
    "OutOfMemoryError",
    "Plan",
    "PoisonedError",
    "Progress",
    "ProtocolError",
    "QuotaError",
    "RemoteFunction",
    "Summary",
    "TooLargeError",
    "TooSlowError",
    "TraceError",
    "UnavailableError",
    "UnsupportedOpError",
    "Verdict",
    "VerificationError",
    "__version__",
    "connect",
    "gauss_newton",
    "load",
    "trace",
]

METHODS = [
    "check",
    "close",
    "delete",
    "diagnose",
    "evaluate",
    "expire_jobs",
    "explain",
    "function",
    "functions",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "job",
    "jobs",
    "jvp",
    "linear_operator",
    "register",
    "submit",
    "value_and_grad",
    "vjp",
]


def test_names() -> None:
    assert jl.__all__ == NAMES == sorted(NAMES)
    assert not [name for name in NAMES if not hasattr(jl, name)]


def test_methods_of_the_client() -> None:
    assert [name for name in dir(jl.Client) if not name.startswith("_")] == METHODS


@pytest.mark.parametrize("name", [*METHODS, "connect", "load", "trace"])
def test_everything_public_is_documented(name: str) -> None:
    thing = getattr(jl.Client, name, None) or getattr(jl, name)
    assert len(inspect.getdoc(thing) or "") > 30


def test_every_call_takes_a_timeout() -> None:
    without = {name for name in METHODS if "timeout" not in inspect.signature(getattr(jl.Client, name)).parameters}
    assert without == {"close"}
    assert "timeout" in inspect.signature(jl.RemoteFunction.derivatives).parameters


@pytest.mark.parametrize("module", ["jacloom", "jacloom.cli"])
def test_importing_is_light(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{'jax', 'ray', 'scipy', 'jacloom_server'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
