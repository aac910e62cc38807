"""How the arguments of a call become the inputs of a function."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jacloom import _leaves
from jacloom._cache import Recent
from jacloom._errors import ArgumentError
from jacloom._outline import ARRAY, described, outline
from jacloom._prepared import Prepared
from jacloom._signature import Signature
from jacloom._structure import Structure
from jacloom_graph.types import Type

if TYPE_CHECKING:
    from jacloom._function import Function


@dataclass(frozen=True, eq=False)
class Binding:
    """A function together with the way one kind of call passes its arguments. Made once per types of arguments; all calls of that kind share it."""

    signature: Signature
    function: Function | None
    """The graph, where this process has it; otherwise only the service does."""
    arguments: Structure
    """Of the call's arguments: of ``args``, or of ``(args, kwargs)``."""
    keywords: bool
    """Whether ``arguments`` is of ``(args, kwargs)``."""
    slots: tuple[int | None, ...]
    """For each leaf of the arguments the number of the input that it is, or None for a static value."""
    prepared: Recent[Prepared] = field(default_factory=Recent)
    """What transformations have worked out for calls of this kind."""
    narrowed: Recent[Binding] = field(default_factory=Recent)
    """The binding to use instead, for transformations that the function allows only with respect to fewer inputs."""

    @cached_property
    def positional(self) -> tuple[Structure, ...]:
        """The structure of each positional argument."""
        return (self.arguments.children[0] if self.keywords else self.arguments).children

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the arguments that are passed by keyword."""
        if not self.keywords:
            return ()
        kwargs = self.arguments.children[1]
        return tuple(kwargs.unflatten(range(kwargs.count)))

    @cached_property
    def spans(self) -> tuple[range, ...]:
        """For each positional argument its leaves, by number."""
        spans, at = [], 0
        for child in self.positional:
            spans.append(range(at, at + child.count))
            at += child.count
        return tuple(spans)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """How each leaf of the arguments is reached, such as ``args[0]['w']`` or ``scale``."""
        return argument_paths(self.arguments, self.keywords)

    def path(self, slot: int) -> str:
        """Returns how the leaf that is some input is reached."""
        return self.paths[self.slots.index(slot)]

    def inputs(self, leaves: list[Any]) -> list[Any]:
        """Returns those leaves that are inputs, in order."""
        if len(leaves) == len(self.signature.inputs):
            return leaves
        return [leaf for leaf, slot in zip(leaves, self.slots, strict=True) if slot is not None]


def argument_paths(arguments: Structure, keywords: bool) -> tuple[str, ...]:
    """Returns how each leaf of ``args`` or ``(args, kwargs)`` is reached."""
    if not keywords:
        return tuple(arguments.paths("args"))
    args, kwargs = arguments.children
    return (*args.paths("args"), *kwargs.paths("kwargs"))


def bind_traced(
    signature: Signature, function: Function | None, known: Recent[Binding], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Binding, list[Any]]:
    """Returns the binding of a call of a function whose types are fixed, and the leaves of its arguments.

    Raises:
        ArgumentError: if the arguments do not have the function's trees, types and fixed values.
    """
    keywords = bool(kwargs)
    leaves = _match(signature, (args, dict(kwargs)) if keywords else args, keywords)
    try:
        keys: Hashable = (keywords, *map(_leaves.key, leaves))
    except ArgumentError:
        _checked(signature, function, leaves, keywords)  # says which argument it is
        raise
    found = known.get(keys)
    if found is None:
        found = known.put(keys, _checked(signature, function, leaves, keywords))
    return found, leaves


def _match(signature: Signature, value: Any, keywords: bool) -> list[Any]:
    try:
        leaves = signature.arguments.match(value)
    except ValueError as error:
        raise ArgumentError(_misfit(signature, value, keywords, str(error))) from None
    # A function of two arguments takes (args, kwargs) for these.
    if keywords and any(type(leaf) in (tuple, dict) for leaf in leaves):
        raise ArgumentError(_misfit(signature, value, keywords, ""))
    return leaves


def _misfit(signature: Signature, value: Any, keywords: bool, reason: str) -> str:
    """Returns what is wrong with arguments whose containers are not those of the function, as one call beside the other."""
    whole = signature.arguments.unflatten(signature.fixed.get(at, ARRAY) for at in range(signature.arguments.count))
    # A function that was not traced here does not say whether it was with keywords; a call with some means that it was, if it can have been.
    named = signature.keywords or (keywords and list(map(type, whole)) == [tuple, dict])
    expected, got = _call(signature.label, whole, named), _call(signature.label, value, keywords)
    text = f"the arguments must be passed as when {signature.label} was traced: expected {expected}, got {got}"
    if expected == got:
        return f"{text}; {reason}"
    return f"{text}. What was fixed while tracing is None here." if "None" in expected else f"{text}."


def _call(label: str, value: Any, keywords: bool) -> str:
    args, kwargs = value if keywords else (value, {})
    return f"`{label}({', '.join([*map(outline, args), *(f'{name}={outline(part)}' for name, part in kwargs.items())])})`"


def _checked(signature: Signature, function: Function | None, leaves: list[Any], keywords: bool) -> Binding:
    slots: list[int | None] = []
    lines: list[tuple[bool, str, str]] = []
    paths = argument_paths(signature.arguments, keywords)
    count = 0
    for at, leaf in enumerate(leaves):
        if at in signature.fixed:
            slots.append(None)
            value = signature.fixed[at]
            fits = leaf is None or _leaves.Static(leaf) == _leaves.Static(value)
            lines.append((fits, paths[at], f"fixed to {value!r}" + ("" if fits else f" while tracing, got {leaf!r}")))
            continue
        expected = signature.inputs[count]
        slots.append(count)
        count += 1
        got = _type_of(leaf)
        fits = got is not None and (got.dtype, got.shape) == (expected.dtype, expected.shape)
        lines.append((fits, paths[at], str(expected) if fits else f"{expected} expected, got {got or described(leaf)}{_remedy(leaf, expected)}"))
    if not all(fits for fits, _, _ in lines):
        width = max(len(path) for _, path, _ in lines)
        table = "\n".join(f"  {'✓' if fits else '✗'} {path:<{width}}  {text}" for fits, path, text in lines)
        advice = "Its types are fixed and nothing is cast: convert the arguments, or trace the function again for these."
        raise ArgumentError(f"the arguments do not fit {signature.label}:\n{table}\n{advice}")
    return Binding(signature, function, signature.arguments, keywords, tuple(slots))


def _remedy(leaf: Any, expected: Type) -> str:
    # How arrays are converted, all know.
    found = "" if _leaves.is_array(leaf) else _leaves.remedy(leaf, expected)
    return f": {found}" if found else ""


def _type_of(leaf: Any) -> Type | None:
    return _leaves.type_of(leaf) if _leaves.is_array(leaf) or type(leaf) in (bool, int) else None
