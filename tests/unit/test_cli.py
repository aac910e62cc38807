"""The command line: what it prints for people and for programs, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from unit.conftest import Run
from unit.scripted import Script, serving

import jacloom as jl
from jacloom._version import VERSION
from jacloom.cli import doctor
from jacloom_api.v1 import derivative_service_pb2 as derivative_pb
from jacloom_api.v1 import function_service_pb2 as pb
from jacloom_graph import wire
from jacloom_graph.types import Type
from jacloom_server import __main__ as server

JOBS = ("submit", "jobs", "watch", "cancel", "retry", "verify", "fetch", "expire")
"""The commands about jobs, which test_cli_jobs tries."""


@pytest.fixture
def service() -> Iterator[tuple[str, jl.RemoteFunction]]:
    """A service, by its address, that holds one function."""
    leaf = pb.LeafDerivatives(
        forward=pb.Availability(state=pb.Availability.UNAVAILABLE, reason="no JVP", place=derivative_pb.NodePlace(function=0, node=4, op="sort")),
        reverse=pb.Availability(state=pb.Availability.AVAILABLE),
    )
    script = Script(derivatives=pb.DescribeDerivativesReply(inputs=[leaf], outputs=[0]))
    with serving(script) as port, jl.connect(f"127.0.0.1:{port}") as client:
        yield f"127.0.0.1:{port}", client.register(lambda x: x * 2, np.zeros((2, 3)), name="doubled")


@pytest.fixture
def typed() -> Iterator[tuple[str, jl.RemoteFunction]]:
    """The same, and the service tells the types of the function's outputs."""
    script = Script()
    with serving(script) as port, jl.connect(f"127.0.0.1:{port}") as client:
        function = client.register(lambda x: x * 2, np.zeros((2, 3)), name="doubled")
        script.registered[function.name].outputs.append(wire.type_to_message(Type("float64", (2, 3))))
        yield f"127.0.0.1:{port}", function


@pytest.fixture
def client(service: tuple[str, jl.RemoteFunction]) -> Iterator[jl.Client]:
    with jl.connect(service[0]) as client:
        yield client


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"jacloom {VERSION}\n", "")
    done = subprocess.run([sys.executable, "-m", "jacloom", "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"jacloom {VERSION}\n"


def test_help_names_every_command(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert [command for command in ("serve", "demo", "doctor", "explain", "functions", *JOBS) if command not in out] == []


def test_every_command_speaks_json_and_to_any_service(run: Run) -> None:
    of_functions = [["functions", "list"], ["functions", "show"], ["functions", "delete"]]
    for command in [["demo"], ["doctor"], ["explain"], *of_functions, *([name] for name in JOBS)]:
        said = run(*command, "--help")[1]
        assert [option for option in ("--json", "--address", "--token", "--tls", "--ca") if option not in said] == []


def test_functions(run: Run, service: tuple[str, jl.RemoteFunction]) -> None:
    address, function = service
    expected = {"name": function.name, "display_name": "doubled", "inputs": ["float64[2,3]"], "outputs": [], "nodes": 0, "created": ""}
    status, out, _ = run("functions", "list", "--address", address, "--json")
    assert (status, json.loads(out)) == (0, [expected])
    status, out, _ = run("functions", "show", function.id, "--address", address, "--json")
    refused = {"available": False, "reason": "no JVP (at function 0, node 4 (sort))"}
    inputs = [{"path": "args[0]", "type": "float64[2,3]", "forward": refused, "reverse": {"available": True}}]
    assert (status, json.loads(out)) == (0, {**expected, "derivatives": {"inputs": inputs, "outputs": ["out"], "outputs_without": []}})
    _, out, _ = run("functions", "show", function.name, "--address", address)
    rows = [line.split() for line in out.splitlines()]
    assert ["leaf", "type", "forward", "reverse"] in rows
    assert ["args[0]", "float64[2,3]", "no", "[1]", "yes"] in rows
    assert "[1] no JVP (at function 0, node 4 (sort))" in out
    assert run("functions", "delete", function.id, "--address", address) == (0, f"deleted {function.id}\n", "")
    assert json.loads(run("functions", "list", "--address", address, "--json")[1]) == []


def test_a_list_has_one_line_a_function(run: Run, service: tuple[str, jl.RemoteFunction], client: jl.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    address, doubled = service
    many = client.register(lambda p: p, {f"leaf {at}": np.zeros((2, 3)) for at in range(9)}, name="[red] is no colour here, but part of the name")
    types = "(float64[2,3], float64[2,3], float64[2,3], and 6 more) -> ()"
    heads = ["id", "name", "registered", "nodes", "type"]
    for option, digits in (([], 12), (["--full"], 64)):
        head, *lines = run("functions", "list", *option, "--address", address)[1].splitlines()
        assert head.split() == heads
        assert {tuple(filter(None, map(str.strip, line.split("  ")))) for line in lines} == {
            (doubled.id[:digits], "doubled", "0", "(float64[2,3]) -> ()"),
            (many.id[:digits], many.display_name, "0", types),
        }
    # On a terminal names and types are cut instead, and ids are not.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    head, *lines = run("functions", "list", "--address", address)[1].splitlines()
    assert head.split() == heads
    assert sorted(line[:12] for line in lines) == sorted([doubled.id[:12], many.id[:12]])
    assert max(map(len, lines)) == 80
    assert [line.count("…") for line in sorted(lines, key=lambda line: "doubled" in line)] == [2, 0]


def test_a_function_is_meant_by_the_beginning_of_its_id_or_by_its_name(run: Run, service: tuple[str, jl.RemoteFunction], client: jl.Client) -> None:
    address, doubled = service
    for word in (doubled.id[:8], doubled.name[:30], "doubled"):
        status, out, _ = run("functions", "show", word, "--address", address, "--json")
        assert (status, json.loads(out)["name"]) == (0, doubled.name)
    twins = [client.register(lambda x, n=n: x * n, np.zeros(3), name="twin") for n in (3, 4)]
    status, _, err = run("functions", "delete", "twin", "--address", address)
    assert (status, len(client.functions())) == (1, 3)
    assert "'twin' means 2 functions: " in err
    assert all(f"{twin.id[:12]} (twin)" in err for twin in twins)
    assert run("functions", "delete", twins[0].id[:20], "--address", address) == (0, f"deleted {twins[0].id}\n", "")
    assert run("functions", "delete", "twin", "--address", address) == (0, f"deleted {twins[1].id}\n", "")


def test_explain(run: Run, typed: tuple[str, jl.RemoteFunction]) -> None:
    address, function = typed
    status, out, _ = run("explain", "doubled", "--address", address)
    assert status == 0
    assert "strategy  forward: one JVP for each column" in out.splitlines()
    assert "forward          3   2.5     7.5  least work" in out.splitlines()
    status, out, _ = run("explain", function.id[:12], "--address", address, "--json")
    first = {"strategy": "forward", "passes": 3, "price": 2.5, "verdict": "least work"}
    assert (status, json.loads(out)) == (
        0,
        {
            "function": function.name,
            "derivative": "jacobian",
            "strategy": "forward",
            "passes": 3,
            "forward": 0,
            "tile": 2,
            "tiles": 2,
            "workers": 2,
            "nbytes": 216,
            "seconds": None,
            "considered": [first, {"strategy": "reverse", "passes": 9, "price": 0.0, "verdict": ""}],
            "spy": None,
        },
    )


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (["--argnums", "x"], "OptionError", "`--argnums x`: expected the numbers of arguments with commas between them, such as 0 or 0,2."),
        (["--argnums", "0,"], "OptionError", "`--argnums 0,`: expected"),
        (["--argnums", "0,1"], "ArgumentError", "doubled got 1 positional argument, so argnums must be 0; got 1."),
        (["--derivative", "grad"], "OptionError", "derivative must be 'jacobian' or 'hessian'"),
        (["--derivative", "hessian", "--mode", "forward"], "OptionError", "a Hessian has no mode"),
        (["--mode", "up"], "OptionError", "mode must be 'auto', 'forward' or 'reverse', got 'up'"),
        (["--output", "lil"], "OptionError", "output must be 'dense', 'csr', 'csc' or 'coo', got 'lil'"),
        (["--output", "csr", "--sparsity", "dense"], "OptionError", "sparsity='dense' computes no pattern for it"),
        (["--sparsity", "banded"], "OptionError", "sparsity must be 'auto', 'dense', or a pattern"),
        (["--has-aux"], "ArgumentError", "must return a pair"),
        (["--weighted"], "OptionError", "weights are for derivative='hessian'; leave them out"),
        (["--spy", "pattern.jpg"], "OptionError", "the path must end with .png"),
    ],
)
def test_what_cannot_be_explained(run: Run, typed: tuple[str, jl.RemoteFunction], arguments: list[str], kind: str, text: str) -> None:
    status, out, err = run("explain", "doubled", *arguments, "--address", typed[0])
    assert (status, out) == (1, "")
    assert text in err
    status, out, _ = run("explain", "doubled", *arguments, "--address", typed[0], "--json")
    assert (status, json.loads(out)["error"]["type"]) == (1, kind)


def test_address_from_the_environment(run: Run, service: tuple[str, jl.RemoteFunction], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JACLOOM_ADDRESS", service[0])
    assert len(json.loads(run("functions", "list", "--json")[1])) == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (["list"], "OptionError", "Give --address host:port, or set JACLOOM_ADDRESS"),
        (["list", "--address", "localhost:1"], "UnavailableError", "no jacloom service answers at localhost:1"),
        (["list", "--address", "http://x"], "OptionError", "address must be 'host:port'"),
        (["show", "abc", "--address", "SERVICE"], "FunctionNotFoundError", "no function has the name 'abc', or an id that begins with it (8 digits"),
        (["delete", "0" * 64, "--address", "SERVICE"], "FunctionNotFoundError", "no function"),
    ],
)
def test_errors(run: Run, service: tuple[str, jl.RemoteFunction], arguments: list[str], kind: str, text: str) -> None:
    arguments = [service[0] if argument == "SERVICE" else argument for argument in arguments]
    status, out, err = run("functions", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("jacloom: ")
    assert text in err
    status, out, err = run("functions", *arguments, "--json")
    error = json.loads(out)["error"]
    assert (status, error["type"], err) == (1, kind, "")
    assert text in error["message"]


def test_unknown_problems_of_the_demo(run: Run, service: tuple[str, jl.RemoteFunction]) -> None:
    status, _, err = run("demo", "perpetuum mobile", "--address", service[0])
    assert status == 2
    assert "no problem 'perpetuum mobile'; there are lecture" in err


def test_serve_becomes_the_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def become(program: str, argv: list[str]) -> None:
        started.append((program, argv))
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", become)
    assert run("serve", "--workers", "3", "--help")[0] == 0
    assert started == [(sys.executable, [sys.executable, "-P", "-m", "jacloom_server", "--workers", "3", "--help"])]


def test_the_server_names_itself_as_it_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        server.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: jacloom serve [-h]")


def test_doctor_without_a_service(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor._PACKAGES, "a-package-that-is-not-there", "pip install it")
    status, out, _ = run("doctor", "--address", "localhost:1", "--json")
    found = json.loads(out)
    checks = {check["check"]: check for check in found["checks"]}
    assert (status, found["ok"]) == (1, False)
    assert (checks["jacloom"]["state"], checks["jacloom"]["detail"]) == ("ok", VERSION)
    assert checks["a-package-that-is-not-there"]["state"] == "missing"
    assert (checks["service"]["state"], "no jacloom service" in checks["service"]["detail"]) == ("failed", True)
    status, out, _ = run("doctor", "--address", "localhost:1")
    assert status == 1
    assert "✗ service" in out
