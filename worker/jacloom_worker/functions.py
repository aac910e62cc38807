"""Functions in a worker: from the bytes of a graph to something that can be differentiated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jacloom_graph import tensor, wire
from jacloom_graph.check import Census, check
from jacloom_graph.limits import DEFAULT, Limits
from jacloom_graph.types import Constant, Graph, Type, VjpRule
from jacloom_worker.infer import output_types
from jacloom_worker.kernels import Subject
from jacloom_worker.outline import Outline
from jacloom_worker.protocol import Load
from jacloom_worker.raising import Program

MOST_BYTES = 1 << 36
"""Size of one value above which a function is refused where the memory of the workers is not known."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A graph that was checked and whose every type was inferred, without the elements of its uploaded constants."""

    graph: Graph
    census: Census
    subject: Subject
    """Can be traced, not computed: its constants are placeholders."""

    @property
    def blobs(self) -> tuple[str, ...]:
        """Names of the blobs that the graph's constants refer to, each once."""
        return tuple(dict.fromkeys(constant.blob for constant in self.graph.constants if constant.blob))

    @property
    def loops(self) -> bool:
        """Whether there are loops of unknown length."""
        return self.subject.reversible is not None


def load(source: Load, limits: Limits = DEFAULT, most_bytes: int = MOST_BYTES) -> tuple[Subject, int]:
    """Returns a function ready to be compiled, and the bytes that its constants hold.

    The graph is not checked again: the clerk that named it has done so.

    Args:
        source: The graph's bytes, the bytes of every blob that it refers to, and the types of its outputs where they are known.
        limits: Bounds on the graph.
        most_bytes: Greatest size of any one value.

    Raises:
        Fault: BLOB_NOT_FOUND if a blob is missing; and what reading and inferring the graph finds wrong.
    """
    made = program(source, limits, most_bytes)
    # On a CPU this is a view of the blob where its alignment allows; JAX keeps the blob's memory for as long as it looks at it.
    constants = tuple(jax.device_put(constant) for constant in made.large)
    subject = _subject(made, made if source.outputs is None else source.outputs, constants)
    return subject, sum(constant.nbytes for constant in constants) + len(source.graph)


def program(source: Load, limits: Limits = DEFAULT, most_bytes: int = MOST_BYTES) -> Program:
    """Returns a function ready to be evaluated; arguments and faults as for ``load``."""
    return Program(wire.from_bytes(source.graph, limits), source.constants, most_bytes)


def draft(source: Load, limits: Limits = DEFAULT, most_bytes: int = MOST_BYTES) -> Blueprint:
    """Returns a function that can be asked about, but not run. Blobs need not be there.

    Raises:
        Fault: What is wrong with the graph: its form, a reference, an attribute, a type, a size; with the place.
    """
    graph = wire.from_bytes(source.graph, limits)
    census = check(graph, limits)
    program = Program(hollow(graph), {}, most_bytes)
    subject = _subject(program, Outline(program.graph, {}, most_bytes), program.large)
    return Blueprint(graph, census, subject)


def hollow(graph: Graph) -> Graph:
    """Returns a graph that a ``Program`` can be made of without its blobs, to be traced and not computed."""
    return replace(graph, constants=tuple(map(_placeholder, graph.constants)))


def _subject(program: Program, outputs: Program | tuple[Type, ...], constants: tuple[Any, ...]) -> Subject:
    """Returns a program to be differentiated, with the types of its outputs, or those of another whose outputs have the same types."""
    if isinstance(outputs, Program):
        outputs = output_types(outputs.apply, outputs.inputs, outputs.large)
    loops = any(node.op == "while" for function in program.graph.functions for node in function.nodes)
    reverse_rules = any(isinstance(rule.derivative, VjpRule) for rule in program.graph.rules)
    reversible = partial(program.apply, reverse=True) if loops else None
    return Subject(program.apply, program.inputs, outputs, constants, reversible, reverse_rules)


def _placeholder(constant: Constant) -> Constant:
    """Returns a constant with elements: zeros that take no memory where only a blob has them."""
    if constant.data is not None:
        return constant
    dtype, shape = tensor.storage(constant.type)
    return replace(constant, data=np.broadcast_to(np.zeros((), dtype), shape))
