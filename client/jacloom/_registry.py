"""The functions that a service holds: registering, looking up, listing, deleting."""

from __future__ import annotations

import threading

from jacloom import _upload
from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._errors import FunctionNotFoundError, ProtocolError, faults
from jacloom._function import Function
from jacloom._remote import RemoteFunction
from jacloom_api.v1 import function_service_pb2 as pb
from jacloom_graph.wire import tree_from_message, type_from_message

PAGE = 1000


class Registry:
    """What this client knows of the service's functions, so that a call need not ask."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, RemoteFunction] = {}
        self._lock = threading.Lock()

    def registered(self, function: Function, deadline: Deadline) -> RemoteFunction:
        """Returns the function as the service has it, registering it unless this client did so before."""
        return self._known.get(function.id) or self.register(function, function.label, deadline)

    def register(self, function: Function, display_name: str, deadline: Deadline) -> RemoteFunction:
        """Registers a function; constants that the service lacks are uploaded first.

        Raises:
            JacloomError: if the service refuses the graph.
            ProtocolError: if it computes another id, because its version reads the graph differently.
        """
        parcel = _upload.pack(function.graph)
        _upload.upload_constants(self._connection, parcel, deadline)
        request = pb.RegisterRequest(graph=parcel.graph, display_name=display_name)
        info = self._connection.unary(lambda stubs: stubs.functions.Register, request, deadline)
        if info.name != f"functions/{function.id}":
            raise ProtocolError(
                f"the service read function {function.id[:12]} as {info.name!r}: its version of jacloom and this one understand graphs differently; "
                "use the same version on both sides"
            )
        return self._keep(_from_message(info, function))

    def get(self, function_id: str, deadline: Deadline) -> RemoteFunction:
        """Returns a function by its id.

        Raises:
            FunctionNotFoundError: if the service does not hold it.
        """
        known = self._known.get(function_id)
        if known is not None:
            return known
        info = self._connection.unary(lambda stubs: stubs.functions.Get, pb.GetFunctionRequest(name=f"functions/{function_id}"), deadline)
        return self._keep(_from_message(info, None))

    def list(self, deadline: Deadline) -> list[RemoteFunction]:
        """Returns all functions of the service, newest first."""
        found: list[RemoteFunction] = []
        token = ""
        while True:
            request = pb.ListFunctionsRequest(page_size=PAGE, page_token=token)
            page = self._connection.unary(lambda stubs: stubs.functions.List, request, deadline)
            found += [_from_message(info, None) for info in page.functions]
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
        with self._lock:
            self._known.pop(function_id, None)

    def _keep(self, remote: RemoteFunction) -> RemoteFunction:
        with self._lock:
            self._known[remote.id] = remote
        return remote


def not_registered(function_id: str) -> FunctionNotFoundError:
    """Returns the error for a function that the service has lost and this process cannot register again."""
    return FunctionNotFoundError(
        f"the service no longer holds functions/{function_id}, and only its id is known here: "
        "register the function again with client.register(f, *example)"
    )


def _from_message(info: pb.FunctionInfo, function: Function | None) -> RemoteFunction:
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
        function=function,
    )
