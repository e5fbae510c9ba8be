"""The protocols with one path for all operations: json 1.0 and 1.1, and smithy-rpc-v2-cbor."""

from __future__ import annotations

import re
from typing import Any

from gureum.gateway.body import Body
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.codecs import Codec, Fault
from gureum.gateway.documents import (
    DocumentPlans,
    Format,
    decode_cbor,
    decode_json,
    encode_cbor,
    encode_json,
)
from gureum.gateway.events import EventWriter
from gureum.gateway.eventstream import CONTENT_TYPE as EVENT_STREAM
from gureum.gateway.limits import Limits
from gureum.gateway.message import Answer, Headers, Request
from gureum.gateway.scalars import InputError
from gureum.gateway.shapes import Operation, Ref, Service

CBOR = "smithy-rpc-v2-cbor"
CBOR_PATH = re.compile(r"/service/([A-Za-z0-9_.]+)/operation/([A-Za-z0-9_]+)/?\Z")


class RpcCodec(Codec):
    """What JSON and CBOR have in common: a document each way, and how errors look."""

    def __init__(self, catalogue: Catalogue, service: Service, limits: Limits, *, cbor: bool) -> None:
        super().__init__(catalogue, service, limits)
        self.protocol = CBOR if cbor else "json"
        self._cbor = cbor
        self.plans = DocumentPlans(catalogue, service.name, Format(cbor=cbor))
        self._encode = encode_cbor if cbor else encode_json
        version = service.json_version or "1.1"
        self._content_type = (
            b"application/cbor" if cbor else f"application/x-amz-json-{version}".encode("ascii")
        )
        self._events: dict[str, tuple[str, EventWriter | None]] = {}

    def locate(self, request: Request) -> tuple[str, dict[str, str]]:
        if self._cbor:
            match = CBOR_PATH.match(request.raw_path)
            fits = match is not None and request.method == "POST" and match[1] == self.service.target_prefix
            return (match[2] if match is not None and fits else ""), {}
        prefix, _, name = request.headers.get("x-amz-target", "").partition(".")
        return (name if prefix == self.service.target_prefix else ""), {}

    def parse(
        self, operation: Operation, request: Request, labels: dict[str, str], body: Body
    ) -> dict[str, Any]:
        if not operation.input:
            return {}
        document: Any = {}
        if request.body:
            document = (decode_cbor if self._cbor else decode_json)(request.body, self.limits)
        if type(document) is not dict:
            raise InputError("malformed", "The body is not a structure")
        parsed: dict[str, Any] = self.plans.structure_reader(operation.input)(document)
        return parsed

    def render(self, operation: Operation, output: Any, request_id: str) -> Answer:
        document: dict[str, Any] = {}
        member, events = self._event_member(operation)
        if operation.output and output is not None:
            plain = output if not member else {k: v for k, v in output.items() if k != member}
            document = self.plans.structure_writer(operation.output)(plain)
        if events is not None:
            headers = self._headers(request_id, EVENT_STREAM)
            return Answer(200, headers, events.frames(output[member], self._encode(document), request_id))
        return Answer(200, self._headers(request_id, self._content_type), self._encode(document))

    def _event_member(self, operation: Operation) -> tuple[str, EventWriter | None]:
        found = self._events.get(operation.name)
        if found is None:
            found = self._events[operation.name] = self._find_events(operation)
        return found

    def _find_events(self, operation: Operation) -> tuple[str, EventWriter | None]:
        if operation.output:
            for ref in self.catalogue.shape(self.service.name, operation.output).members:
                if ref.kind == "structure":
                    stream = self.catalogue.shape(self.service.name, ref.shape)
                    if stream.event_stream:
                        writer = EventWriter(
                            self.catalogue,
                            self.service.name,
                            stream,
                            self._write,
                            self._content_type.decode(),
                        )
                        return ref.name, writer
        return "", None

    def _write(self, ref: Ref, value: Any) -> bytes:
        return self._encode(self.plans.structure_writer(ref.shape)(value))

    def _headers(self, request_id: str, content_type: bytes) -> Headers:
        headers = [(b"content-type", content_type), (b"x-amzn-requestid", request_id.encode("ascii"))]
        if self._cbor:
            headers.append((b"smithy-protocol", b"rpc-v2-cbor"))
        return headers

    def render_error(self, fault: Fault, request: Request | None, request_id: str) -> Answer:
        document = error_document(self.plans, fault)
        document["__type"] = fault.name
        headers = self._headers(request_id, self._content_type)
        if self.service.query_compatible:
            side = "Sender" if fault.sender else "Receiver"
            headers.append((b"x-amzn-query-error", f"{fault.code};{side}".encode("latin-1", "replace")))
        return Answer(fault.status, headers, self._encode(document))


def error_document(plans: DocumentPlans, fault: Fault) -> dict[str, Any]:
    """The body of an error: its shape's members, the message under the name that the shape has for it."""
    message = "message"
    fields: dict[str, Any] = {}
    if fault.shape is not None:
        ref = fault.shape.member("message") or fault.shape.member("Message")
        if ref is not None:
            message = ref.wire_name
        fields = plans.structure_writer(fault.shape.name)(fault.error.fields)
    fields[message] = fault.error.message
    return fields
