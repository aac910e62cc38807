"""What the server and its workers say to each other: plain data, importable without JAX and without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from enum import Enum
from typing import Any, Final, Literal

import numpy as np

from jacloom_graph.errors import Fault, Place
from jacloom_graph.types import Tree, Type

Inner = Literal["forward", "reverse"]

NEAR: Final = 1.3
"""Prices that differ by less count as equal."""


class Kind(Enum):
    """What a kernel computes.

    The first five are single passes, JVP, VJP and HVP also those of a batch of seeds; the last three compute a tile of seeds, given by number, and
    return matrices.
    """

    VALUE = "value"
    JVP = "jvp"
    VJP = "vjp"
    GRADIENT = "gradient"
    HVP = "hvp"
    FORWARD = "forward"
    """Columns of the Jacobian. Seeds number the entries of all wrt leaves, one leaf after the other, each in C order."""
    REVERSE = "reverse"
    """Rows of the Jacobian. Seeds number the entries of all differentiated outputs in the same way."""
    HESSIAN = "hessian"
    """Columns of the second derivative: the derivative of the whole Jacobian along each seed, seeds as for FORWARD."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Identity of a compiled computation: equal kernels share one compiled program in a worker."""

    function: str
    """The function's id, 64 hex digits."""
    kind: Kind
    wrt: tuple[int, ...] = ()
    """Input leaves that are differentiated."""
    outputs: tuple[int, ...] = ()
    """Output leaves that are differentiated."""
    values: tuple[int, ...] = ()
    """Output leaves whose values are wanted too (single-pass kinds only)."""
    width: int = 0
    """Seeds per call for tile kinds, and for a JVP, VJP or HVP of a batch; 0 for a single pass."""
    holomorphic: bool = False
    inner: Inner = "reverse"
    """GRADIENT, HVP and HESSIAN: the mode of the first derivative. The last two differentiate that forward."""
    weighted: bool = False
    """HVP and HESSIAN: the one output is the sum of weights times the entries of ``outputs``; weights are arguments after the input leaves."""
    coloured: bool = False
    """Tile kinds: each seed is the sum of those that have one colour, and seeds number the colours. Of a HESSIAN there is one scalar output."""
    points: int = 0
    """Points per call, which the arguments in ``varying`` have along a further first axis, as all results do; 0 for one point without that axis."""
    varying: tuple[int, ...] = ()
    """The arguments that each of several points has of its own, by index: input leaves, and after them the seeds of single passes."""

    @property
    def batched(self) -> bool:
        """Whether it takes a batch of seeds as arrays with a first axis of length ``width``, and gives products with that axis."""
        return self.width > 0 and self.kind in (Kind.JVP, Kind.VJP, Kind.HVP)

    @property
    def seeds(self) -> int:
        """How many arrays of seeds it takes: those of single passes, one per wrt leaf or output."""
        match self.kind:
            case Kind.JVP | Kind.HVP:
                return len(self.wrt)
            case Kind.VJP:
                return len(self.outputs)
            case _:
                return 0


@dataclass(frozen=True, slots=True)
class Load:
    """A function for a worker that does not hold it yet."""

    graph: Any
    """Serialized ``Graph``: bytes, or a Ray ObjectRef of bytes."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """For each blob name in the graph, its bytes or a Ray ObjectRef of them."""
    outputs: tuple[Type, ...] | None = None
    """Types of the output leaves, where a clerk has inferred them: a worker need not evaluate the whole graph once more only for these."""


@dataclass(frozen=True, slots=True)
class Task:
    """One call of a kernel. Arrays travel beside it.

    They are one per input leaf, for a weighted kernel the weights, one per output, then the seeds (see ``Kind``); for a coloured kernel those of a
    ``Part``.
    """

    kernel: Kernel
    load: Load | None = None
    """Present where the worker may not hold the function yet."""
    point: str = ""
    """Name under which the worker may keep the arguments on its device for the next tiles; empty: do not keep them. Equal names are equal arguments
    of the same function."""
    linearize: bool = False
    """JVP, VJP and HVP: more products at this point are to come, so that what does not depend on the seeds may be kept under its name, too."""
    start: int = 0
    """First seed (tile kinds)."""
    count: int = 0
    """Seeds wanted, at most ``kernel.width``; the rest of the width is padding and is cut off before the answer. A batch comes without padding."""


@dataclass(frozen=True, slots=True)
class Done:
    """A task's answer.

    ``arrays`` in order. VALUE: ``values``. JVP: tangents of ``outputs``, then ``values``. VJP: cotangents of ``wrt``, then ``values``.
    GRADIENT and HVP: one per wrt leaf, then ``values``. Of a batch, products have a first axis of length ``count``.
    FORWARD: one ``(size_i, count)`` per output i, dtype of the output.
    REVERSE: one ``(count, size_j)`` per wrt leaf j, dtype of the leaf. HESSIAN: for each output i, for each wrt leaf j, one
    ``(size_i * size_j, count)``, dtype ``np.result_type(output i, leaf j)``. All C-contiguous; where the answer's dtype is wider, the server widens.
    A coloured kernel of any kind gives one array: the entries that these passes yield, one pass after the other, as ``Part`` has them.
    Of several points, each array has a further first axis.
    """

    arrays: tuple[np.ndarray, ...]
    seconds: float
    """Wall time of the computation alone."""
    compile_seconds: float = 0.0
    """Wall time of tracing and compiling, where this task had to."""
    repairs: int = 0
    """Of a coloured kernel: passes computed besides, because entries came out as NaN and other columns (or rows) of their colour may have made them
    so."""
    doubtful: int = 0
    """Entries of which that is still unknown: they are NaN, and were not computed alone because that would have taken too many passes."""


@dataclass(frozen=True, slots=True)
class Missing:
    """The worker does not hold the function (any more): send the task again with ``load``."""


Answer = Done | Missing | Fault


@dataclass(frozen=True, slots=True)
class Description:
    """What the clerk found out about a graph."""

    id: str
    """SHA-256 of the canonical form, 64 hex digits."""
    inputs: tuple[Type, ...]
    outputs: tuple[Type, ...]
    in_tree: Tree
    out_tree: Tree
    nodes: int
    functions: int
    expanded_nodes: int
    blobs: tuple[str, ...]
    """Names of the blobs that the graph's constants refer to."""
    loops: bool
    """Whether there are loops whose number of steps is not written down: their reverse derivative costs more than that of other functions."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The types of everything in a graph."""

    id: str
    """As ``Description.id``."""
    functions: tuple[tuple[int, tuple[Type, ...]], ...]
    """For each function that the entry reaches by calls, its index and the types of its values in order: inputs, then the results of each node."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one pass costs: estimated from the program without running it, and corrected by what tiles took."""

    flops: float
    """Floating-point operations of one pass (one seed); of one evaluation for the value itself."""
    bytes: float
    """Bytes moved by one pass."""
    peak: int
    """Bytes alive at once per seed, over and above what all seeds share."""
    shared_flops: float = 0.0
    """Operations that all seeds of a tile have in common: the function's own value, what follows from it alone, and in reverse the steps of loops
    that are taken again."""
    shared_bytes: float = 0.0
    """Bytes moved likewise."""
    shared_peak: int = 0
    """Bytes alive at once that all seeds of a tile have in common, such as what going back through a loop needs of each of its steps."""
    measured: bool = False
    """Whether it is corrected by what tiles of just these passes took."""

    def times(self, factor: float, *, measured: bool) -> Cost:
        """Returns what it costs if it takes so many times as long."""
        work = (factor * each for each in (self.flops, self.bytes, self.shared_flops, self.shared_bytes))
        flops, moved, shared_flops, shared_bytes = work
        return Cost(flops, moved, self.peak, shared_flops, shared_bytes, self.shared_peak, measured)


@dataclass(frozen=True, slots=True)
class Survey:
    """Which derivatives a function has with respect to some leaves, and their price."""

    value: Cost
    forward: Cost | Fault
    """Cost of a JVP, or why there is none."""
    reverse: Cost | Fault
    """Cost of a VJP, or why there is none."""
    second: Fault | None = None
    """Why forward mode does not go through the derivative in reverse; None where it does, or where that was not asked."""


@dataclass(frozen=True, slots=True)
class Part:
    """The passes of one mode in a coloured derivative, and the entries of the pattern that they yield."""

    mode: Inner
    colours: np.ndarray
    """Of each column, or for reverse mode each row, the number of the pass that it takes part in, or -1: ``int32``."""
    lines: np.ndarray
    """Of each entry, pass after pass, the line across: the row of one that a column gives, the column of one that a row gives. ``int32``."""
    along: np.ndarray
    """Of each entry the column, or for reverse mode the row, that gives it: ``int32``."""
    bounds: np.ndarray
    """Entries ``bounds[p]`` to ``bounds[p + 1] - 1`` come of pass ``p``: shape ``(passes + 1,)``, ``int64``."""

    @property
    def passes(self) -> int:
        """How many passes there are."""
        return len(self.bounds) - 1


@dataclass(frozen=True, slots=True)
class Weighed:
    """A colouring that was weighed."""

    strategy: str
    forward: int
    """JVPs: at least so many where it was not worth finding out."""
    reverse: int
    """VJPs, likewise."""
    exact: bool
    """Whether these are the numbers, or bounds that were enough to see that another is cheaper."""


@dataclass(frozen=True, slots=True)
class Structure:
    """The pattern of a derivative as rows of a sparse matrix, and a colouring of it."""

    shape: tuple[int, int]
    pointers: np.ndarray
    """Row ``i`` has the entries ``pointers[i]`` to ``pointers[i + 1] - 1``: shape ``(rows + 1,)``, ``int32``, or ``int64`` of very large ones."""
    indices: np.ndarray
    """The column of each entry, rising within a row: same dtype."""
    sources: np.ndarray
    """Of each entry, its place among those that the passes yield, all parts one after the other: same dtype. In a symmetric matrix two share one."""
    parts: tuple[Part, ...]
    """None of them without passes."""
    digest: str
    """SHA-256 of the above, 64 hex digits: same structure, same passes, same order of entries."""
    strategy: str
    """How it is coloured: ``"coloured forward"``, ``"coloured reverse"``, ``"bicoloured"`` or ``"star-coloured"``."""
    weighed: tuple[Weighed, ...]
    """The colourings that were considered, this one first."""
    seconds: float
    """Wall time of finding it."""
    doubt: str = ""
    """Of a Hessian that is coloured by columns: why it may be asymmetric, if symmetry would have saved passes."""

    @property
    def entries(self) -> int:
        """How many entries passes yield, over all parts."""
        return sum(len(part.lines) for part in self.parts)

    @property
    def passes(self) -> int:
        """How many passes there are."""
        return sum(part.passes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Dense:
    """The answer in place of a ``Structure``: there are so many entries that using their pattern is not worth it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Prices:
    """What one pass costs, for choosing a colouring. None where there is no such pass, or none is wanted."""

    forward: float | None
    reverse: float | None
    forward_shared: float = 0.0
    """What all forward passes have in common, however many there are."""
    reverse_shared: float = 0.0

    def near(self, other: Prices) -> bool:
        """Returns whether no price differs by more than a third: measurements wander by as much, and a colouring for one does for the other."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return all(
            one == another or (one is not None and another is not None and max(one, another) <= NEAR * min(one, another)) for one, another in pairs
        )


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether there is a derivative in one mode."""

    available: bool | None
    """None where that was not found out."""
    refusal: Fault | None = None
    """Why there is none, or why it is not known."""


@dataclass(frozen=True, slots=True)
class LeafModes:
    """In which modes all outputs that have derivatives can be differentiated with respect to one input leaf."""

    forward: Availability
    """Columns of the Jacobian."""
    reverse: Availability
    """Rows of the Jacobian."""


@dataclass(frozen=True, slots=True)
class DerivativeReport:
    """In which modes a function can be differentiated."""

    leaves: tuple[LeafModes, ...]
    """One per input leaf."""
    outputs: tuple[int, ...]
    """Output leaves that have derivatives: floating-point and complex ones."""
    traces: int
    """Derivatives that were traced to find out."""


@dataclass(frozen=True, slots=True)
class NonFinite:
    """Where a NaN or an Inf first came up: a result of a node, or where there is no ``place``, an input, a constant, or nobody knows where."""

    kind: Literal["nan", "inf"]
    count: int
    """Entries of the array that are so."""
    size: int
    """Entries of the array."""
    place: Place | None = None
    input: int | None = None
    """The input leaf that came in like this."""
    constant: int | None = None
    """The constant of the graph that is like this."""
    result: int = 0
    """Which of the node's results it is."""
    iterations: tuple[int, ...] = ()
    """How often each loop around the node had gone round before, the outermost loop first."""
    operands: tuple[tuple[float, float] | None, ...] = ()
    """Least and greatest finite entry of each of the node's operands, of complex ones by absolute value; None where there is no such number."""
    cause: NonFinite | None = None
    """For a NaN that was made of an Inf: where that came from."""
    calls: tuple[Place, ...] = ()
    """The nodes that lead to the place from the entry, the outermost first. Of a constant the last is the node that uses it, or whose function
    returns it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether derivatives in one mode are finite."""

    finite: bool | None = None
    """None where there are none, or nothing was differentiated."""
    leaves: tuple[int, ...] = ()
    """Where they are not finite: output leaves forward, input leaves in reverse."""
    refusal: Fault | None = None
    """Why there are none."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found wrong with a function at a point. What is finite in the end is in order, whatever happened on the way."""

    value: NonFinite | None
    """The origin of what is not finite in the outputs; None if all is."""
    derivative: NonFinite | None
    """The same of the derivative, forward if that is not finite, else in reverse. The value's own origin where that is the reason."""
    forward: Verdict
    """One JVP along a fixed dense direction."""
    reverse: Verdict
    """One VJP of fixed dense cotangents."""
    unused: tuple[int, ...]
    """Input leaves that no output depends on."""
    constant: tuple[int, ...]
    """Differentiated leaves that outputs depend on, but none of them with a derivative."""
    unwatched: tuple[Place, int] | None = None
    """The first loop that was not watched to its end, and the iterations of it that were."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What an actor says of itself when it starts; the pool refuses one that does not fit the server."""

    protocol: int
    """``PROTOCOL`` of the worker's installation."""
    opset: int
    jax: str
    node: str
    """Ray node id."""
    pid: int
    platform: str
    """What it computes on, ``"cpu"`` or ``"gpu"``."""
    device: str
    """The device in words."""


PROTOCOL = 10
"""Version of this module's messages; server and workers must agree."""
