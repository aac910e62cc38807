"""``jacloom demo``: real problems through a real service, each checked against the same derivative computed here."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jacloom._errors import MissingExtraError
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service
from jacloom.demo import NAMES

if TYPE_CHECKING:
    from jacloom.demo.measure import Outcome

_NAMES = f"Problems to run, all unless given: {', '.join(NAMES)}."
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help=_NAMES, show_default=False)]


@on_service
def demo(names: Names = None, *, service: Service, as_json: Json = False) -> None:
    """Compute real derivatives on a local service, or on the one at the address, and check each."""
    if find_spec("jax") is None:
        raise MissingExtraError('the demo traces its problems with JAX, which is not installed: pip install "jacloom[server]"')
    unknown = [name for name in names or () if name not in NAMES]
    if unknown:
        raise typer.BadParameter(f"no problem {unknown[0]!r}; there are {', '.join(NAMES)}")
    # Connecting starts a local service, which takes a while: JAX is imported meanwhile.
    with service.connect() as client:
        from jacloom.demo.catalogue import problems
        from jacloom.demo.measure import measure

        chosen = [problem for problem in problems() if not names or problem.name in names]
        console = Console(quiet=as_json)
        outcomes = []
        for problem in chosen:
            outcome = measure(client, problem)
            outcomes.append(outcome)
            show(console, outcome)
        right = sum(outcome.ok for outcome in outcomes)
        console.print(f"\n{right} of {len(outcomes)} derivatives agree with JAX on this machine and were computed the way they should be.")
    if as_json:
        print_json({"ok": right == len(outcomes), "problems": [asdict(outcome) for outcome in outcomes]})
    if right < len(outcomes):
        raise typer.Exit(1)


def show(console: Console, outcome: Outcome) -> None:
    """Prints what came back for one problem."""
    mark = "[green]✓[/]" if outcome.ok else "[red]✗[/]"
    shapes = ", ".join("x".join(map(str, shape)) or "scalar" for shape in outcome.shapes)
    console.print(f"\n{mark} [bold]{outcome.name}[/]: {outcome.about}", highlight=False)
    console.print(
        f"  {shapes} · {outcome.strategy} · {_counted(outcome.passes, 'pass', 'passes')} in {_counted(outcome.tiles, 'tile')}"
        f" on {_counted(outcome.workers, 'worker')}",
        highlight=False,
    )
    console.print(
        f"  first {_seconds(outcome.first_seconds)}, again {_seconds(outcome.again_seconds)} · differs from JAX by {outcome.error:.1e}",
        highlight=False,
    )


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
