"""How the arrays of a job's store are called: by the paths of the leaves that they belong to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from jacloom_graph import tree
from jacloom_graph.answer import Array, Part
from jacloom_graph.types import Tree

POINTERS: Final = "indptr"
INDICES: Final = "indices"
ENTRIES: Final = "data"
STATUS: Final = "status"

_STEP: Final = re.compile(r"\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]|\.(\w+)")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")


def leaf_names(of: Tree) -> tuple[str, ...]:
    """Returns a name for each leaf, safe as the name of a file: the steps that lead to it, such as ``"w.0"``. A bare leaf has the empty name."""
    names = [".".join(_UNSAFE.sub("_", "".join(step)) for step in _STEP.findall(path)) for path in tree.paths(of, "")]
    # What is made safe may coincide with another; then all of these say which leaf they are.
    count = Counter(names)
    return tuple(f"{name}-{at}" if count[name] > 1 else name for at, name in enumerate(names))


def relative(names: Sequence[str], leaves: Sequence[int]) -> tuple[str, ...]:
    """Returns the names of some leaves, without the steps that lead to all of them alike: a single leaf has the empty name."""
    steps = [names[leaf].split(".") for leaf in leaves]
    alike = 0
    while steps and all(len(each) > alike and each[alike] == steps[0][alike] for each in steps):
        alike += 1
    return tuple(".".join(each[alike:]) for each in steps)


def array_paths(found: Sequence[Array], outputs: Sequence[str], inputs: Sequence[str]) -> tuple[str, ...]:
    """Returns the path of each array of an answer: what it is, then the leaves that it belongs to.

    Args:
        found: The arrays.
        outputs: Names of all output leaves.
        inputs: Names of the wrt leaves.
    """
    return tuple("/".join(filter(None, _steps(array, outputs, inputs))) for array in found)


def _steps(array: Array, outputs: Sequence[str], inputs: Sequence[str]) -> tuple[str, ...]:
    what = array.part.name.lower()
    match array.part:
        case Part.VALUE | Part.TANGENT:
            return what, outputs[array.output]
        case Part.COTANGENT | Part.PRODUCT | Part.GRADIENT:
            return what, inputs[array.input]
        case Part.JACOBIAN:
            return what, outputs[array.output], inputs[array.input]
        case Part.HESSIAN:
            return what, outputs[array.output], inputs[array.input], inputs[array.input2]
        case _:
            return (what,)
