"""What a client remembers of the functions that it has registered, and what it does not keep alive."""

from __future__ import annotations

import gc
import weakref

import numpy as np
from unit.scripted import Script, echo

import jacloom as jl

X = np.arange(6.0).reshape(2, 3)


def test_graphs_go_with_their_functions(client: jl.Client, script: Script) -> None:
    function = jl.trace(lambda x: x + 1, X)
    script.steps = [echo(script), echo(script)]
    client.evaluate(function)(X)
    client.evaluate(function.id)(X)
    gone = weakref.ref(function)
    function_id = function.id
    del function
    gc.collect()
    assert gone() is None
    script.registered.clear()
    assert [type_.shape for type_ in client.function(function_id).inputs] == [(2, 3)], "what is small is still known"


def test_a_function_known_by_id_is_sent_again_while_its_graph_is_there(client: jl.Client, script: Script) -> None:
    function = client.register(lambda x: x + 2, X)
    script.steps = [echo(script)]
    script.registered.clear()
    client.evaluate(function.id)(X)
    assert script.calls == ["Register", "Evaluate", "Register", "Evaluate"]


def test_what_the_service_says_last_counts(client: jl.Client, script: Script) -> None:
    function = jl.trace(lambda x: x + 3, X)
    script.steps = [echo(script)]
    client.evaluate(function)(X)
    script.registered.clear()
    assert client.register(function, name="a name").display_name == "a name"
    assert client.function(function.id).display_name == "a name"
