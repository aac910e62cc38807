"""The catalogue of errors: total over the service's reasons, picklable, and clear."""

from __future__ import annotations

import pickle

import pytest

from jacloom import _errors
from jacloom._errors import BY_REASON, ArgumentError, GraphError, JacloomError, faults
from jacloom_graph.errors import Fault, NotRecorded, Place, Reason

CLASSES = [kind for kind in vars(_errors).values() if isinstance(kind, type) and issubclass(kind, JacloomError)]


def test_every_reason_has_an_error() -> None:
    assert set(BY_REASON) == set(Reason)
    assert set(BY_REASON.values()) <= set(CLASSES) - {JacloomError}


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_pickle_with_everything_they_know(kind: type[JacloomError]) -> None:
    error = kind("text", reason=Reason.TOO_SLOW, field="args[2]", place=Place(1, 2, "add"), source="model.py:3 (f)", retry_after=1.5)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == "text (at model.py:3 (f))"


@pytest.mark.parametrize("kind", [Fault, NotRecorded])
def test_faults_stay_what_they_are_between_processes_and_at_a_place(kind: type[Fault]) -> None:
    fault = kind(Reason.MODE_UNAVAILABLE, "text", field="args[2]").at(Place(1, 2, "add"))
    again = pickle.loads(pickle.dumps(fault))
    assert type(again) is kind
    assert (again.reason, again.message, again.field, again.place) == (Reason.MODE_UNAVAILABLE, "text", "args[2]", Place(1, 2, "add"))


@pytest.mark.parametrize(
    ("kind", "also"),
    [("ArgumentError", ValueError), ("DeadlineExceeded", TimeoutError), ("UnavailableError", ConnectionError), ("MissingExtraError", ImportError)],
)
def test_errors_are_also_what_python_calls_them(kind: str, also: type[Exception]) -> None:
    assert issubclass(getattr(_errors, kind), also)


def test_text_has_the_best_place_known() -> None:
    assert str(GraphError("wrong")) == "wrong"
    assert str(GraphError("wrong", place=Place(0, 3, "dot_general"))) == "wrong (function 0, node 3 (dot_general))"
    assert str(GraphError("wrong", place=Place(0, 3, "dot_general"), source="m.py:7 (loss)")) == "wrong (at m.py:7 (loss))"


def test_faults_become_errors() -> None:
    with pytest.raises(ArgumentError) as caught, faults():
        raise Fault(Reason.ARGUMENT_MISMATCH, "two, not three", field="args")
    assert (caught.value.reason, caught.value.field, caught.value.message) == (Reason.ARGUMENT_MISMATCH, "args", "two, not three")
