"""``FunctionService``: messages in, messages out."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import empty_pb2

from jacloom_api.v1 import function_service_pb2 as pb
from jacloom_api.v1 import function_service_pb2_grpc
from jacloom_graph.wire import tree_to_message, type_to_message
from jacloom_server.edges.diagnosis import MOST_TEXT, place_to_message
from jacloom_server.function import Function
from jacloom_server.functions import Functions
from jacloom_server.pool import Pool
from jacloom_server.status import reported
from jacloom_worker.protocol import Availability, LeafModes

Context = grpc.aio.ServicerContext[Any, Any]


class FunctionServicer(function_service_pb2_grpc.FunctionServiceServicer):
    """The registry of functions, as messages."""

    def __init__(self, functions: Functions, pool: Pool) -> None:
        self._functions = functions
        self._pool = pool

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.FunctionInfo:
        """See the proto file, as for all methods here."""
        async with reported(context):
            return _info(await self._functions.register(request.graph, request.display_name, leased=request.leased))

    async def Validate(self, request: pb.ValidateRequest, context: Context) -> pb.ValidateReply:
        """See the proto file."""
        async with reported(context):
            found = await self._functions.validate(request.graph)
            values = [pb.ValueTypes(function=number, values=map(type_to_message, types)) for number, types in found.functions]
            return pb.ValidateReply(name=f"functions/{found.id}", functions=values)

    async def Get(self, request: pb.GetFunctionRequest, context: Context) -> pb.FunctionInfo:
        """See the proto file."""
        async with reported(context):
            return _info(await self._functions.find(request.name, "name"))

    async def List(self, request: pb.ListFunctionsRequest, context: Context) -> pb.ListFunctionsReply:
        """See the proto file."""
        async with reported(context):
            functions, token = self._functions.page(request.page_size, request.page_token)
            return pb.ListFunctionsReply(functions=map(_info, functions), next_page_token=token)

    async def DescribeDerivatives(self, request: pb.DescribeDerivativesRequest, context: Context) -> pb.DescribeDerivativesReply:
        """See the proto file."""
        async with reported(context):
            function = await self._functions.find(request.name, "name")
            report = await function.derivatives(self._pool)
            return pb.DescribeDerivativesReply(inputs=map(_modes, report.leaves), outputs=report.outputs, traces=report.traces)

    async def Delete(self, request: pb.DeleteFunctionRequest, context: Context) -> empty_pb2.Empty:
        """See the proto file."""
        async with reported(context):
            await self._functions.delete(request.name)
            return empty_pb2.Empty()


def _modes(leaf: LeafModes) -> pb.LeafDerivatives:
    return pb.LeafDerivatives(forward=_availability(leaf.forward), reverse=_availability(leaf.reverse))


def _availability(found: Availability) -> pb.Availability:
    state = pb.Availability.UNDECIDED if found.available is None else pb.Availability.AVAILABLE if found.available else pb.Availability.UNAVAILABLE
    refusal = found.refusal
    if refusal is None:
        return pb.Availability(state=state)
    return pb.Availability(state=state, reason=refusal.message[:MOST_TEXT], place=place_to_message(refusal.place))


def _info(function: Function) -> pb.FunctionInfo:
    description = function.description
    info = pb.FunctionInfo(
        name=function.name,
        display_name=function.display_name,
        inputs=map(type_to_message, description.inputs),
        outputs=map(type_to_message, description.outputs),
        in_tree=tree_to_message(description.in_tree),
        out_tree=tree_to_message(description.out_tree),
        nodes=description.nodes,
        functions=description.functions,
        expanded_nodes=description.expanded_nodes,
    )
    info.create_time.FromDatetime(function.created)
    return info
