"""``jacloom doctor``: is everything there, and does it work?"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from typing import Literal

import numpy as np
import typer
from rich.console import Console

from jacloom._errors import JacloomError
from jacloom._version import VERSION
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service

_PACKAGES = {"numpy": "", "grpcio": "", "protobuf": "", "jax": 'pip install "jacloom[jax]"', "ray": 'pip install "jacloom[server]"'}
"""What an installation has, and how to get what is optional."""
_MARKS = {"ok": "[green]✓[/]", "missing": "[yellow]-[/]", "failed": "[red]✗[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    state: Literal["ok", "missing", "failed"]
    """``missing`` is not an error: the part is optional, or the check cannot be made without it."""
    detail: str


@on_service
def doctor(*, service: Service, as_json: Json = False) -> None:
    """Check this installation and a service: the one at the address, or a local one."""
    findings = []
    console = Console()
    for finding in (*installation(), *answers(service)):
        findings.append(finding)
        if not as_json:
            console.print(f"{_MARKS[finding.state]} {finding.check:<12}", end=" ")
            console.print(finding.detail, markup=False, highlight=False)
    if as_json:
        print_json({"ok": all(finding.state != "failed" for finding in findings), "checks": [asdict(finding) for finding in findings]})
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def installation() -> Iterator[Finding]:
    """Yields what is installed."""
    yield Finding("jacloom", "ok", VERSION)
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")
    for package, remedy in _PACKAGES.items():
        try:
            yield Finding(package, "ok", metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, "missing" if remedy else "failed", f"not installed: {remedy or 'install jacloom again'}")


def answers(service: Service) -> Iterator[Finding]:
    """Yields whether a service answers and computes correctly."""
    where = service.address or "a local service"
    if service.address is None and util.find_spec("ray") is None:
        yield Finding("service", "missing", "no address given, and no Ray to start a local service with")
        return
    try:
        started = time.perf_counter()
        with service.connect() as client:
            client.functions()
            yield Finding("service", "ok", f"{where} answered after {time.perf_counter() - started:.2f} s")
            started = time.perf_counter()
            client.functions()
            yield Finding("round trip", "ok", f"{(time.perf_counter() - started) * 1e3:.1f} ms")
            if util.find_spec("jax") is None:
                yield Finding("jacobian", "missing", "no JAX here to trace a function with")
                return
            from jacloom.demo.lecture import f

            started = time.perf_counter()
            right = np.allclose(client.jacobian(f)(np.array([2.0, 0.0])), [[0, 4], [5, 1]], rtol=1e-12, atol=1e-12)
            seconds = time.perf_counter() - started
            yield Finding("jacobian", "ok" if right else "failed", f"{'right' if right else 'WRONG'}, after {seconds:.2f} s")
    except JacloomError as error:
        yield Finding("service", "failed", str(error))
