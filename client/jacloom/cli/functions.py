"""``jacloom functions``: what a service holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jacloom._derivatives import Derivatives, ModeSupport
from jacloom._outline import arrow
from jacloom._remote import RemoteFunction
from jacloom.cli.output import Json, print_json, print_table
from jacloom.cli.service import Service, on_service
from jacloom.cli.which import SHORT, Which, function_id

app = typer.Typer()

Full = Annotated[bool, typer.Option("--full", help="Print whole ids.")]


@app.callback(invoke_without_command=True)
@on_service
def functions(
    context: typer.Context,
    *,
    service: Service,
    full: Full = False,
    as_json: Json = False,
) -> None:
    """List, show and delete the functions of a service; without a command, list them."""
    if context.invoked_subcommand is None:
        _list(service, full, as_json)


@app.command("list")
@on_service
def list_functions(*, service: Service, full: Full = False, as_json: Json = False) -> None:
    """List all functions, newest first."""
    _list(service, full, as_json)


def _list(service: Service, full: bool, as_json: bool) -> None:
    with service.remote() as client:
        found = client.functions()
    if as_json:
        print_json([_document(function) for function in found])
        return
    rows = [
        [each.id if full else each.id[:SHORT], each.display_name, _minute(each.created), f"{each.nodes:,}", arrow(each.inputs, each.outputs)]
        for each in found
    ]
    print_table(["id", "name", "registered", "nodes", "type"], rows, right=frozenset({"nodes"}), cut=frozenset({"name", "type"}))


@app.command()
@on_service
def show(word: Which, *, service: Service, as_json: Json = False) -> None:
    """Show one function, and in which modes it can be differentiated with respect to each of its leaves."""
    with service.remote() as client:
        function = client.function(function_id(client, word))
        document, derivatives = _document(function), function.derivatives()
    if as_json:
        print_json({**document, "derivatives": _modes(derivatives)})
        return
    print_table(["", ""], [[key, ", ".join(value) if isinstance(value, list) else str(value)] for key, value in document.items()])
    rows, notes = derivatives.table()
    print()
    print_table(["leaf", "type", "forward", "reverse"], rows)
    for note in notes:
        print(note)


@app.command()
@on_service
def delete(word: Which, *, service: Service, as_json: Json = False) -> None:
    """Delete one function."""
    with service.remote() as client:
        found = function_id(client, word)
        client.delete(found)
    if as_json:
        print_json({"deleted": found})
    else:
        print(f"deleted {found}")


def _minute(created: str) -> str:
    """Returns when a function was registered without the seconds: ``2026-11-29 05:51Z``."""
    return f"{created[:10]} {created[11:16]}Z" if created else ""


def _modes(derivatives: Derivatives) -> dict[str, Any]:
    inputs = [
        {"path": leaf.path, "type": str(leaf.type), "forward": _mode(leaf.forward), "reverse": _mode(leaf.reverse)} for leaf in derivatives.inputs
    ]
    return {"inputs": inputs, "outputs": list(derivatives.outputs), "outputs_without": list(derivatives.without)}


def _mode(mode: ModeSupport) -> dict[str, Any]:
    return {"available": mode.available} if mode.available else {"available": mode.available, "reason": mode.why}


def _document(function: RemoteFunction) -> dict[str, Any]:
    return {
        "name": function.name,
        "display_name": function.display_name,
        "inputs": list(map(str, function.inputs)),
        "outputs": list(map(str, function.outputs)),
        "nodes": function.nodes,
        "created": function.created,
    }
