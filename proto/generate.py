"""Regenerates the committed protobuf and gRPC stubs; ``--check`` fails where they differ from the ``.proto`` files."""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("jacloom_api/v1")
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
SCRIPTS = Path(sys.executable).parent
"""Where mypy-protobuf's plugins are; protoc itself would look for them on PATH only."""


def generate(out: Path) -> list[Path]:
    """Writes the stubs of every ``.proto`` file below ``out`` and returns their paths relative to it.

    Args:
        out: An existing folder.

    Raises:
        SystemExit: if ``protoc`` refuses a file; its own message is on standard error.
    """
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).glob("*.proto"))
    services = [name for name in sources if name.endswith("_service.proto")]
    plugins = [f"--plugin=protoc-gen-{name}={SCRIPTS / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    common = ["protoc", f"-I{ROOT}", f"-I{WELL_KNOWN}", *plugins]
    for arguments in (
        [*common, f"--python_out={out}", f"--mypy_out=quiet:{out}", *sources],
        [*common, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *services],
    ):
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc refused the .proto files; see its message above")
    return sorted(path.relative_to(out) for path in (out / PACKAGE).iterdir() if "_pb2" in path.name)


def drift(fresh: Path, names: list[Path]) -> list[Path]:
    """Returns the stubs that are missing, differ from ``fresh``, or have no ``.proto`` any more."""
    committed = {path.relative_to(ROOT) for path in (ROOT / PACKAGE).iterdir() if "_pb2" in path.name}
    changed = [name for name in names if name not in committed or not filecmp.cmp(fresh / name, ROOT / name, shallow=False)]
    return sorted({*changed, *(committed - set(names))})


def main() -> int:
    """Returns the exit status of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a committed stub is out of date")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        stale = drift(fresh, generate(fresh))
    for name in stale:
        print(f"{name}: out of date; run python proto/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
