"""``jacloom fetch``: results of a job as files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import typer

from jacloom._errors import OptionError
from jacloom.cli.job import Which, job_of
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service

_SLICE: Final = re.compile(r"(-?\d*):(-?\d*)", re.ASCII)

Target = Annotated[Path, typer.Argument(metavar="PATH", help="A .npy file for one array, or a folder for all of them.", show_default=False)]
Points = Annotated[str, typer.Option("--points", metavar="A:B", help="Points from A up to, but without, B; as slices in Python.")]
Array = Annotated[str | None, typer.Option("--array", metavar="NAME", help="One array, such as jacobian, value or status.", show_default=False)]


@on_service
def fetch(word: Which, path: Target, *, points: Points = ":", array: Array = None, service: Service, as_json: Json = False) -> None:
    """Write a job's results as .npy files, also of one that still runs: the points must be finished."""
    wanted = _points(points)
    with service.remote() as client:
        job = job_of(client, word)
        written = job.fetch(path, wanted, array)
    if as_json:
        print_json({"name": job.name, "files": {name: str(file) for name, file in written.items()}})
        return
    for name, file in written.items():
        print(f"{name}: {file}")


def _points(text: str) -> slice:
    found = _SLICE.fullmatch(text)
    if found is None or "-" in found.groups():
        raise OptionError(f"`--points {text}`: expected two numbers with a colon between them, such as 0:100, 100: or :-1.")
    return slice(*(int(number) if number else None for number in found.groups()))
