"""Patterns as users give them, structures as the service sends them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import sparse

from jacloom import OptionError, ProtocolError
from jacloom._sparsity import Pattern, Structure, check_output, check_shape, check_sizes, formatted, pattern, read_structure
from jacloom_graph.answer import Derivative, Part, Selection, Sizes
from jacloom_graph.types import Type

CALL = "client.jacobian(f, ...)"
ENTRIES = np.array([[2, 0, -1], [0, 0, 3]])


def parsed(given: Any) -> Pattern:
    found = pattern(CALL, given)
    assert found is not None
    return found


class TestPattern:
    @pytest.mark.parametrize(
        "given",
        [
            ENTRIES,
            ENTRIES.tolist(),
            ENTRIES != 0,
            ENTRIES.astype(np.float32),
            ENTRIES.astype(ml_dtypes.bfloat16),
            ENTRIES * 1j,
            np.where(ENTRIES, np.nan, 0),
            jnp.asarray(ENTRIES),
            sparse.csr_array(ENTRIES),
            sparse.csc_array(ENTRIES),
            sparse.coo_matrix(ENTRIES),
            sparse.lil_array(ENTRIES),
            sparse.csr_array((np.array([1, 1, 0, 1]), np.array([2, 0, 1, 2]), np.array([0, 2, 4]))),
            sparse.csr_array((np.ones(3), np.array([0, 2, 2], np.int64), np.array([0, 2, 3], np.int64))),
        ],
        ids=[
            *("int", "lists", "bool", "float32", "bfloat16", "complex", "nan", "jax"),
            *("csr", "csc", "coo", "lil", "explicit zeros", "long indices"),
        ],
    )
    def test_the_same_entries_in_any_form(self, given: Any) -> None:
        found = parsed(given)
        assert (found.shape, found.pointers.tolist(), found.indices.tolist()) == ((2, 3), [0, 2, 3], [0, 2, 2])
        assert found == parsed(ENTRIES)
        assert hash(found) == hash(parsed(ENTRIES))
        assert repr(found) == "<pattern of 2 x 3 with 3 entries>"

    def test_an_entry_that_comes_twice_is_one_whatever_the_sum(self) -> None:
        rows, columns = np.array([0, 0, 1]), np.array([1, 1, 2])
        for data in ([1.0, -1.0, 1.0], [0.0, 1.0, 1.0]):
            assert parsed(sparse.coo_array((data, (rows, columns)), (2, 3))).indices.tolist() == [1, 2]
        twice = sparse.csr_array((np.array([128, 128, 1], np.uint8), np.array([1, 1, 2]), np.array([0, 2, 3])), (2, 3))
        assert parsed(twice).indices.tolist() == [1, 2]
        assert twice.nnz == 3, "the user's own matrix is as it was"

    def test_others_are_others(self) -> None:
        assert len({parsed(ENTRIES), parsed(ENTRIES[:, :2]), parsed(ENTRIES.T), parsed(np.zeros((2, 3))), parsed(ENTRIES + 1)}) == 5

    @pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1)])
    def test_of_nothing(self, shape: tuple[int, int]) -> None:
        found = parsed(np.zeros(shape))
        assert (found.shape, found.pointers.tolist(), found.indices.tolist()) == (shape, [0] * (shape[0] + 1), [])

    def test_words_and_what_is_one_already(self) -> None:
        assert pattern(CALL, "auto") is pattern(CALL, "dense") is None
        found = parsed(ENTRIES)
        assert pattern(CALL, found) is found

    @pytest.mark.parametrize(
        ("given", "got"),
        [
            ("sparse", "got 'sparse'"),
            (None, "got None"),
            (3, "got 3"),
            (np.ones(3), r"got an array of shape \(3,\)"),
            (np.ones((1, 2, 3)), r"got an array of shape \(1, 2, 3\)"),
            (np.array([[None]]), "dtype object"),
            ([["x", "y"]], "dtype <U1"),
            ([[1], [1, 2]], "got lists of different lengths"),
            (sparse.coo_array(np.ones(3)), r"got an array of shape \(3,\)"),
        ],
    )
    def test_what_is_none(self, given: Any, got: str) -> None:
        with pytest.raises(OptionError, match=rf"`client\.jacobian\(f, \.\.\.\)`: sparsity must be 'auto', 'dense', or a pattern.*{got}"):
            pattern(CALL, given)


def test_outputs() -> None:
    for output in ("dense", "csr", "csc", "coo"):
        check_output(CALL, output, "auto")
        check_output(CALL, output, ENTRIES)
    check_output(CALL, "dense", "dense")
    with pytest.raises(OptionError, match="output must be 'dense', 'csr', 'csc' or 'coo', got 'lil'"):
        check_output(CALL, "lil", "auto")
    with pytest.raises(OptionError, match="output='coo' is sparse, and sparsity='dense' computes no pattern for it"):
        check_output(CALL, "coo", "dense")


CHOSEN = Selection((0, 1), (0, 2), (), (Type("float32", (2,)), Type("float64")), (Type("float32"), Type("float32", (2, 1))), ())
"""Three rows, three columns, of two leaves each."""
STRUCTURE = Structure("d", Sizes(3, 3, 5, 4, 2), *(np.array(a) for a in ([0, 2, 3, 5], [0, 2, 1, 0, 2], [0, 2, 1, 0, 3], [0, 2, 4])))
GIVEN = np.array([1.5, 2.5, 3.5, 4.5])
WHOLE = [[1.5, 0, 3.5], [0, 2.5, 0], [1.5, 0, 4.5]]


class TestStructure:
    def test_a_matrix_of_the_callers_own(self) -> None:
        found = STRUCTURE.matrix(GIVEN)
        assert found.toarray().tolist() == WHOLE
        assert found.has_canonical_format
        for mine, kept in ((found.indices, STRUCTURE.indices), (found.indptr, STRUCTURE.pointers), (found.data, GIVEN)):
            assert not np.shares_memory(mine, kept)

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    def test_short_floats_become_float32(self, dtype: Any) -> None:
        found = STRUCTURE.matrix(GIVEN.astype(dtype))
        assert (found.dtype, found.toarray().tolist()) == (np.float32, WHOLE)

    @pytest.mark.parametrize("dtype", [np.float64, np.complex128, ml_dtypes.bfloat16])
    def test_blocks_have_their_own_shapes_and_dtypes(self, dtype: Any) -> None:
        found = STRUCTURE.blocks(GIVEN.astype(dtype), Derivative.JACOBIAN, CHOSEN) if dtype is not np.complex128 else None
        if found is None:
            types = Type("complex128", (3,)), Type("complex128", (3,))
            alone = STRUCTURE.blocks(GIVEN * 1j, Derivative.JACOBIAN, Selection((0,), (0,), (), types[:1], types[1:], ()))
            assert alone[Part.JACOBIAN, 0, 0, 0].tolist() == (np.array(WHOLE) * 1j).tolist()
            return
        assert {key[1:]: (block.dtype.name, block.tolist()) for key, block in found.items()} == {
            (0, 0, 0): ("float32", [1.5, 0]),
            (0, 1, 0): ("float64", 3.5),
            (2, 0, 0): ("float32", [[[0, 2.5]], [[1.5, 0]]]),
            (2, 1, 0): ("float64", [[0], [4.5]]),
        }

    def test_blocks_of_a_hessian(self) -> None:
        chosen = Selection((0, 1), (3,), (3,), CHOSEN.wrt_types, (Type("float64"),), (Type("float64"),))
        found = STRUCTURE.blocks(GIVEN, Derivative.HESSIAN, chosen)
        assert {key: block.tolist() for key, block in found.items()} == {
            (Part.HESSIAN, 3, 0, 0): [[1.5, 0], [0, 2.5]],
            (Part.HESSIAN, 3, 0, 1): [3.5, 0],
            (Part.HESSIAN, 3, 1, 0): [1.5, 0],
            (Part.HESSIAN, 3, 1, 1): 4.5,
        }

    def test_the_pattern_alone(self) -> None:
        found = STRUCTURE.pattern()
        assert (found.dtype, found.toarray().tolist()) == (bool, [[True, False, True], [False, True, False], [True, False, True]])
        assert not np.shares_memory(found.indices, STRUCTURE.indices)
        assert not np.shares_memory(found.indptr, STRUCTURE.pointers)
        assert parsed(found).digest == parsed(np.array(WHOLE)).digest  # `sparsity=` takes it

    def test_the_pass_of_each_entry(self) -> None:
        assert STRUCTURE.passes().tolist() == [0, 1, 0, 0, 1]
        with_an_idle_pass = replace(STRUCTURE, sizes=Sizes(3, 3, 5, 4, 3), bounds=np.array([0, 2, 2, 4]))
        assert with_an_idle_pass.passes().tolist() == [0, 2, 0, 0, 2]

    def test_formats(self) -> None:
        for output, kind in (("csr", sparse.csr_array), ("csc", sparse.csc_array), ("coo", sparse.coo_array)):
            found = formatted(STRUCTURE.matrix(GIVEN), output)  # type: ignore[arg-type]
            assert type(found) is kind
            assert found.toarray().tolist() == WHOLE


@dataclass
class Described:
    digest: str = "d"
    rows: int = 3
    columns: int = 3
    nonzeros: int = 5
    computed: int = 4
    passes: int = 2


class TestReceived:
    ARRAYS = (STRUCTURE.pointers, STRUCTURE.indices, STRUCTURE.sources, STRUCTURE.bounds)

    def test_in_order(self) -> None:
        received = {(part, 0, 0, 0): array for part, array in zip((9, 10, 11, 12), self.ARRAYS, strict=True)}
        found = read_structure(Described(), received)
        assert (found.digest, found.sizes, found.matrix(GIVEN).toarray().tolist()) == ("d", STRUCTURE.sizes, WHOLE)
        nothing = {(part, 0, 0, 0): np.zeros(length, np.int32) for part, length in zip((9, 10, 11, 12), (3, 0, 0, 1), strict=True)}
        assert read_structure(Described(rows=2, nonzeros=0, computed=0, passes=0), nothing).matrix(np.zeros(0)).shape == (2, 3)

    @pytest.mark.parametrize(
        ("which", "numbers"),
        [
            (0, [1, 2, 3, 5]),
            (0, [0, 2, 3, 4]),
            (0, [0, 3, 2, 5]),
            (1, [0, 3, 1, 0, 2]),
            (1, [0, -1, 1, 0, 2]),
            (2, [0, 2, 4, 0, 3]),
            (2, [0, 2, -1, 0, 3]),
            (3, [0, 2, 5]),
            (3, [1, 2, 4]),
            (3, [0, 5, 4]),
        ],
    )
    def test_garbage_is_refused(self, which: int, numbers: list[int]) -> None:
        arrays = [*self.ARRAYS]
        arrays[which] = np.array(numbers)
        received = {(part, 0, 0, 0): array for part, array in zip((9, 10, 11, 12), arrays, strict=True)}
        with pytest.raises(ProtocolError, match="entries lie outside the matrix"):
            read_structure(Described(), received)

    @pytest.mark.parametrize("sizes", [Sizes(3, 4, 5, 5, 2), Sizes(4, 3, 5, 5, 2), Sizes(3, 3, 10, 5, 2), Sizes(3, 3, 5, 6, 2)])
    def test_sizes_of_something_else_are_refused(self, sizes: Sizes) -> None:
        with pytest.raises(ProtocolError, match="3 x 3 was asked for"):
            check_sizes(sizes, Derivative.JACOBIAN, CHOSEN)
        check_sizes(STRUCTURE.sizes, Derivative.JACOBIAN, CHOSEN)


def test_a_pattern_of_another_shape() -> None:
    with pytest.raises(OptionError, match=r"must have the shape \(3, 3\), entries of the result by entries of the arguments; got \(2, 3\)"):
        check_shape(CALL, parsed(ENTRIES), Derivative.JACOBIAN, CHOSEN)
    with pytest.raises(OptionError, match=r"must have the shape \(3, 3\), entries of the arguments, twice; got \(2, 3\)"):
        check_shape(CALL, parsed(ENTRIES), Derivative.HESSIAN, CHOSEN)
    check_shape(CALL, parsed(np.ones((3, 3))), Derivative.JACOBIAN, CHOSEN)
