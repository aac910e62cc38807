"""The transformations that return a whole matrix of derivatives: Jacobian and Hessian, dense or sparse."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jacloom._binding import Binding
from jacloom._errors import OptionError
from jacloom._options import Mode, Tile
from jacloom._prepared import Arrays, Prepared, Vectors
from jacloom._query import Query, query
from jacloom._question import passed
from jacloom._signature import is_complex
from jacloom._sparsity import Output, Pattern, check_shape, formatted
from jacloom._structure import Structure
from jacloom._transform import HOLOMORPHIC, WEIGHTS, Transform, differentiated, parts, require_field, require_inexact_outputs, require_second
from jacloom._vectors import like_result
from jacloom_graph.answer import Derivative, Part

Inner = Callable[[list[Any]], Any]
"""Makes a tree like the differentiated arguments of one value per leaf."""


@dataclass(frozen=True, slots=True)
class Matrix(Transform):
    """All derivatives of an order, with the options that those of either order have."""

    derivative: ClassVar[Derivative]
    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    holomorphic: bool = False
    tile: Tile = "auto"
    sparsity: Literal["auto", "dense"] | Pattern = "auto"
    output: Output = "dense"

    def prepare(self, binding: Binding) -> Prepared:
        call = self.spelled(binding.signature.label)
        wrt, inner = differentiated(call, binding, self.argnums)
        result, outputs, aux = parts(call, binding, self.has_aux)
        require_inexact_outputs(call, binding, outputs)
        require_field(call, binding, wrt, outputs, self.holomorphic)
        asked = query(
            self.derivative,
            binding.signature.inputs,
            binding.signature.outputs,
            wrt=wrt,
            outputs=outputs,
            values=aux.leaves,
            tile=self.tile,
            holomorphic=self.holomorphic,
            sparse=self.output != "dense",
            dense=self.sparsity == "dense",
            pattern=self.sparsity if isinstance(self.sparsity, Pattern) else None,
            **self.further(call, binding, wrt, outputs),
        )
        if asked.pattern is not None:
            check_shape(call, asked.pattern, asked.derivative, asked.chosen)

        def build(arrays: Arrays) -> Any:
            matrix = self.tree(arrays, asked, result, inner) if self.output == "dense" else formatted(arrays[Part.ENTRIES, 0, 0, 0], self.output)
            return (matrix, aux.build(arrays)) if self.has_aux else matrix

        return Prepared(asked, build, self.vectors(call, binding, result, outputs))

    @abstractmethod
    def further(self, call: str, binding: Binding, wrt: Sequence[int], outputs: Sequence[int]) -> Mapping[str, Any]:
        """Returns what the question is besides, as keyword arguments of ``query``.

        Raises:
            ArgumentError: if there is no such matrix.
            OptionError: if an option does not fit the function.
        """

    @abstractmethod
    def tree(self, arrays: Arrays, asked: Query, result: Structure, inner: Inner) -> Any:
        """Returns the blocks of an answer in the user's trees: outputs on the outside, arguments within."""

    def vectors(self, call: str, binding: Binding, result: Structure, outputs: Sequence[int]) -> Callable[[Any], Vectors] | None:
        """Returns what makes vectors of what the user passed beside the point, if this takes any."""
        return None


@dataclass(frozen=True, slots=True)
class Jacobian(Matrix):
    """All first derivatives."""

    derivative: ClassVar = Derivative.JACOBIAN
    mode: Mode = "auto"

    @property
    def call(self) -> str:
        return "jacobian"

    def further(self, call: str, binding: Binding, wrt: Sequence[int], outputs: Sequence[int]) -> Mapping[str, Any]:
        return {"mode": self._mode(call, binding, wrt, outputs)}

    def tree(self, arrays: Arrays, asked: Query, result: Structure, inner: Inner) -> Any:
        columns = range(len(asked.chosen.wrt))
        return result.unflatten(inner([arrays[Part.JACOBIAN, out, at, 0] for at in columns]) for out in asked.chosen.outputs)

    def _mode(self, call: str, binding: Binding, wrt: Sequence[int], outputs: Sequence[int]) -> Mode:
        """Returns the mode, narrowed where complex numbers leave only one: real to complex has columns, complex to real has rows."""
        if self.holomorphic:
            return self.mode
        possible: Mode = self.mode
        if any(is_complex(binding.signature.inputs[leaf]) for leaf in wrt):
            possible = "reverse"
        elif any(is_complex(binding.signature.outputs[leaf]) for leaf in outputs):
            possible = "forward"
        if self.mode not in ("auto", possible):
            side = "inputs, so only rows" if possible == "reverse" else "outputs, so only columns"
            raise OptionError(f"`{call}`: the function has complex {side} can be computed: mode must be 'auto' or {possible!r}; {HOLOMORPHIC}.")
        return possible


@dataclass(frozen=True, slots=True)
class Hessian(Matrix):
    """All second derivatives, of each output or of their weighted sum."""

    derivative: ClassVar = Derivative.HESSIAN
    weighted: bool = passed("weights")

    @property
    def call(self) -> str:
        return "hessian"

    def further(self, call: str, binding: Binding, wrt: Sequence[int], outputs: Sequence[int]) -> Mapping[str, Any]:
        require_second(call, binding, wrt, outputs, self.holomorphic)
        option = "output" if self.output != "dense" else "sparsity" if isinstance(self.sparsity, Pattern) else ""
        entries = sum(binding.signature.outputs[leaf].size for leaf in outputs)
        if option and entries != 1 and not self.weighted:
            several = f"{binding.signature.label} returns {entries} entries, each with a Hessian of its own"
            raise OptionError(f"`{call}`: {option} is for a single matrix, and {several}; pass {WEIGHTS}, or leave {option} out.")
        return {"weighted": self.weighted}

    def tree(self, arrays: Arrays, asked: Query, result: Structure, inner: Inner) -> Any:
        columns = range(len(asked.chosen.wrt))

        def second(out: int) -> Any:
            return inner([inner([arrays[Part.HESSIAN, out, at, to] for to in columns]) for at in columns])

        return second(0) if self.weighted else result.unflatten(map(second, asked.chosen.outputs))

    def vectors(self, call: str, binding: Binding, result: Structure, outputs: Sequence[int]) -> Callable[[Any], Vectors] | None:
        weights = like_result(call, binding, result, outputs, "weights")
        return (lambda given: Vectors(weights=weights(given))) if self.weighted else None


@dataclass(frozen=True, slots=True)
class ExplainedJacobian(Jacobian):
    """Asks how they would be computed."""

    operands: ClassVar = ("...",)

    @property
    def call(self) -> str:
        return "explain"


@dataclass(frozen=True, slots=True)
class ExplainedHessian(Hessian):
    """Asks how they would be computed."""

    operands: ClassVar = ("...", "derivative='hessian'")

    @property
    def call(self) -> str:
        return "explain"
