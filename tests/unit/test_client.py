"""A client from its making to its end: its options and its functions, threads and forks, and services that go and come back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from unit.scripted import Script, echo, hang, serving

import jacloom as jl
from jacloom._connect import connect

X = np.arange(6.0).reshape(2, 3)


def identity(x: Any) -> Any:
    return x


def test_a_service_that_comes_back(script: Script) -> None:
    with ExitStack() as later:
        with serving(Script()) as port:
            client = later.enter_context(connect(f"127.0.0.1:{port}"))
            client.functions()
        script.steps = [echo(script)]
        restart = threading.Timer(0.5, lambda: later.enter_context(serving(script, port)))
        restart.start()
        np.testing.assert_array_equal(client.evaluate(identity, timeout=20)(X), X)
        restart.join()


FORK = """
import os, sys
import jacloom as jl
client = jl.connect(sys.argv[1])
child = os.fork()
if not child:
    try:
        client.functions()
    except jl.ClientStateError as error:
        client.close()  # not the child's to close
        print(error, flush=True)
        os._exit(0)
    os._exit(1)
_, status = os.waitpid(child, 0)
client.functions()
print(os.waitstatus_to_exitcode(status))
"""


def test_clients_do_not_survive_a_fork(script: Script) -> None:
    with serving(script) as port:
        program = [sys.executable, "-c", FORK, f"127.0.0.1:{port}"]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "connections do not survive a fork: call jl.connect() in this process" in done.stdout
    assert done.stdout.endswith("\n0\n")


def test_functions_of_the_service(client: jl.Client, script: Script) -> None:
    ones = [client.register(lambda x, n=n: x * n, X, name=f"times {n}") for n in range(5)]
    assert [function.display_name for function in client.functions()] == [f"times {n}" for n in range(5)]
    client.delete(ones[0])
    client.delete(ones[1].name)
    assert len(client.functions()) == 3
    with pytest.raises(jl.FunctionNotFoundError):
        client.delete(ones[0].id)
    with pytest.raises(jl.FunctionNotFoundError):
        client.function("0" * 64)
    for none in ("functions/abc", None, 3, "\ud800"):
        for method in (client.function, client.delete):
            with pytest.raises(jl.ArgumentError, match="64 hex digits"):
                method(none)  # type: ignore[operator]
    with pytest.raises(jl.ArgumentError, match="takes no examples"):
        client.register(jl.trace(identity, X), X)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda client: client.jacobian(identity, mode="fwd"),
            r"`client\.jacobian\(identity, mode='fwd'\)`: mode must be 'auto', 'forward' or 'reverse'",
        ),
        (lambda client: client.jacobian(identity, tile=0), "tile must be 'auto' or a number of seeds from 1 to 4096, got 0"),
        (lambda client: client.hessian(identity, tile=True), "got True"),
        (
            lambda client: client.jacobian(identity, argnums="x"),
            r"`client\.jacobian\(identity, argnums\)`: argnums must be an integer or a sequence of integers, got str 'x'\.",
        ),
        (
            lambda client: client.value_and_grad(identity, X),
            r"got array\. A point goes to the function that comes back: `client\.value_and_grad\(identity\)\(x\)`\.",
        ),
        (
            lambda client: client.hessian(identity, 0, X),
            r"`client\.hessian\(identity, has_aux=\.\.\.\)`: has_aux must be True or False, got array\. "
            r"A point goes to the function that comes back: `client\.hessian\(identity\)\(x\)`\.",
        ),
        (lambda client: client.jacobian(identity, holomorphic=X), "holomorphic must be True or False, got array"),
        (lambda client: client.grad(identity, verify=1), "verify must be True or False, got 1"),
        (lambda client: client.jvp(identity, (X,), (X,), X), r"client\.jvp\(identity, primals, tangents, has_aux=.*got array\. Several arguments"),
        (lambda client: client.vjp(identity, (X,), X, X), r"client\.vjp\(identity, primals, cotangents, has_aux=.*got array\. Several arguments"),
        (lambda client: client.explain(identity, X, has_aux=X), r"client\.explain\(identity, has_aux=.*got array\.$"),
        (lambda client: client.linear_operator(identity, X, holomorphic=X), r"client\.linear_operator\(identity, holomorphic=.*got array\.$"),
        (lambda client: client.jacobian(identity, mode=X), "mode must be 'auto', 'forward' or 'reverse', got array"),
        (lambda client: client.jacobian(identity, tile=X), "tile must be 'auto' or a number of seeds .*, got array"),
        (lambda client: client.jacobian(identity, output=X), "output must be 'dense', 'csr', 'csc' or 'coo', got array"),
        (
            lambda client: client.evaluate(identity, X),
            r"`client\.evaluate\(identity, \.\.\.\)` takes its options by name, got 1\. "
            r"A point goes to the function that comes back: `client\.evaluate\(identity\)\(x\)`\.",
        ),
        (
            lambda client: client.hessian(identity, 0, False, X),
            r"takes at most 2 options by position, got 3\. A point .*`client\.hessian\(identity\)\(x\)`",
        ),
        (lambda client: client.explain(identity, X, argnums=X), r"^argnums must be an integer or a sequence of integers, got array\.$"),
        (lambda client: client.register(identity, X, name=3), "name must be a str of at most 128 characters, got int"),
        (lambda client: client.register(identity, X, name="n" * 129), "at most 128 characters, got 129 characters"),
        (lambda client: client.register(identity, X, name="\ud800"), r"name='\\ud800'\)`: name has a lone surrogate"),
        (lambda client: client.jvp(identity, X, X), r"primals must be a tuple with one entry per argument, got ndarray; write \(x,\)"),
        (lambda client: client.evaluate(3)(X), "f must be a callable, a jl.Function, a jl.RemoteFunction or a function's id, got int"),
        (
            lambda client: client.evaluate(identity, timeout=-1)(X),
            "timeout must be a finite positive number of seconds, or None.*got -1",
        ),
        (lambda client: client.evaluate(identity, timeout=float("inf"))(X), "got inf"),
        (lambda client: client.evaluate(identity, timeout=float("nan"))(X), "got nan"),
    ],
)
def test_bad_options(client: jl.Client, call: Any, text: str) -> None:
    with pytest.raises((jl.ArgumentError, jl.OptionError), match=text):
        call(client)


def test_closing_a_client_ends_the_calls_of_other_threads(client: jl.Client, script: Script) -> None:
    script.steps = [hang(script)]
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.evaluate(identity), X)
        while "Evaluate" not in script.calls:
            time.sleep(0.01)
        client.close()
        with pytest.raises(jl.ClientStateError, match="this client is closed"):
            call.result(10)
    assert script.cancelled.wait(5)


def test_closed_clients(client: jl.Client) -> None:
    client.close()
    client.close()
    with pytest.raises(jl.ClientStateError, match=r"this client is closed; call jl\.connect\(\)"):
        client.evaluate(identity)(X)


def test_token_travels_with_every_call(script: Script) -> None:
    script.steps = [echo(script)]
    with serving(script) as port, connect(f"127.0.0.1:{port}", token="secret") as client:
        client.evaluate(identity)(X)
    assert script.metadata["authorization"] == "Bearer secret"


def test_threads_share_a_client(client: jl.Client, script: Script) -> None:
    script.steps = [echo(script)] * 40
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                np.testing.assert_array_equal(client.evaluate(identity)(X + number), X + number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_a_service_of_another_version(client: jl.Client, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unit.scripted.identity.graph_id", lambda graph: "0" * 64)
    with pytest.raises(jl.ProtocolError, match="use the same version on both sides"):
        client.register(identity, X)
