"""What can be asked about a function at a point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Final

from jacloom._binding import Binding
from jacloom._outline import outline
from jacloom_graph.answer import Selection

_OPTION: Final = "option"


def passed(option: str) -> bool:
    """Returns the field of a flag that tells whether the user passed an option whose value is no part of the question, such as ``weights``."""
    flag: bool = field(default=False, metadata={_OPTION: option})
    return flag


@dataclass(frozen=True, slots=True)
class Question(ABC):
    """A question and its options. Equal ones have equal answers for the same function and point, so they are keys of a cache."""

    operands: ClassVar[Sequence[str]] = ()
    """What the user's call has between the function and the options."""

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
        given = [(item, value) for item, value in values if type(value) is not type(item.default) or value != item.default]
        options = (f"{item.metadata[_OPTION]}=..." if _OPTION in item.metadata else f"{item.name}={_text(value)}" for item, value in given)
        return f"client.{self.call}({', '.join([label, *self.operands, *options])})"


def _text(value: object) -> str:
    return outline(value) if hasattr(value, "dtype") else repr(value)
