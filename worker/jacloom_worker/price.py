"""What a program costs, read off its jaxpr without compiling or running it.

The walk separates what depends on the seeds from what does not: in a tile the former is done once per seed, the latter once. It is the
abstract interpretation that ``vmap`` performs, with one bit per value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxprs_in_params

from jacloom_worker.flops import LOOPS, flops, nbytes, size
from jacloom_worker.modes import scan_counts
from jacloom_worker.protocol import Cost

LOOP_GUESS = 20
"""Iterations assumed for a ``while`` loop, whose number nobody knows before it runs: about what Newton and bisection take."""


@dataclass(slots=True)
class Tally:
    """Sums over a jaxpr."""

    shared_flops: float = 0.0
    shared_bytes: float = 0.0
    seed_flops: float = 0.0
    seed_bytes: float = 0.0
    seed_peak: int = 0
    """Most bytes alive at once among values that depend on the seed."""
    shared_peak: int = 0
    """The same among those that do not, inputs left out."""

    def add(self, other: Tally, times: float = 1.0) -> None:
        """Adds the work of a part that runs ``times`` times. Peaks are not sums: the caller places them."""
        self.shared_flops += times * other.shared_flops
        self.shared_bytes += times * other.shared_bytes
        self.seed_flops += times * other.seed_flops
        self.seed_bytes += times * other.seed_bytes

    @property
    def cost(self) -> Cost:
        """What one seed costs, and what all seeds share."""
        return Cost(self.seed_flops, self.seed_bytes, self.seed_peak, self.shared_flops, self.shared_bytes, self.shared_peak)


def price(jaxpr: Jaxpr, varying: Sequence[bool]) -> Tally:
    """Returns what a jaxpr costs, apart for each seed and for all of them together.

    Args:
        jaxpr: The program of one pass, without dead code.
        varying: For each input, whether it depends on the seed. With all True the sums for the seed are those of the whole program.
    """
    return _Walk().tally(jaxpr, tuple(varying))[0]


class _Walk:
    """One walk over a jaxpr and, recursively, those in its equations. Bodies that occur again are looked up."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[bool, ...]], tuple[Tally, tuple[bool, ...]]] = {}

    def tally(self, jaxpr: Jaxpr, varying: tuple[bool, ...]) -> tuple[Tally, tuple[bool, ...]]:
        """Returns the sums, and which outputs vary."""
        key = (id(jaxpr), varying)
        if key not in self._known:
            self._known[key] = self._tally(jaxpr, varying)
        return self._known[key]

    def _tally(self, jaxpr: Jaxpr, varying: tuple[bool, ...]) -> tuple[Tally, tuple[bool, ...]]:
        varies = {variable for variable, flag in zip(jaxpr.invars, varying, strict=True) if flag}
        last = _last_uses(jaxpr)
        alone = _used_once(jaxpr)
        pending: dict[Var, Tally] = {}
        """What is computed for one operation alone, element by element. XLA does so within that operation, and if that varies, then for each seed
        again: measured, ``cos(y) * t`` takes 11 ns for each element of each ``t``, as if there were nothing to share."""
        total = Tally()
        alive, shared = sum(nbytes(variable) for variable in varies), 0
        total.seed_peak = alive
        made: set[Var] = set()
        """What does not vary, and is no input."""
        for index, eqn in enumerate(jaxpr.eqns):
            flags = tuple(not isinstance(operand, Literal) and operand in varies for operand in eqn.invars)
            part, results = self._equation(eqn, flags)
            if is_elementwise(eqn):
                for operand in eqn.invars:
                    part.add(pending.pop(operand, Tally()) if isinstance(operand, Var) else Tally())
                if any(flags):
                    part.seed_flops, part.shared_flops = part.seed_flops + part.shared_flops, 0.0
                elif eqn.outvars[0] in alone:
                    pending[eqn.outvars[0]], part = part, Tally()
            total.add(part)
            total.seed_peak, total.shared_peak = max(total.seed_peak, alive + part.seed_peak), max(total.shared_peak, shared + part.shared_peak)
            for variable, flag in zip(eqn.outvars, results, strict=True):
                (varies if flag else made).add(variable)
                size = nbytes(variable) if variable in last else 0
                alive, shared = (alive + size, shared) if flag else (alive, shared + size)
            total.seed_peak, total.shared_peak = max(total.seed_peak, alive), max(total.shared_peak, shared)
            dying = {operand for operand in eqn.invars if not isinstance(operand, Literal) and last.get(operand) == index}
            alive -= sum(nbytes(variable) for variable in dying if variable in varies)
            shared -= sum(nbytes(variable) for variable in dying if variable in made)
        for each in pending.values():
            total.add(each)
        return total, tuple(not isinstance(atom, Literal) and atom in varies for atom in jaxpr.outvars)

    def _equation(self, eqn: JaxprEqn, flags: tuple[bool, ...]) -> tuple[Tally, tuple[bool, ...]]:
        """Returns the sums of one equation, its peak over and above its operands, and which results vary."""
        match eqn.primitive.name:
            case "scan":
                return self._scan(eqn, flags)
            case "while":
                return self._while(eqn, flags)
            case "cond":
                return self._cond(eqn, flags)
            case "custom_linear_solve":
                return self._linear_solve(eqn, flags)
        bodies = list(jaxprs_in_params(eqn.params))
        if len(bodies) == 1 and len(bodies[0].invars) == len(flags) and len(bodies[0].outvars) == len(eqn.outvars):
            body, results = self.tally(bodies[0], flags)  # a call: jit, checkpoint, a custom rule's function
            return _inside(body, eqn, flags), results
        return self._operation(eqn, flags, bodies)

    def _operation(self, eqn: JaxprEqn, flags: tuple[bool, ...], bodies: list[Jaxpr]) -> tuple[Tally, tuple[bool, ...]]:
        """Sums of one operation. Combiners (of a reduction, a scatter) are a few operations, which ``flops.flops`` counts by elements."""
        varies = any(flags)
        operations = flops(eqn) * max([1, *(len(body.eqns) for body in bodies)])
        written = sum(nbytes(variable) for variable in eqn.outvars)
        total = Tally()
        # Elementwise chains are fused, so what an operation reads was mostly just written: results count, and the operands of what does not fuse.
        read = 0 if is_elementwise(eqn) else 1
        total.shared_bytes = read * sum(nbytes(operand) for operand, flag in zip(eqn.invars, flags, strict=True) if not flag)
        total.seed_bytes = read * sum(nbytes(operand) for operand, flag in zip(eqn.invars, flags, strict=True) if flag)
        if varies:
            total.seed_flops, total.seed_bytes = operations, total.seed_bytes + written
        else:
            total.shared_flops, total.shared_bytes = operations, total.shared_bytes + written
        return total, (varies,) * len(eqn.outvars)

    def _scan(self, eqn: JaxprEqn, flags: tuple[bool, ...]) -> tuple[Tally, tuple[bool, ...]]:
        params = eqn.params
        constants, carries = scan_counts(params)
        body, results = self._loop(_open(params["jaxpr"]), flags, constants, constants + carries, carries)
        total = Tally(seed_peak=body.seed_peak, shared_peak=body.shared_peak)
        total.add(body, times=params["length"])
        return total, results

    def _while(self, eqn: JaxprEqn, flags: tuple[bool, ...]) -> tuple[Tally, tuple[bool, ...]]:
        params = eqn.params
        of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
        carries = len(flags) - of_cond - of_body
        cond, body = _open(params["cond_jaxpr"]), _open(params["body_jaxpr"])
        # A predicate that depends on the seed makes every carry depend on it, because the loop then ends at a different time for each.
        state = flags[of_cond + of_body :]
        while True:
            stepped, results = self._loop(body, flags[of_cond : of_cond + of_body] + state, of_body, of_body + carries, carries)
            tested, (going,) = self.tally(cond, flags[:of_cond] + results)
            if not going or all(results):
                break
            state = (True,) * carries
        total = Tally(seed_peak=max(stepped.seed_peak, tested.seed_peak), shared_peak=max(stepped.shared_peak, tested.shared_peak))
        total.add(stepped, times=LOOP_GUESS)
        total.add(tested, times=LOOP_GUESS)
        return total, results

    def _loop(self, body: Jaxpr, flags: tuple[bool, ...], first: int, last: int, carries: int) -> tuple[Tally, tuple[bool, ...]]:
        """Returns the sums of a loop's body once, its carries (inputs ``first .. last - 1``) varying as they do after enough iterations."""
        while True:
            total, results = self.tally(body, flags)
            carried = tuple(before or after for before, after in zip(flags[first:last], results[:carries], strict=True))
            if carried == flags[first:last]:
                return total, carried + results[carries:]
            flags = flags[:first] + carried + flags[last:]

    def _cond(self, eqn: JaxprEqn, flags: tuple[bool, ...]) -> tuple[Tally, tuple[bool, ...]]:
        parts = [self.tally(_open(branch), flags[1:]) for branch in eqn.params["branches"]]
        results = tuple(flags[0] or any(column) for column in zip(*(found for _, found in parts), strict=True))
        total = Tally(seed_peak=max(part.seed_peak for part, _ in parts), shared_peak=max(part.shared_peak for part, _ in parts))
        if flags[0]:
            # Seeds that choose for themselves have all branches computed and one selected.
            for part, _ in parts:
                total.add(part)
        else:
            total.add(max((part for part, _ in parts), key=lambda part: part.seed_flops + part.shared_flops))
        return total, results or (flags[0],) * len(eqn.outvars)

    def _linear_solve(self, eqn: JaxprEqn, flags: tuple[bool, ...]) -> tuple[Tally, tuple[bool, ...]]:
        lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
        before = lengths.matvec + lengths.vecmat
        constants, right_hand_sides = flags[before : before + lengths.solve], flags[sum(lengths) :]
        total, results = self.tally(_open(jaxprs.solve), constants + right_hand_sides)
        return _inside(total, eqn, flags), results


def _inside(body: Tally, eqn: JaxprEqn, flags: tuple[bool, ...]) -> Tally:
    """Returns a callee's sums with its peak counted over and above its operands, which the caller holds already."""
    operands = {operand for operand, flag in zip(eqn.invars, flags, strict=True) if flag}
    peak = max(0, body.seed_peak - sum(nbytes(operand) for operand in operands))
    return Tally(body.shared_flops, body.shared_bytes, body.seed_flops, body.seed_bytes, peak, body.shared_peak)


def _last_uses(jaxpr: Jaxpr) -> dict[Var, int]:
    """Returns for each variable the last equation that reads it; one beyond the end for outputs."""
    last = {operand: index for index, eqn in enumerate(jaxpr.eqns) for operand in eqn.invars if not isinstance(operand, Literal)}
    last.update((atom, len(jaxpr.eqns)) for atom in jaxpr.outvars if not isinstance(atom, Literal))
    return last


def _used_once(jaxpr: Jaxpr) -> set[Var]:
    """Returns the variables that one equation reads, and no result is."""
    counts = Counter(operand for eqn in jaxpr.eqns for operand in eqn.invars if not isinstance(operand, Literal))
    results = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    return {variable for variable, count in counts.items() if count == 1 and variable not in results}


def is_elementwise(eqn: JaxprEqn) -> bool:
    """Whether XLA computes an operation in one loop with its neighbours: one result, no larger in sum than what it reads, element by element."""
    name = eqn.primitive.name
    if (
        not eqn.outvars
        or any(True for _ in jaxprs_in_params(eqn.params))
        or name in LOOPS
        or name in ("gather", "dynamic_update_slice", "concatenate", "dot_general")
        or name.startswith(("scatter", "reduce", "cum", "sort", "conv_"))
    ):
        return False
    return all(size(operand) in (1, size(eqn.outvars[0])) for operand in eqn.invars)


def _open(jaxpr: Jaxpr | ClosedJaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
