"""Environment variables that Ray and gRPC read once, when they are loaded. Loads neither."""

from __future__ import annotations

import os
import secrets
from typing import Final

_SETTINGS: Final = {
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # The default waits of a minute and more hide a lost machine for too long: with these a call to one fails after about 6 s.
    "RAY_grpc_client_keepalive_time_ms": "1000",
    "RAY_grpc_client_keepalive_timeout_ms": "2000",
    # Spares the driver from waiting until idle workers are up (1.2 s): actors bring processes of their own.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # gRPC's own lines would stand between ours; what they mean for the operator, ours say.
    "GRPC_VERBOSITY": "NONE",
    # Ray runs workers at nice 15, where anything else on the machine comes first: a busy neighbour made calls three times slower.
    "RAY_worker_niceness": "0",
    # Workers without a GPU keep the variables that name the machine's GPUs; Ray would warn that this changes one day.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def prepare(*, local: bool) -> None:
    """Sets the variables for this process and those it starts. Call it before anything imports Ray or gRPC; what is set already stays.

    Args:
        local: Ray will be our own, on this machine. It then gets a secret of its own, known only to processes that inherit it: whoever
            reaches Ray's ports runs code.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if local:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ.pop("RAY_ADDRESS", None)
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
