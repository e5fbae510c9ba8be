"""The REST protocols: members in path, query, headers and status, and a body of JSON or XML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gureum.gateway.body import Body
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.codecs import DECLARATION, Codec, Fault
from gureum.gateway.documents import DocumentPlans, Format, decode_json, encode_json
from gureum.gateway.events import EventWriter
from gureum.gateway.eventstream import CONTENT_TYPE as EVENT_STREAM
from gureum.gateway.limits import Limits
from gureum.gateway.message import Answer, Headers, Request, utf8
from gureum.gateway.rest_bindings import Bindings, OutputBindings
from gureum.gateway.routing import Router, virtual_bucket
from gureum.gateway.rpc import error_document
from gureum.gateway.scalars import InputError
from gureum.gateway.shapes import Operation, Ref, Service, Shape
from gureum.gateway.xml_in import XmlInputs, read_document
from gureum.gateway.xml_out import XmlPlans, escape


class RestCodec(Codec):
    """What rest-json and rest-xml have in common. A subclass knows the bodies."""

    content_type = b""

    def __init__(
        self, catalogue: Catalogue, service: Service, limits: Limits, domains: tuple[str, ...]
    ) -> None:
        super().__init__(catalogue, service, limits)
        self._router = Router(service.routes)
        self._domains = domains
        self._inputs: dict[str, Bindings] = {}
        self._outputs: dict[str, OutputBindings] = {}
        self._event_writers: dict[str, EventWriter] = {}

    def locate(self, request: Request) -> tuple[str, dict[str, str]]:
        path = request.raw_path
        if self.service.name == "s3":
            bucket = virtual_bucket(request.host, self._domains)
            if bucket:
                path = f"/{bucket}{path}"
        found = self._router.find(request.method, path, request.query_map, request.headers)
        if found is None:
            return "", {}
        return found[0], {name: utf8(value, "The path") for name, value in found[1].items()}

    def _input(self, operation: Operation) -> Bindings:
        found = self._inputs.get(operation.name)
        if found is None:
            shape = self.catalogue.shape(self.service.name, operation.input)
            found = self._inputs[operation.name] = Bindings(self.catalogue, self.service.name, shape)
        return found

    def streams(self, operation: Operation) -> bool:
        return bool(operation.input) and self._input(operation).streams

    def parse(
        self, operation: Operation, request: Request, labels: dict[str, str], body: Body
    ) -> dict[str, Any]:
        if not operation.input:
            return {}
        bindings = self._input(operation)
        parsed = bindings.read(request, labels)
        payload = bindings.payload
        if payload is not None:
            if bindings.streams:
                parsed[payload.name] = body
            elif payload.kind == "blob":
                parsed[payload.name] = request.body
            elif payload.kind == "string":
                parsed[payload.name] = utf8(request.body.decode("latin-1"), "The body")
            elif request.body:
                parsed[payload.name] = self.read_body(payload.shape, request.body)
        elif bindings.has_body:
            parsed.update(self.read_body(operation.input, request.body))
        bindings.check_required(parsed)
        return parsed

    def render(self, operation: Operation, output: Any, request_id: str) -> Answer:
        headers = self.headers(request_id)
        status = operation.response_code or 200
        if not operation.output:
            return Answer(status, headers, b"")
        bindings = self._outputs.get(operation.name)
        if bindings is None:
            shape = self.catalogue.shape(self.service.name, operation.output)
            bindings = self._outputs[operation.name] = OutputBindings(
                self.catalogue, self.service.name, shape
            )
        output = output if output is not None else {}
        status = bindings.write(output, headers, status)
        if self.service.name == "s3" and output.get("ContentRange"):
            status = 206
        payload = bindings.payload
        if payload is None:
            if not bindings.has_body:
                return Answer(status, headers, b"")
            self._add_type(headers, self.content_type)
            return Answer(status, headers, self.write_output(operation, bindings.shape, output))
        return self._payload(operation, payload, output, Answer(status, headers, b""), request_id)

    def _payload(
        self, operation: Operation, payload: Ref, output: Any, answer: Answer, request_id: str
    ) -> Answer:
        value = output.get(payload.name)
        if payload.kind in ("blob", "string"):
            if isinstance(value, str):
                value = value.encode()
            self._add_type(answer.headers, b"application/octet-stream" if payload.kind == "blob" else b"")
            return answer._replace(body=b"" if value is None else value)
        stream = self.catalogue.shape(self.service.name, payload.shape)
        if stream.event_stream:
            writer = self._event_writers.get(payload.shape)
            if writer is None:
                writer = self._event_writers[payload.shape] = EventWriter(
                    self.catalogue,
                    self.service.name,
                    stream,
                    self.write_structure,
                    self.content_type.decode(),
                )
            self._add_type(answer.headers, EVENT_STREAM)
            return answer._replace(body=writer.frames(value, None, request_id))
        if value is None:
            return answer
        self._add_type(answer.headers, self.content_type)
        return answer._replace(body=self.write_structure(payload, value))

    @staticmethod
    def _add_type(headers: Headers, content_type: bytes) -> None:
        if content_type and not any(name == b"content-type" for name, _ in headers):
            headers.append((b"content-type", content_type))

    def headers(self, request_id: str) -> Headers:
        return [(b"x-amzn-requestid", request_id.encode("ascii"))]

    def read_body(self, shape: str, body: bytes) -> dict[str, Any]:
        raise NotImplementedError

    def write_structure(self, ref: Ref, value: Any) -> bytes:
        raise NotImplementedError

    def write_output(self, operation: Operation, shape: Shape, output: Any) -> bytes:
        raise NotImplementedError


class RestJsonCodec(RestCodec):
    protocol = "rest-json"
    content_type = b"application/json"

    def __init__(
        self, catalogue: Catalogue, service: Service, limits: Limits, domains: tuple[str, ...]
    ) -> None:
        super().__init__(catalogue, service, limits, domains)
        self._plans = DocumentPlans(catalogue, service.name, Format(cbor=False))

    def read_body(self, shape: str, body: bytes) -> dict[str, Any]:
        document = decode_json(body, self.limits) if body else {}
        if type(document) is not dict:
            raise InputError("malformed", "The body is not a structure")
        parsed: dict[str, Any] = self._plans.structure_reader(shape)(document)
        return parsed

    def write_structure(self, ref: Ref, value: Any) -> bytes:
        return encode_json(self._plans.structure_writer(ref.shape)(value))

    def write_output(self, operation: Operation, shape: Shape, output: Any) -> bytes:
        return encode_json(self._plans.structure_writer(shape.name)(output))

    def render_error(self, fault: Fault, request: Request | None, request_id: str) -> Answer:
        headers = self.headers(request_id)
        headers += [
            (b"content-type", self.content_type),
            (b"x-amzn-errortype", fault.name.encode("latin-1", "replace")),
        ]
        if fault.shape is not None:
            OutputBindings(self.catalogue, self.service.name, fault.shape).write(
                fault.error.fields, headers, 0
            )
        return Answer(fault.status, headers, encode_json(error_document(self._plans, fault)))


_S3_ROOTS = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "CreateSession": "CreateSessionResult",
    "DeleteObjects": "DeleteResult",
    "GetBucketAccelerateConfiguration": "AccelerateConfiguration",
    "GetBucketAcl": "AccessControlPolicy",
    "GetBucketCors": "CORSConfiguration",
    "GetBucketLifecycle": "LifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "LifecycleConfiguration",
    "GetBucketLogging": "BucketLoggingStatus",
    "GetBucketNotification": "NotificationConfiguration",
    "GetBucketNotificationConfiguration": "NotificationConfiguration",
    "GetBucketRequestPayment": "RequestPaymentConfiguration",
    "GetBucketTagging": "Tagging",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetBucketWebsite": "WebsiteConfiguration",
    "GetObjectAcl": "AccessControlPolicy",
    "GetObjectAttributes": "GetObjectAttributesResponse",
    "GetObjectTagging": "Tagging",
    "ListBucketAnalyticsConfigurations": "ListBucketAnalyticsConfigurationResult",
    "ListBucketIntelligentTieringConfigurations": "ListBucketIntelligentTieringConfigurationsOutput",
    "ListBucketInventoryConfigurations": "ListInventoryConfigurationsResult",
    "ListBucketMetricsConfigurations": "ListMetricsConfigurationsResult",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListDirectoryBuckets": "ListAllMyDirectoryBucketsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListParts": "ListPartsResult",
}
"""Root elements that S3's own model names and botocore's does not (botocore reads any root)."""
_S3_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class RestXmlCodec(RestCodec):
    protocol = "rest-xml"
    content_type = b"application/xml"

    def __init__(
        self, catalogue: Catalogue, service: Service, limits: Limits, domains: tuple[str, ...]
    ) -> None:
        super().__init__(catalogue, service, limits, domains)
        self._readers = XmlInputs(catalogue, service.name)
        self.outputs = XmlPlans(catalogue, service.name, "rest-xml")
        self._is_s3 = service.name == "s3"
        namespace = _S3_NAMESPACE if self._is_s3 else service.namespace
        self._xmlns = f' xmlns="{namespace}"' if namespace else ""

    def headers(self, request_id: str) -> Headers:
        encoded = request_id.encode("ascii")
        return [(b"x-amz-request-id", encoded), (b"x-amz-id-2", encoded)]

    def read_body(self, shape: str, body: bytes) -> dict[str, Any]:
        parsed: dict[str, Any] = (
            self._readers.structure(shape)(read_document(body, self.limits)) if body else {}
        )
        return parsed

    def write_structure(self, ref: Ref, value: Any) -> bytes:
        return self._document(ref.wire_name, self.outputs.structure(ref.shape), value)

    def write_output(self, operation: Operation, shape: Shape, output: Any) -> bytes:
        if self._is_s3 and operation.name == "GetBucketLocation":
            text = escape(output.get("LocationConstraint") or "")
            return f"{DECLARATION}<LocationConstraint{self._xmlns}>{text}</LocationConstraint>".encode()
        root = _S3_ROOTS.get(operation.name, shape.name) if self._is_s3 else shape.name
        return self._document(root, self.outputs.structure(shape.name), output)

    def _document(self, root: str, write: Callable[[Any, list[str]], None], value: Any) -> bytes:
        out = [f"{DECLARATION}<{root}{self._xmlns}>"]
        write(value, out)
        out.append(f"</{root}>")
        return "".join(out).encode("utf-8", "replace")

    def render_error(self, fault: Fault, request: Request | None, request_id: str) -> Answer:
        headers = self.headers(request_id)
        headers.append((b"content-type", self.content_type))
        out: list[str] = []
        if fault.shape is not None and fault.error.fields:
            self.outputs.structure(fault.shape.name)(fault.error.fields, out)
        elif fault.error.fields:
            out += [f"<{escape(k)}>{escape(str(v))}</{escape(k)}>" for k, v in fault.error.fields.items()]
        members = "".join(out)
        code, message = escape(fault.code), escape(fault.error.message)
        if self._is_s3:
            resource = f"<Resource>{escape(request.raw_path)}</Resource>" if request else ""
            body = (
                f"{DECLARATION}<Error><Code>{code}</Code><Message>{message}</Message>{members}{resource}"
                f"<RequestId>{request_id}</RequestId><HostId>{request_id}</HostId></Error>"
            )
        else:
            sender = "Sender" if fault.sender else "Receiver"
            body = (
                f"{DECLARATION}<ErrorResponse{self._xmlns}><Error><Type>{sender}</Type><Code>{code}</Code>"
                f"<Message>{message}</Message>{members}</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
            )
        return Answer(fault.status, headers, body.encode("utf-8", "replace"))
