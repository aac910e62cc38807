"""Derivatives as a service: functions go in as data, Jacobians come back from a cluster.

``import jacloom as jl``, then ``jl.connect()``. Neither JAX nor Ray is loaded by this import.
"""

from __future__ import annotations

from jacloom._certificate import Certificate, Finding, Verdict
from jacloom._client import Client
from jacloom._connect import connect
from jacloom._derivatives import Derivatives, LeafDerivatives, ModeSupport
from jacloom._diagnosis import Diagnosis, NonFinite
from jacloom._errors import (
    ArgumentError,
    AuthenticationError,
    BlobNotFoundError,
    ClientStateError,
    DeadlineExceeded,
    FunctionNotFoundError,
    GraphError,
    InternalError,
    JacloomError,
    JacloomWarning,
    JobError,
    JobNotFoundError,
    LocalServiceError,
    MissingExtraError,
    ModeUnavailableError,
    OptionError,
    OutOfMemoryError,
    PoisonedError,
    ProtocolError,
    QuotaError,
    TooLargeError,
    TooSlowError,
    TraceError,
    UnavailableError,
    UnsupportedOpError,
    VerificationError,
)
from jacloom._function import Function, load
from jacloom._gauss_newton import gauss_newton
from jacloom._jobs import Job, JobArray, JobFailure, JobProgress, JobRecord, JobResult, JobState, JobVerification
from jacloom._plan import Considered, Plan, Summary
from jacloom._progress import Progress
from jacloom._remote import RemoteFunction
from jacloom._tracing import trace
from jacloom._version import VERSION as __version__

__all__ = [
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
