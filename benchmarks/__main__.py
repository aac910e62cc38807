"""Runs the benchmarks: ``python -m benchmarks [--only NAME ..] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import jacloom as jl
from benchmarks import (
    choice,
    constants,
    detections,
    first_call,
    gradients,
    growth,
    hessians,
    jacobians,
    jobs,
    loops,
    memory,
    operators,
    products,
    sparse,
    startup,
    tracing,
)
from benchmarks.measure import Report, settle

_WITH_CLIENT: dict[str, Callable[[jl.Client], Report]] = {
    "jvp-small": products.small,
    "jvp-large": products.large,
    "jacobian-product": jacobians.product,
    "jacobian-flow": jacobians.flow,
    "gradient": gradients.network,
    "operator-light": operators.light,
    "operator-scan": operators.scan,
    "operator-network": operators.network,
    "sparse-grid": sparse.grid,
    "sparse-line": sparse.line,
    "sparse-medium": sparse.medium,
    "hessian-chain": hessians.chain,
    "hessian-grid": hessians.grid,
    "hessian-medium": hessians.medium,
    "shapes": choice.choice,
}

_ALONE: dict[str, Callable[[], Report]] = {
    "startup": startup.first_result,
    "memory": memory.slow_reader,
    "memory-growth": growth.growth,
    "tracing": tracing.both_ways,
    "first-call": first_call.until_compiling,
    "constants": constants.registration,
    "loops": loops.reversed_loop,
    "detection": detections.large,
    "detection-small": detections.small,
    "memory-sparse": growth.sparse_results,
    "jobs-throughput": jobs.throughput,
    "jobs-memory": jobs.memory,
}
"""Benchmarks that need no service, or start one of their own."""


def run(names: list[str]) -> Iterator[Report]:
    """Gives the reports of the benchmarks named, each as soon as it is there."""
    yield from (_ALONE[name]() for name in _ALONE if name in names)
    chosen = [_WITH_CLIENT[name] for name in _WITH_CLIENT if name in names]
    if chosen:
        with jl.connect() as client:
            client.evaluate(lambda x: x)(0.0)
            settle()
            yield from (benchmark(client) for benchmark in chosen)


def shown(reports: Iterable[Report]) -> Iterator[Report]:
    """Prints each report's figures, and beside each goal whether it is met, and passes it on."""
    console = Console()
    for report in reports:
        table = Table(title=report.name, title_justify="left", show_header=False)
        for name, figure in report.figures.items():
            low, high = report.spread.get(name, (figure, figure))
            unit = "" if "(" in name else " ms" if max(report.figures.values()) < 5 else " s"
            scale = 1e3 if unit == " ms" else 1
            spread = f"  ({low * scale:.2f} to {high * scale:.2f})" if name in report.spread else ""
            table.add_row(name, f"{figure * scale:.2f}{unit}{spread}")
        for goal in report.goals:
            mark = "met" if goal.met else "MISSED"
            table.add_row(goal.claim, f"{goal.measured:.2f} {goal.unit} of {goal.bound:.2f}: {mark}")
        console.print(table)
        yield report


def main() -> int:
    names = [*_ALONE, *_WITH_CLIENT]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these alone")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures go (default: bench.json)")
    options = parser.parse_args()
    reports = list(shown(run(options.only)))
    options.json.write_text(
        json.dumps([{**asdict(report), "goals": [{**asdict(goal), "met": goal.met} for goal in report.goals]} for report in reports], indent=2)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
