"""What a diagnosis asks of the service."""

from __future__ import annotations

from dataclasses import dataclass

from jacloom._binding import Binding
from jacloom._question import Question
from jacloom._signature import inexact
from jacloom._transform import differentiated
from jacloom_graph.answer import Selection


@dataclass(frozen=True, slots=True)
class Examination(Question):
    """Looks for what is not finite. No arrays come back."""

    argnums: int | tuple[int, ...] | None = None
    """None: every positional argument, as far as it has derivatives."""

    @property
    def call(self) -> str:
        return "diagnose"

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
