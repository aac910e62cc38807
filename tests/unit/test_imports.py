"""Who may import whom. Read from the source text, so that imports inside functions and under TYPE_CHECKING count as well."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
ROOTS = {
    "jacloom_api": "proto",
    "jacloom_graph": "proto",
    "jacloom": "client",
    "jacloom_worker": "worker",
    "jacloom_server": "server",
}
MAY_IMPORT = {
    "jacloom_api": set(),
    "jacloom_graph": {"jacloom_api"},
    "jacloom": {"jacloom_api", "jacloom_graph"},
    "jacloom_worker": {"jacloom_graph"},
    "jacloom_server": {"jacloom_api", "jacloom_graph", "jacloom_worker"},
}
JAX_FREE_WORKER_MODULES = {"jacloom_worker.protocol", "jacloom_worker.unit", "jacloom_worker.launch"}
"""All that the server may know of the worker package."""
GRAPH_LIBRARIES = {"numpy", "ml_dtypes", "google"}
"""All that a program needs to build and read graphs."""
DISTRIBUTIONS = {
    "google": {"protobuf", "googleapis-common-protos"},
    "PIL": {"pillow"},
    "grpc": {"grpcio"},
    "grpc_health": {"grpcio-health-checking"},
    "grpc_reflection": {"grpcio-reflection"},
    "google_crc32c": {"google-crc32c"},
}
"""Where the name that is imported is not the name that is installed."""
EXTRAS = {
    "jacloom_api": [],
    "jacloom_graph": [],
    "jacloom": ["jax", "plot", "zarr"],
    "jacloom_worker": ["jax", "server"],
    "jacloom_server": ["server"],
}
"""The parts of an installation that each package may count on, besides the base."""
SPEAKS_GRPC = (
    "jacloom_graph",
    "jacloom_server.app",  # puts the edges on the gRPC server
    "jacloom_server.edges",
    "jacloom_server.status",
    "jacloom._call",
    "jacloom._connection",
    "jacloom._derivatives",
    "jacloom._diagnosis",
    "jacloom._jobs.calls",
    "jacloom._jobs.create",
    "jacloom._jobs.reading",
    "jacloom._jobs.record",
    "jacloom._plan",
    "jacloom._registry",
    "jacloom._status",
    "jacloom._upload",
)
"""Where protobuf messages are turned into plain values and back; nowhere else does a ``_pb2`` appear."""


def modules(package: str) -> dict[str, Path]:
    root = HOME / ROOTS[package]
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        if "_pb2" not in path.name:
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path) -> Iterator[str]:
    """Yields the full name of every module, or name within one, that ``path`` imports."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def every_import(package: str) -> list[tuple[str, str]]:
    return [(module, name) for module, path in modules(package).items() for name in imports(module, path)]


def inside(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


@pytest.mark.parametrize("package", ROOTS)
def test_direction(package: str) -> None:
    assert modules(package), f"{package} has no modules; is the walk broken?"
    allowed = MAY_IMPORT[package] | {package}
    wrong = [f"{module} imports {name}" for module, name in every_import(package) if name.split(".")[0] in ROOTS.keys() - allowed]
    assert not wrong, wrong


def test_server_knows_three_modules_of_the_worker() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, name in every_import("jacloom_server")
        if inside(name, "jacloom_worker") and not inside(name, *JAX_FREE_WORKER_MODULES)
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("package", ROOTS)
def test_messages_stay_at_the_edges(package: str) -> None:
    wrong = [f"{module} imports {name}" for module, name in every_import(package) if "_pb2" in name and not inside(module, *SPEAKS_GRPC)]
    assert not wrong, wrong


@pytest.mark.parametrize("edge", SPEAKS_GRPC)
def test_edges_speak(edge: str) -> None:
    """A module that no longer speaks gRPC is to be taken off the list."""
    assert any(inside(module, edge) and "_pb2" in name for module, name in every_import(edge.split(".")[0]))


def test_graph_needs_no_more_than_numpy_and_protobuf() -> None:
    outside = {name.split(".")[0] for _, name in every_import("jacloom_graph")} - sys.stdlib_module_names - {"jacloom_graph", "jacloom_api"}
    assert outside <= GRAPH_LIBRARIES


@pytest.mark.parametrize("package", ROOTS)
def test_libraries_are_declared(package: str) -> None:
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(line for extra in EXTRAS[package] for line in project["optional-dependencies"][extra])]
    declared = {re.split(r"[^\w-]", line)[0] for line in requirements}
    imported = {name.split(".")[0] for _, name in every_import(package)} - sys.stdlib_module_names - ROOTS.keys()
    missing = [name for name in sorted(imported) if not DISTRIBUTIONS.get(name, {name}) <= declared]
    assert not missing, missing


@pytest.mark.parametrize("package", ["jacloom_server", "jacloom_graph", "jacloom_api"])
def test_never_names_jax(package: str) -> None:
    wrong = [f"{module} imports {name}" for module, name in every_import(package) if inside(name, "jax", "jaxlib", "equinox")]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("names", "forbidden"),
    [
        (["jacloom"], ["jax", "jaxlib", "ray", "jacloom_server", "jacloom_worker"]),
        (["jacloom.cli"], ["jax", "jaxlib", "ray", "jacloom_server", "jacloom_worker"]),
        (sorted(JAX_FREE_WORKER_MODULES), ["jax", "jaxlib", "zarr"]),
        (["jacloom_worker.protocol", "jacloom_worker.unit"], ["jax", "jaxlib", "ray", "grpc", "zarr"]),
        (["jacloom_server.jobs.publishing", "jacloom_server.jobs.verifying"], ["jax", "jaxlib", "ray", "grpc", "zarr"]),
        (sorted(module for module in modules("jacloom_server") if not module.endswith("__main__")), ["jax", "jaxlib", "jacloom"]),
    ],
    ids=["sdk", "command line", "worker edge", "worker messages", "ledger of jobs", "server"],
)
def test_importing_loads_not(names: list[str], forbidden: list[str]) -> None:
    program = f"import sys\nfor name in {names!r}: __import__(name)\nprint(*sorted(set({forbidden!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
