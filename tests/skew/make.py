"""Traces the catalogue with the installed JAX and writes what is not there yet into the folder of its version.

    python tests/skew/make.py

What a version has once written is never written again: that old files still run is what they are kept for.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from skew.catalogue import CASES
from skew.recording import record, save, trace

GRAPHS = Path(__file__).resolve().parent / "graphs"


def main() -> None:
    """Writes a graph and a recording for each case, and says which are new."""
    folder = GRAPHS / f"jax-{jax.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        graph, numbers = folder / f"{name}.jacloom", folder / f"{name}.npz"
        if graph.exists() and numbers.exists():
            continue
        function = trace(case)
        save(record(case, function), numbers)
        function.save(graph)
        print(f"{folder.name}/{name}: {function.id[:12]}, {graph.stat().st_size + numbers.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
