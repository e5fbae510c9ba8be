"""Every operation, in every protocol of its service, against botocore's serialiser and parser."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.model import OperationModel, StructureShape

from gureum.errors import ApiError
from gureum.gateway.checksums import ALGORITHMS, HEADER_PREFIX

from .exchange import Cloud, Stream, signed
from .generate import Generator
from .models import NEEDED, SERVICES, cases, operation_model, parser, protocols, service_model
from .normal import as_answered, as_sent

STYLES = ("full", "sparse", "edge")
MADE_BY_CLIENT = {
    "content-md5", "content-length", "x-amz-trailer",
    *(HEADER_PREFIX + name for name in (*ALGORITHMS, "xxhash3", "xxhash64", "xxhash128")),
}  # fmt: skip
"""Headers that say something of the body: random values are refused, as they should be."""


def skipped(shape: StructureShape) -> frozenset[str]:
    return frozenset(
        name
        for name, member in shape.members.items()
        if member.serialization.get("location") == "header"
        and member.serialization.get("name", name).lower() in MADE_BY_CLIENT
    )


def event_members(shape: StructureShape | None) -> frozenset[str]:
    if shape is None:
        return frozenset()
    return frozenset(n for n, m in shape.members.items() if m.serialization.get("eventstream"))


@pytest.mark.parametrize(("service", "operation", "protocol"), cases())
async def test_input_and_output(cloud: Cloud, service: str, operation: str, protocol: str) -> None:
    model = operation_model(service, operation)
    for style in STYLES:
        generator = Generator(f"{service}.{operation}.{protocol}", style)
        params, wanted = make_input(model, generator, protocol)
        output, expected = make_output(model, generator, protocol)
        cloud.recorder.answer, cloud.recorder.call = output, None
        answer = await cloud.send(signed(service, operation, protocol, params))
        call = cloud.recorder.call
        assert call is not None, answer
        assert (call.service, call.operation) == (service, operation)
        if "ContentLength" in call.input and "ContentLength" not in params:
            del call.input["ContentLength"]  # the header that every body has
        assert call.input == wanted
        assert (call.region, call.caller, call.source_ip) == ("us-east-1", "root", "127.0.0.1")
        assert answer["status_code"] < 300
        parsed = answered(model, protocol, answer)
        for header in {"ContentLength", "ContentType"} - expected.keys():
            parsed.pop(header, None)  # which every body has
        assert parsed == expected


def make_input(model: OperationModel, generator: Generator, protocol: str) -> tuple[dict[str, Any], Any]:
    shape = model.input_shape
    if shape is None:
        return {}, {}
    params = generator.structure(shape, skipped(shape))
    return params, received(shape, params, protocol)


def received(shape: StructureShape, params: dict[str, Any], protocol: str) -> Any:
    wanted = as_sent(shape, params, protocol)
    payload = shape.serialization.get("payload")
    if payload and protocol == "rest-json" and shape.members[payload].type_name == "structure":
        wanted.setdefault(payload, {})  # botocore sends an empty document for nothing
    if payload and shape.members[payload].type_name in ("blob", "string"):
        wanted.setdefault(payload, b"" if shape.members[payload].type_name == "blob" else "")
    return wanted


def make_output(model: OperationModel, generator: Generator, protocol: str) -> tuple[Any, Any]:
    shape = model.output_shape
    if shape is None:
        return None, {}
    output = generator.structure(shape, event_members(shape) | skipped(shape))
    if model.name == "GetBucketLocation":
        output = {"LocationConstraint": "eu-west-1"}
    for name, member in shape.members.items():
        if member.serialization.get("location") == "statusCode":
            output.setdefault(name, 200)
    expected = as_answered(shape, output, protocol)
    for name, member in shape.members.items():
        if member.serialization.get("location") == "headers":
            expected.setdefault(name, {})
    payload = shape.serialization.get("payload")
    if payload in event_members(shape) | {None}:
        for name in event_members(shape):
            output[name] = no_events()
    elif shape.members[payload].type_name in ("blob", "string"):
        expected.setdefault(payload, b"" if shape.members[payload].type_name == "blob" else "")
    elif shape.members[payload].type_name == "structure":
        expected.setdefault(payload, {})
    return output, expected


async def no_events() -> Any:
    return
    yield


def answered(model: OperationModel, protocol: str, answer: dict[str, Any]) -> Any:
    """The output as botocore's parser has it."""
    shape = model.output_shape
    if model.name == "GetBucketLocation":
        assert b">eu-west-1</LocationConstraint>" in answer["body"]
        return {"LocationConstraint": "eu-west-1"}
    events = event_members(shape)
    if model.has_streaming_output and not events:
        answer = {**answer, "body": Stream(answer["body"])}
    elif events:
        answer = {**answer, "body": EventSource(answer["body"])}
    parsed = parser(protocol).parse(answer, shape)
    metadata = parsed.pop("ResponseMetadata")
    assert metadata.get("RequestId") or (shape is None and protocol == "smithy-rpc-v2-cbor")
    parsed = {name: value for name, value in parsed.items() if name not in events}
    return {name: value.read() if isinstance(value, Stream) else value for name, value in parsed.items()}


class EventSource:
    """A response body as botocore's event streams read it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Any:
        yield self._body

    def close(self) -> None:
        pass


ERRORS = [
    (service, name, protocol)
    for service in SERVICES
    for name in sorted(shape.name for shape in service_model(service).error_shapes)
    for protocol in protocols(service)
]


def error_status(service: str, name: str) -> int:
    raw = service_model(service)._service_description["shapes"][name]
    return int(raw.get("error", {}).get("httpStatusCode", 500 if raw.get("fault") else 400))


@pytest.mark.parametrize(("service", "name", "protocol"), ERRORS)
async def test_errors(cloud: Cloud, service: str, name: str, protocol: str) -> None:
    model = service_model(service)
    shape = model.shape_for(name)
    code = shape.metadata.get("error", {}).get("code", name)
    for style in STYLES:
        generator = Generator(f"{service}.{name}.{protocol}", style)
        fields = generator.structure(shape, frozenset({"message", "Message", "Type", "Code"}))
        cloud.recorder.answer = ApiError(name, "What went wrong: <&> 구름", fields=fields)
        operation = NEEDED[service][0]
        params, _ = make_input(operation_model(service, operation), Generator("error", "sparse"), protocol)
        answer = await cloud.send(signed(service, operation, protocol, params))
        assert answer["status_code"] == error_status(service, name)
        parsed = parser(protocol).parse(answer, operation_model(service, operation).output_shape)
        assert parsed["Error"]["Code"] == code
        assert parsed["Error"]["Message"] == "What went wrong: <&> 구름"
        modelled = parser(protocol).parse(answer, shape)
        modelled = {k: v for k, v in modelled.items() if k not in ("message", "Message", "Type", "Code")}
        assert modelled == as_answered(shape, fields, protocol)
