"""Facts about the wire contract, read from the .proto files as protoc sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from jacloom_graph.errors import Reason

PROTO = Path(__file__).resolve().parents[2] / "proto"
PACKAGE = "jacloom_api.v1"
FILES = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "jacloom_api" / "v1").glob("*.proto"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    out = tmp_path_factory.mktemp("descriptors") / "set.pb"
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTO}", f"-I{well_known}", "--include_source_info", f"--descriptor_set_out={out}", *FILES]
    assert protoc.main(arguments) == 0
    return {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file}


def declarations(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the name and the source path of everything that wants a comment (paths as in ``SourceCodeInfo``)."""

    def enum(value: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield value.name, path
        for at, member in enumerate(value.value):
            yield f"{value.name}.{member.name}", (*path, 2, at)

    def message(value: descriptor_pb2.DescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        if value.options.map_entry:
            return
        yield value.name, path
        for at, field in enumerate(value.field):
            yield f"{value.name}.{field.name}", (*path, 2, at)
        for at, nested in enumerate(value.nested_type):
            yield from message(nested, (*path, 3, at))
        for at, nested_enum in enumerate(value.enum_type):
            yield from enum(nested_enum, (*path, 4, at))

    for at, top in enumerate(file.message_type):
        yield from message(top, (4, at))
    for at, top_enum in enumerate(file.enum_type):
        yield from enum(top_enum, (5, at))
    for at, service in enumerate(file.service):
        yield service.name, (6, at)
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (6, at, 2, number)


def enums(file: descriptor_pb2.FileDescriptorProto) -> Iterator[descriptor_pb2.EnumDescriptorProto]:
    yield from file.enum_type
    stack = list(file.message_type)
    while stack:
        message = stack.pop()
        yield from message.enum_type
        stack.extend(message.nested_type)


@pytest.mark.parametrize("name", FILES)
def test_everything_is_commented(files: dict[str, descriptor_pb2.FileDescriptorProto], name: str) -> None:
    file = files[name]
    commented = {tuple(at.path) for at in file.source_code_info.location if at.leading_comments.strip() or at.trailing_comments.strip()}
    names = dict(declarations(file))
    assert names, f"{name} declares nothing; is the walk broken?"
    bare = [what for what, path in names.items() if path not in commented]
    assert not bare, f"{name}: no comment at {', '.join(bare)}"


@pytest.mark.parametrize("name", FILES)
def test_package_is_the_folder(files: dict[str, descriptor_pb2.FileDescriptorProto], name: str) -> None:
    assert files[name].package == PACKAGE == str(Path(name).parent).replace("/", ".")


@pytest.mark.parametrize("name", FILES)
def test_enums_start_unspecified(files: dict[str, descriptor_pb2.FileDescriptorProto], name: str) -> None:
    for enum in enums(files[name]):
        first = enum.value[0]
        assert (first.number, first.name) == (0, f"{re.sub(r'(?<!^)(?=[A-Z])', '_', enum.name).upper()}_UNSPECIFIED")


def test_services_and_their_calls(files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    calls = {service.name: [method.name for method in service.method] for file in files.values() for service in file.service}
    assert calls == {
        "BlobService": ["Missing", "Put", "Release"],
        "DerivativeService": ["Evaluate", "Jvp", "Vjp", "Hvp", "Gradient", "Jacobian", "Hessian", "Explain", "Structure", "Diagnose"],
        "FunctionService": ["Register", "Validate", "Get", "List", "DescribeDerivatives", "Delete"],
        "JobService": ["Create", "Get", "List", "Watch", "Cancel", "Retry", "Verify", "Delete", "Expire", "ListFailures", "ReadResult"],
    }


def test_computing_streams_its_answer(files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    (service,) = files["jacloom_api/v1/derivative_service.proto"].service
    streamed = {method.name for method in service.method if method.server_streaming and not method.client_streaming}
    assert streamed == {method.name for method in service.method} - {"Explain", "Diagnose"}


def test_reasons_are_those_of_the_wire(files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    (reasons,) = files["jacloom_api/v1/error.proto"].enum_type
    assert [value.name for value in reasons.value] == ["REASON_UNSPECIFIED", *(reason.value for reason in Reason)]
    assert [reason.name for reason in Reason] == [reason.value for reason in Reason]
