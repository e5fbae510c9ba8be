"""A codec reads inputs and writes answers in one protocol of one service."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from gureum.errors import ApiError
from gureum.gateway.body import Body
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.message import Answer, Headers, Request
from gureum.gateway.query import Parser, QueryPlans, grow
from gureum.gateway.scalars import InputError
from gureum.gateway.shapes import Operation, Service, Shape
from gureum.gateway.xml_out import Write, XmlPlans, escape

log = logging.getLogger(__name__)

XML = b"text/xml;charset=UTF-8"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


class Fault(msgspec.Struct):
    """An ApiError, matched with the error shape of the model if it has one."""

    error: ApiError
    code: str
    """As the query protocols say it."""
    name: str
    """The shape's name, as the JSON and CBOR protocols say it."""
    status: int
    shape: Shape | None

    @property
    def sender(self) -> bool:
        return self.status < 500


class Codec:
    """The common part. A subclass is one protocol."""

    protocol = ""

    def __init__(self, catalogue: Catalogue, service: Service, limits: Limits) -> None:
        self.catalogue = catalogue
        self.service = service
        self.limits = limits
        self._operations: dict[str, Operation] = {}

    reads_forms = False

    def locate(self, request: Request) -> tuple[str, dict[str, str]]:
        """The operation's name ("" if the request has none) and the labels of its path."""
        raise NotImplementedError

    def operation(self, name: str) -> Operation | None:
        found = self._operations.get(name)
        if found is None and name:
            found = self.catalogue.operation(self.service.name, name)
            if found is not None:
                self._operations[name] = found
        return found

    def streams(self, operation: Operation) -> bool:
        """Whether the request's body goes to the operation as a stream."""
        return False

    def parse(
        self, operation: Operation, request: Request, labels: dict[str, str], body: Body
    ) -> dict[str, Any]:
        raise NotImplementedError

    def render(self, operation: Operation, output: Any, request_id: str) -> Answer:
        raise NotImplementedError

    def render_error(self, fault: Fault, request: Request | None, request_id: str) -> Answer:
        raise NotImplementedError

    def answer_error(self, error: ApiError, request: Request, request_id: str) -> Answer:
        """The answer for an error; without its further fields, if those do not fit the model."""
        try:
            return self.render_error(self.fault(error), request, request_id)
        except Exception:
            log.exception("request %s: error %s has fields that do not fit", request_id, error.code)
            plain = ApiError(error.code, error.message, error.status)
            return self.render_error(self.fault(plain), request, request_id)

    def fault(self, error: ApiError) -> Fault:
        name = self.service.errors.get(error.code)
        if name is None:
            return Fault(error, error.code, error.code, error.status, None)
        shape = self.catalogue.shape(self.service.name, name)
        status = error.status
        if status == 400:  # what ApiError says unless told otherwise: the model knows better
            status = shape.error_status or (500 if shape.fault else 400)
        return Fault(error, shape.error_code or name, name, status, shape)


class QueryCodec(Codec):
    """query, and with ``ec2`` the ec2 protocol: forms in, XML out."""

    def __init__(self, catalogue: Catalogue, service: Service, limits: Limits, *, ec2: bool) -> None:
        super().__init__(catalogue, service, limits)
        self.protocol = "ec2" if ec2 else "query"
        self._ec2 = ec2
        self._inputs = QueryPlans(catalogue, service.name, ec2=ec2)
        self.outputs = XmlPlans(catalogue, service.name, self.protocol)
        self._parsers: dict[str, Parser] = {}
        self._writers: dict[str, tuple[str, Write | None, str]] = {}

    reads_forms = True

    def locate(self, request: Request) -> tuple[str, dict[str, str]]:
        return next((value for name, value in request.query if name == "Action"), ""), {}

    def parse(
        self, operation: Operation, request: Request, labels: dict[str, str], body: Body
    ) -> dict[str, Any]:
        """``request.query`` holds the pairs of the query string and of the form."""
        tree = grow(request.query, self.limits)
        tree.pop("Action", None)
        tree.pop("Version", None)
        if not operation.input:
            if tree:
                raise InputError("unknown", "", next(iter(tree)))
            return {}
        parsed: dict[str, Any] = self._inputs.structure(operation.input)(tree)
        return parsed

    def render(self, operation: Operation, output: Any, request_id: str) -> Answer:
        frame = self._writers.get(operation.name)
        if frame is None:
            frame = self._writers[operation.name] = self._frame(operation)
        opening, write, closing = frame
        out = [opening, request_id, "</requestId>"] if self._ec2 else [opening]
        if write is not None and output is not None:
            write(output, out)
        out.append(closing)
        if not self._ec2:
            out += (request_id, "</RequestId></ResponseMetadata></", operation.name, "Response>")
        return Answer(200, self._headers(request_id), "".join(out).encode("utf-8", "replace"))

    def _frame(self, operation: Operation) -> tuple[str, Write | None, str]:
        name = operation.name
        write = self.outputs.structure(operation.output) if operation.output else None
        opening = f'{DECLARATION}<{name}Response xmlns="{self.service.namespace}">'
        if self._ec2:
            # An operation without an output says that it worked.
            done = "" if operation.output else "<return>true</return>"
            return opening + "<requestId>", write, f"{done}</{name}Response>"
        metadata = "<ResponseMetadata><RequestId>"
        if write is None:
            return opening, None, metadata
        wrapper = operation.result_wrapper or f"{name}Result"
        return f"{opening}<{wrapper}>", write, f"</{wrapper}>{metadata}"

    def _headers(self, request_id: str) -> Headers:
        return [(b"content-type", XML), (b"x-amzn-requestid", request_id.encode("ascii"))]

    def render_error(self, fault: Fault, request: Request | None, request_id: str) -> Answer:
        code, message = escape(fault.code), escape(fault.error.message)
        members = self._error_members(fault)
        if self._ec2:
            body = (
                f"{DECLARATION}<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message>{members}"
                f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
            )
        else:
            sender = "Sender" if fault.sender else "Receiver"
            body = (
                f'{DECLARATION}<ErrorResponse xmlns="{self.service.namespace}"><Error><Type>{sender}</Type>'
                f"<Code>{code}</Code><Message>{message}</Message>{members}</Error>"
                f"<RequestId>{request_id}</RequestId></ErrorResponse>"
            )
        return Answer(fault.status, self._headers(request_id), body.encode("utf-8", "replace"))

    def _error_members(self, fault: Fault) -> str:
        fields = fault.error.fields
        if fault.shape is None or not fields:
            return ""
        out: list[str] = []
        self.outputs.structure(fault.shape.name)(
            {k: v for k, v in fields.items() if k not in ("Code", "Message", "Type")}, out
        )
        return "".join(out)
