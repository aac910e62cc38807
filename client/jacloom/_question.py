"""What can be asked about a function at a point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

from jacloom._binding import Binding
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
        given = [(item.name, getattr(self, item.name)) for item in fields(self) if getattr(self, item.name) != item.default]
        return f"client.{self.call}({', '.join([label, *(f'{name}={value!r}' for name, value in given)])})"
