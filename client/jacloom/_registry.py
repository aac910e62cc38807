"""The functions that a service holds: registering, looking up, listing, deleting."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Final

from jacloom import _upload
from jacloom._cache import Recent
from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._derivatives import Derivatives, from_message, refused_altogether
from jacloom._errors import FunctionNotFoundError, JacloomError, ProtocolError, faults
from jacloom._function import Function
from jacloom._remote import RemoteFunction
from jacloom_api.v1 import function_service_pb2 as pb
from jacloom_graph.wire import tree_from_message, type_from_message

PAGE = 1000
_MOST_KNOWN: Final = 4096
"""Functions remembered. One that was forgotten is registered again, which costs a round trip."""
_MOST_RETRACED: Final = 8
"""Leaves for which a function is traced again to learn whether they have derivatives by themselves."""


class Registry:
    """What this client knows of the service's functions, so that a call need not ask."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: Recent[RemoteFunction] = Recent(_MOST_KNOWN)
        """By id, without their graphs: a program may make new functions for ever, and their constants can be large."""
        self._derivatives: Recent[pb.DescribeDerivativesReply] = Recent(_MOST_KNOWN)
        """By id, as the service told them."""
        self._graphs: weakref.WeakValueDictionary[str, Function] = weakref.WeakValueDictionary()

    def registered(self, function: Function, deadline: Deadline) -> RemoteFunction:
        """Returns the function as the service has it, leasing it there unless this client did so before: it can be sent again at any time."""
        known = self._known.get(function.id)
        return self._register(function, function.label, deadline, leased=True) if known is None else _with_graph(known, function)

    def register(self, function: Function, display_name: str, deadline: Deadline) -> RemoteFunction:
        """Registers a function, which the service then keeps until it is deleted; constants that it lacks are uploaded first.

        Raises:
            JacloomError: if the service refuses the graph.
            ProtocolError: if it computes another id, because its version reads the graph differently.
        """
        return self._register(function, display_name, deadline, leased=False)

    def _register(self, function: Function, display_name: str, deadline: Deadline, *, leased: bool) -> RemoteFunction:
        parcel = _upload.pack(function.graph)
        _upload.upload_constants(self._connection, parcel, deadline)
        request = pb.RegisterRequest(graph=parcel.graph, display_name=display_name, leased=leased)
        try:
            info = self._connection.unary(lambda stubs: stubs.functions.Register, request, deadline)
        except JacloomError as error:
            if error.place is not None:
                error.source = function.source(error.place)
            raise
        if info.name != f"functions/{function.id}":
            raise ProtocolError(
                f"the service read function {function.id[:12]} as {info.name!r}: its version of jacloom and this one understand graphs differently; "
                "use the same version on both sides"
            )
        self._graphs[function.id] = function
        return _with_graph(self._remember(info), function)

    def get(self, function_id: str, deadline: Deadline) -> RemoteFunction:
        """Returns a function by its id.

        Raises:
            FunctionNotFoundError: if the service does not hold it.
        """
        known = self._known.get(function_id)
        if known is None:
            request = pb.GetFunctionRequest(name=f"functions/{function_id}")
            known = self._remember(self._connection.unary(lambda stubs: stubs.functions.Get, request, deadline))
        return _with_graph(known, self._graphs.get(function_id))

    def derivatives(self, remote: RemoteFunction, deadline: Deadline) -> Derivatives:
        """Returns in which modes a function can be differentiated, asking the service unless this client did so before.

        Raises:
            FunctionNotFoundError: if the service does not hold it any more and this process cannot send it again.
        """
        reply, function, signature = self._described(remote.id, remote.function, deadline), remote.function, remote.signature
        found = from_message(reply, signature, function)
        refused = refused_altogether(reply, signature)
        if function is None:
            return found
        # A rule may refuse only because others are perturbed as well; a call would be traced again for the leaf alone, see Session.
        leaves = list(found.inputs)
        for leaf in refused[_MOST_RETRACED:]:
            leaves[leaf] = leaves[leaf].in_doubt()
        for leaf in refused[:_MOST_RETRACED]:
            alone = function.narrowed((leaf,))
            if alone is not None and alone.id != function.id:
                self.registered(alone, deadline)
                leaves[leaf] = from_message(self._described(alone.id, alone, deadline), signature, alone).inputs[leaf]
        return replace(found, inputs=tuple(leaves))

    def _described(self, function_id: str, function: Function | None, deadline: Deadline) -> pb.DescribeDerivativesReply:
        known = self._derivatives.get(function_id)
        if known is not None:
            return known
        request = pb.DescribeDerivativesRequest(name=f"functions/{function_id}")
        try:
            reply = self._connection.unary(lambda stubs: stubs.functions.DescribeDerivatives, request, deadline)
        except FunctionNotFoundError:
            self.forget(function_id)
            if function is None:
                raise not_registered(function_id) from None
            self.registered(function, deadline)
            reply = self._connection.unary(lambda stubs: stubs.functions.DescribeDerivatives, request, deadline)
        return self._derivatives.put(function_id, reply)

    def list(self, deadline: Deadline) -> list[RemoteFunction]:
        """Returns all functions of the service, newest first."""
        found: list[RemoteFunction] = []
        token = ""
        while True:
            request = pb.ListFunctionsRequest(page_size=PAGE, page_token=token)
            page = self._connection.unary(lambda stubs: stubs.functions.List, request, deadline)
            found += map(self._from_message, page.functions)
            token = page.next_page_token
            if not token:
                return found

    def ping(self, deadline: Deadline, *, patient: bool) -> None:
        """Makes the smallest call that needs a service and a valid token."""
        self._connection.unary(lambda stubs: stubs.functions.List, pb.ListFunctionsRequest(page_size=1), deadline, patient=patient)

    def delete(self, function_id: str, deadline: Deadline) -> None:
        """Deletes a function.

        Raises:
            FunctionNotFoundError: if the service does not hold it.
        """
        self._connection.unary(lambda stubs: stubs.functions.Delete, pb.DeleteFunctionRequest(name=f"functions/{function_id}"), deadline)
        self.forget(function_id)

    def forget(self, function_id: str) -> None:
        """Drops what is known of a function, because the service has lost it."""
        self._known.drop(function_id)

    def _remember(self, info: pb.FunctionInfo) -> RemoteFunction:
        remote = self._from_message(info)
        # What the service has just said replaces what it said before.
        self._known.drop(remote.id)
        return self._known.put(remote.id, remote)

    def _from_message(self, info: pb.FunctionInfo) -> RemoteFunction:
        with faults():
            in_tree, out_tree = tree_from_message(info.in_tree), tree_from_message(info.out_tree)
        return RemoteFunction(
            id=info.name.removeprefix("functions/"),
            display_name=info.display_name,
            inputs=tuple(map(type_from_message, info.inputs)),
            outputs=tuple(map(type_from_message, info.outputs)),
            in_tree=in_tree,
            out_tree=out_tree,
            nodes=info.nodes,
            created=info.create_time.ToDatetime().isoformat(timespec="seconds") + "Z" if info.HasField("create_time") else "",
            ask=self.derivatives,
        )


def _with_graph(remote: RemoteFunction, function: Function | None) -> RemoteFunction:
    """Returns a remote function that knows its graph. How calls bind is remembered with the graph, and goes with it."""
    return remote if function is None else replace(remote, function=function, bindings=function.bindings)


def not_registered(function_id: str) -> FunctionNotFoundError:
    """Returns the error for a function that the service has lost and this process cannot register again."""
    return FunctionNotFoundError(
        f"the service no longer holds functions/{function_id}, and only its id is known here: "
        "register the function again with client.register(f, *example)"
    )
