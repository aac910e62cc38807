"""An answer that this process cannot allocate is refused with its size and what to ask for instead, before it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from jacloom import OutOfMemoryError
from jacloom._query import Query, query
from jacloom._room import room
from jacloom_graph.answer import Derivative
from jacloom_graph.types import Type

LONG = Type("float64", (1 << 31,))
SHORT = Type("float64", (3, 1))
SCALAR = Type("float64")
SMALL = query(Derivative.GRADIENT, (SHORT,), (SCALAR,), wrt=(0,), outputs=(0,))


def asked(derivative: Derivative, output: Type, *, weighted: bool = False, sparse: bool = False) -> Query:
    return query(derivative, (LONG,), (output,), wrt=(0,), outputs=(0,), weighted=weighted, sparse=sparse)


@pytest.mark.parametrize(
    ("derivative", "output", "weighted", "advice"),
    [
        (
            Derivative.JACOBIAN,
            LONG,
            False,
            "Ask for the entries that can differ from zero alone (output='csr'), for fewer argnums at a time, or multiply",
        ),
        (
            Derivative.HESSIAN,
            SCALAR,
            False,
            "(output='csr'), for fewer argnums at a time, or multiply with the derivative (client.linear_operator(f, x, ",
        ),
        (Derivative.HESSIAN, SHORT, True, "(output='csr'), for fewer"),
        (Derivative.HESSIAN, SHORT, False, "(weights=..., output='csr': of several outputs, for their weighted sum), for fewer"),
    ],
)
def test_a_matrix_is_refused_before_it_is_asked_for(derivative: Derivative, output: Type, weighted: bool, advice: str) -> None:
    with pytest.raises(OutOfMemoryError) as caught, room("`client.x(f)`", asked(derivative, output, weighted=weighted)):
        pytest.fail("asked")
    assert str(caught.value).startswith("`client.x(f)`: the result has ")
    assert advice in str(caught.value)


def test_the_size_is_that_of_all_arrays_together_even_beyond_all_addresses() -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"has 36,893,488,147,419,103,232 bytes \(float64\[2147483648,2147483648\]\), more than"),
        room("f", asked(Derivative.JACOBIAN, LONG)),
    ):
        pytest.fail("asked")


def test_of_a_sparse_answer_it_turns_out_while_it_arrives() -> None:
    with (
        pytest.raises(
            OutOfMemoryError, match=r"^f: the result is more than this process can allocate\. Ask for fewer argnums at a time, or multiply"
        ),
        room("f", asked(Derivative.JACOBIAN, LONG, sparse=True)),
    ):
        np.empty(1 << 62, np.uint8)


def test_what_a_worker_lacks_stays_what_it_is() -> None:
    with pytest.raises(OutOfMemoryError, match=r"^the worker ran out of memory$"), room("f", SMALL):
        raise OutOfMemoryError("the worker ran out of memory")


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match=r"^no$"), room("f", SMALL):
        raise ValueError("no")
