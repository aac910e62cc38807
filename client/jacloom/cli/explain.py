"""``jacloom explain``: how a derivative of a function would be computed, and why so."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from jacloom._errors import JacloomError, OptionError
from jacloom._plan import Plan
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service
from jacloom.cli.which import Which, function_id

_NUMBERS: Final = re.compile(r"-?\d+(,-?\d+)*")

Derivative = Annotated[str, typer.Option("--derivative", metavar="KIND", help="jacobian, or hessian.")]
Argnums = Annotated[str, typer.Option("--argnums", metavar="N[,N]", help="Arguments to differentiate, by number: args[0] is 0.")]
HasAux = Annotated[bool, typer.Option("--has-aux", help="The function returns (out, aux): only out is differentiated.")]
Mode = Annotated[str, typer.Option("--mode", metavar="MODE", help="auto, or forward or reverse, of a Jacobian.")]
Sparsity = Annotated[str, typer.Option("--sparsity", metavar="WORD", help="auto, or dense to use no pattern.")]
Output = Annotated[str, typer.Option("--output", metavar="FORMAT", help="dense, or csr, csc or coo for a sparse array.")]
Holomorphic = Annotated[bool, typer.Option("--holomorphic", help="Complex inputs and outputs are those of a holomorphic function.")]
Weighted = Annotated[
    bool, typer.Option("--weighted", help="The Hessian is that of a weighted sum of all outputs; plans are the same for all weights.")
]
Spy = Annotated[
    Path | None,
    typer.Option("--spy", metavar="FILE", help="Draw the pattern as this PNG, entries that one pass yields in one colour.", show_default=False),
]


@on_service
def explain(
    word: Which,
    derivative: Derivative = "jacobian",
    argnums: Argnums = "0",
    has_aux: HasAux = False,
    mode: Mode = "auto",
    sparsity: Sparsity = "auto",
    output: Output = "dense",
    holomorphic: Holomorphic = False,
    weighted: Weighted = False,
    spy: Spy = None,
    *,
    service: Service,
    as_json: Json = False,
) -> None:
    """Show how a derivative of a function would be computed, what else was considered, and its pattern. Nothing is computed."""
    options: dict[str, Any] = {
        "derivative": derivative,
        "argnums": _argnums(argnums),
        "has_aux": has_aux,
        "mode": mode,
        "sparsity": sparsity,
        "output": output,
        "holomorphic": holomorphic,
        # That there are any is all that a plan depends on.
        "weights": True if weighted else None,
    }
    with service.remote() as client:
        found = function_id(client, word)
        plan = client.explain(found, **options)
        if spy is not None:
            _draw(plan, spy)
    if as_json:
        print_json(_document(found, derivative, plan, spy))
        return
    print(plan)
    if spy is not None:
        print(f"pattern drawn to {spy}")


def _argnums(text: str) -> int | tuple[int, ...]:
    if not _NUMBERS.fullmatch(text):
        raise OptionError(f"`--argnums {text}`: expected the numbers of arguments with commas between them, such as 0 or 0,2.")
    numbers = tuple(map(int, text.split(",")))
    return numbers[0] if len(numbers) == 1 else numbers


def _draw(plan: Plan, path: Path) -> None:
    try:
        plan.spy(path)
    except JacloomError:
        raise  # some of them are OSErrors, too
    except OSError as error:
        raise OptionError(f"`--spy {path}`: the file cannot be written: {error.strerror or error}.") from None


def _document(found: str, derivative: str, plan: Plan, spy: Path | None) -> dict[str, Any]:
    return {
        "function": f"functions/{found}",
        "derivative": derivative,
        "strategy": plan.strategy,
        "passes": plan.passes,
        "forward": plan.forward,
        "tile": plan.tile,
        "tiles": plan.tiles,
        "workers": plan.workers,
        "nbytes": plan.nbytes,
        "seconds": plan.seconds,
        "considered": [asdict(option) for option in plan.considered],
        "spy": None if spy is None else str(spy),
    }
