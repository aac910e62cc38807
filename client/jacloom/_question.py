"""What can be asked about a function at a point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

from jacloom._binding import Binding
from jacloom._outline import outline
from jacloom_graph.answer import Selection


@dataclass(frozen=True, slots=True)
class Question(ABC):
    """A question and its options. Equal ones have equal answers for the same function and point, so they are keys of a cache."""

    @property
    @abstractmethod
    def call(self) -> str:
        """The method of the client, for errors."""

    @abstractmethod
    def chosen(self, binding: Binding) -> Selection:
        """Returns the leaves that the question is about.

        Raises:
            ArgumentError: if it cannot be asked about this function.
        """

    def spelled(self, label: str) -> str:
        """Returns the user's call, options at their defaults left out."""
        values = ((item, getattr(self, item.name)) for item in fields(self))
        # An array in the place of an option, which is what the text will be about, is equal to nothing and says so at length.
        given = [(item.name, value) for item, value in values if type(value) is not type(item.default) or value != item.default]
        spelled = (f"{name}={outline(value) if hasattr(value, 'dtype') else repr(value)}" for name, value in given)
        return f"client.{self.call}({', '.join([label, *spelled])})"
