"""The device that this process computes on, and the settings without which its numbers would be wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import jax

Platform = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Device:
    """What computes."""

    platform: Platform
    name: str
    """In words, such as ``"NVIDIA H200"`` or ``"cpu, 8 threads"``."""


def configure(platform: Platform = "cpu") -> None:
    """Sets JAX up for a worker: call once, before anything touches a device.

    float64 stays float64, and matrix products are as exact as their dtype on every device: GPUs would take TF32 for float32.
    """
    settings = {
        "jax_enable_x64": True,
        "jax_default_matmul_precision": "highest",
        # The frames of JAX's own functions say which operation has no transpose; see modes.place_of_failure.
        "jax_traceback_filtering": "off",
        "jax_platforms": "cpu" if platform == "cpu" else "cuda,cpu",
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call, unused-ignore]


def device() -> Device:
    """Returns the device that computations run on by default. The first call starts JAX's backend."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return Device("gpu", first.device_kind)
    threads = _threads()
    return Device("cpu", f"cpu, {threads} thread{'s' if threads > 1 else ''}")


def _threads() -> int:
    """Returns the size of XLA's thread pool: NPROC where that is set, else the cores that this process may use."""
    if os.environ.get("NPROC", "").isdigit():
        return int(os.environ["NPROC"])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
