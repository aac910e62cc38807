"""``jacloom serve``, or ``python -m jacloom_server``: the command line of the server. Loads neither Ray nor gRPC before it knows its settings."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jacloom_server import environment
from jacloom_server.config import Config, ConfigError, from_mapping, read
from jacloom_server.supervise import MISTAKE, supervise


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server as the command line says and returns the exit code: 0 after an orderly stop, 2 for settings that cannot work."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = vars(_parser().parse_args(given))
    log, parent, alone, file = (flags.pop(name) for name in ("log", "parent", "no_supervise", "config"))
    logging.basicConfig(level=log.upper(), format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr)
    try:
        config = from_mapping((read(file) if file else {}) | {name: value for name, value in flags.items() if value is not None})
        if not (parent or alone):
            return supervise(given)
        return _serve(config, parent)
    except ConfigError as error:
        print(f"jacloom serve: {error}", file=sys.stderr)
        return MISTAKE


def _serve(config: Config, parent: bool) -> int:
    environment.prepare(local=config.ray_address is None)
    from jacloom_server.serve import serve

    return serve(config, parent=parent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jacloom serve",
        description="Serves derivatives over gRPC, computed by workers on a Ray cluster. Without flags: on this machine, for this machine.",
        epilog="Every setting can also be given in a TOML file, by the name of its flag with underscores; flags win. Further settings, for the "
        "file only, are described in jacloom_server/config.py.",
    )
    own: dict[str, Any] = {"default": None}
    group = parser.add_argument_group("where")
    group.add_argument("--address", metavar="HOST:PORT", help="listen here (default 127.0.0.1:50051; port 0 takes a free one)", **own)
    group.add_argument("--ray-address", metavar="HOST:PORT", help="join this Ray cluster (default: a Ray of our own on this machine)", **own)
    group.add_argument("--data", metavar="FOLDER", type=Path, help="keep registered functions and jobs here over restarts", **own)
    results = "put the results of jobs here; workers on other machines must see the same folder (default: results, in the folder of --data)"
    group.add_argument("--results", metavar="FOLDER", type=Path, help=results, **own)
    group = parser.add_argument_group("workers")
    group.add_argument("--workers", metavar="N", type=int, help="one-thread workers (default: one per core, none beside GPUs)", **own)
    group.add_argument("--wide", action=argparse.BooleanOptionalAction, help="a worker with all threads for single passes (default: yes)", **own)
    group.add_argument("--gpus", metavar="N", type=int, help="GPUs to use (default: all)", **own)
    memory = "memory for the workers of one node, such as 8G (default: what Ray counts as free)"
    group.add_argument("--memory", metavar="BYTES", type=_size, help=memory, **own)
    group.add_argument("--object-store", metavar="BYTES", type=_size, help="shared memory for arrays in transit (default: Ray's choice)", **own)
    group = parser.add_argument_group("who may use it")
    group.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate chain, PEM", **own)
    group.add_argument("--tls-key", metavar="FILE", type=Path, help="its private key, PEM", **own)
    group.add_argument("--token-file", metavar="FILE", type=Path, help="accepted bearer tokens, one a line", **own)
    group.add_argument("--insecure", action="store_true", help="allow an address beyond this machine without TLS or tokens", **own)
    group = parser.add_argument_group("limits")
    group.add_argument("--calls", metavar="N", type=int, help="calls under way at once (default 256)", **own)
    group.add_argument("--blob-bytes", metavar="BYTES", type=_size, help="all uploaded arrays together (default 8G)", **own)
    group.add_argument("--tile-lease", metavar="SECONDS", type=float, help="longest time for one tile or single pass (default 900)", **own)
    group.add_argument("--drain", metavar="SECONDS", type=float, help="time to finish calls after SIGTERM (default 30)", **own)
    group = parser.add_argument_group("running")
    group.add_argument("--config", metavar="FILE", type=Path, help="settings as TOML")
    group.add_argument("--log", choices=("debug", "info", "warning", "error"), default="info", help="what to log to standard error (default info)")
    group.add_argument("--no-supervise", action="store_true", help="run the server in this process; do not start it again when it fails")
    group.add_argument(
        "--parent", action="store_true", help="for programs: print one line of JSON when ready, and stop when standard input ends; not supervised"
    )
    return parser


def _size(text: str) -> int:
    """Returns a number of bytes from ``"1048576"``, ``"512M"`` or ``"8G"``, in powers of 1024."""
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    digits, shift = (text[:-1], units[text[-1].upper()]) if text and text[-1].upper() in units else (text, 0)
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes; write 1048576, 512M or 8G")
    return int(digits) << shift


if __name__ == "__main__":
    sys.exit(main())
