"""Which worker processes each machine gets: a plain function from machines and settings to seats."""

from __future__ import annotations

from collections.abc import Sequence

from jacloom_server.config import Config
from jacloom_worker.launch import Node, Role, Seat


def layout(nodes: Sequence[Node], config: Config, *, pinned: bool) -> list[Seat]:
    """Returns the seats, in the order in which their processes should start: what the first call needs comes first.

    Args:
        nodes: The machines.
        config: Settings.
        pinned: Seats are tied to their machine. On a single machine there is no need.
    """
    order = {Role.CLERK: 0, Role.GPU: 1, Role.NARROW: 2, Role.WIDE: 3}
    seats = [Seat(Role.CLERK, 0, limits=config.graph_limits)]
    for node in nodes:
        seats += _on(node, config, node.id if pinned else "")
    return sorted(seats, key=lambda seat: (order[seat.role], seat.index))


def _on(node: Node, config: Config, where: str) -> list[Seat]:
    gpus = node.gpus if config.gpus is None else min(node.gpus, config.gpus)
    # A GPU outruns the cores beside it, which are then better left to feed it.
    narrow = config.workers if config.workers is not None else 0 if gpus else node.cpus
    wide = int(config.wide and node.cpus > 0)
    grant = node.memory if config.memory is None else config.memory
    # Half for the wide worker, half for the narrow ones together: either kind alone gets all.
    per_narrow = _share(grant, narrow * (1 + wide))
    per_wide = _share(grant, 2 if narrow else 1)
    limits = config.graph_limits
    return [
        *(Seat(Role.GPU, index, where, limits=limits) for index in range(gpus)),
        *(Seat(Role.NARROW, index, where, per_narrow, limits) for index in range(narrow)),
        *(Seat(Role.WIDE, index, where, per_wide, limits) for index in range(wide)),
    ]


def _share(grant: int, parts: int) -> int | None:
    """Returns one worker's part of a grant. A machine that counts no memory for tasks has said nothing of how much there is: no bound."""
    return max(1, grant // max(1, parts)) if grant else None
