"""``jacloom submit``: a function's derivatives at many points, computed by a service on its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from jacloom._errors import ArgumentError, OptionError
from jacloom._function import Function, load
from jacloom.cli.job import document, line
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service
from jacloom.cli.span import span
from jacloom.cli.watch import follow

File = Annotated[Path, typer.Argument(metavar="FILE.jacloom", help="The function, as Function.save writes it.", show_default=False)]
Points = Annotated[Path, typer.Argument(metavar="POINTS", help="A .npy or .npz file, or the folder of a Zarr store.", show_default=False)]
Derivative = Annotated[str, typer.Option("--derivative", metavar="KIND", help="jacobian, gradient, hessian, value, jvp or vjp.")]
Seeds = Annotated[Path | None, typer.Option("--seeds", metavar="SEEDS", help="One for each point, for jvp and vjp; as POINTS.", show_default=False)]
Mode = Annotated[str, typer.Option("--mode", metavar="MODE", help="auto, or forward or reverse, of a Jacobian.")]
Sparsity = Annotated[str, typer.Option("--sparsity", metavar="WORD", help="auto, or dense to use no pattern.")]
Out = Annotated[str | None, typer.Option("--out", metavar="PATH", help="Where the results go, below the service's folder.", show_default="jobs/ID")]
Name = Annotated[str | None, typer.Option("--name", help="For people.", show_default="FILE")]
Priority = Annotated[int, typer.Option("--priority", metavar="N", help="From -100 to 100; jobs with a higher one go first.")]
_DEADLINE = "When it is stopped: a time from now such as 90s, 30m, 8h or 2d, or a moment such as 2026-12-01T08:00."
Deadline = Annotated[str | None, typer.Option("--deadline", metavar="TIME", help=_DEADLINE, show_default="never")]
Ttl = Annotated[str | None, typer.Option("--ttl", metavar="TIME", help="How long results are kept, such as 12h or 30d.", show_default="for ever")]
RequestId = Annotated[str | None, typer.Option("--request-id", help="Submitting again with the same one makes no second job.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for its end, as `jacloom watch` does.")]


@on_service
def submit(
    file: File,
    points: Points,
    *,
    derivative: Derivative = "jacobian",
    seeds: Seeds = None,
    mode: Mode = "auto",
    sparsity: Sparsity = "auto",
    out: Out = None,
    name: Name = None,
    priority: Priority = 0,
    deadline: Deadline = None,
    ttl: Ttl = None,
    request_id: RequestId = None,
    wait: Wait = False,
    service: Service,
    as_json: Json = False,
) -> None:
    """Have derivatives of a function computed at many points. The job goes on when this command has ended.

    Ends with status 0 once the job is stored, or with --wait once all points are done; then 3 if it ended otherwise. 1 after an error.
    """
    function = _function(file)
    options: dict[str, Any] = {
        "derivative": derivative,
        "seeds": seeds,
        "mode": mode,
        "sparsity": _sparsity(sparsity),
        "out": out,
        "name": name or file.stem,
        "priority": priority,
        "deadline": _given(deadline, _deadline),
        "ttl": _given(ttl, lambda text: span("--ttl", text)),
        "request_id": request_id,
    }
    with service.remote() as client:
        job = client.submit(function, points, **options)
        if wait:
            follow(job, as_json)
            return
    if as_json:
        print_json(document(job))
    else:
        print(line(job))


def _function(file: Path) -> Function:
    try:
        return load(file)
    except OSError as error:
        raise ArgumentError(f"{file}: the function cannot be read: {error.strerror or error}; write it with jl.trace(f, point).save(path)") from None


def _sparsity(word: str) -> str:
    if word not in ("auto", "dense"):
        raise OptionError(f"`--sparsity {word}`: expected auto or dense; a pattern can be given by client.submit(..., sparsity=pattern).")
    return word


def _given(text: str | None, read: Callable[[str], Any]) -> Any:
    return None if text is None else read(text)


def _deadline(text: str) -> timedelta | datetime:
    try:
        return datetime.fromisoformat(text) if "-" in text else span("--deadline", text)
    except ValueError:
        raise OptionError(
            f"`--deadline {text}`: expected a time from now such as 90s, 30m, 8h or 2d, or a moment such as 2026-12-01T08:00."
        ) from None
