"""What a diagnosis and a check are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jacloom._binding import Binding
from jacloom._question import Question
from jacloom._signature import inexact
from jacloom._transform import differentiated
from jacloom_graph.answer import Selection


@dataclass(frozen=True, slots=True)
class Examination(Question):
    """A question about a function's derivatives as such. No arrays come back."""

    operands: ClassVar = ("...",)
    argnums: int | tuple[int, ...] | None = None
    """None: every positional argument, as far as it has derivatives."""

    def chosen(self, binding: Binding) -> Selection:
        signature = binding.signature
        if self.argnums is None:
            slots = [binding.slots[leaf] for span in binding.spans for leaf in span]
            wrt = tuple(slot for slot in slots if slot is not None and inexact(signature.inputs[slot]))
        else:
            wrt, _ = differentiated(self.spelled(signature.label), binding, self.argnums)
        outputs = tuple(leaf for leaf, type_ in enumerate(signature.outputs) if inexact(type_))
        types = tuple(signature.inputs[leaf] for leaf in wrt), tuple(signature.outputs[leaf] for leaf in outputs)
        return Selection(wrt, outputs, (), *types, ())


@dataclass(frozen=True, slots=True)
class Diagnosing(Examination):
    """What is wrong with them at a point."""

    @property
    def call(self) -> str:
        return "diagnose"


@dataclass(frozen=True, slots=True)
class Checking(Examination):
    """Whether they are right at a point."""

    @property
    def call(self) -> str:
        return "check"
