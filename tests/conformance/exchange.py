"""One signed exchange between botocore and the gateway, without a socket."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, HeadersDict, create_request_object, prepare_request_dict
from botocore.credentials import Credentials

from gureum.gateway.app import Gateway
from gureum.gateway.body import Body
from gureum.gateway.call import Call, Credential
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits

from .models import operation_model, serializer, service_model

KEY = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
ENDPOINT = "http://localhost:4566"


class Recorder:
    """A dispatch that keeps the call and answers what it was told to."""

    def __init__(self) -> None:
        self.answer: Any = {}
        self.call: Call | None = None

    async def __call__(self, call: Call) -> Any:
        self.call = call
        for name, value in call.input.items():
            if isinstance(value, Body):
                call.input[name] = await value.read(1 << 20)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def implemented(self, service: str, operation: str) -> bool:
        return True


class Cloud:
    """A gateway with one access key and a recorder behind it. ``skew`` moves its clock, in seconds."""

    def __init__(self, catalogue: Catalogue, limits: Limits | None = None) -> None:
        self.recorder = Recorder()
        self.skew = 0.0
        self.gateway = Gateway(
            self.recorder,
            self._credential,
            lambda: time.time() + self.skew,
            limits or Limits(),
            catalogue=catalogue,
        )

    async def _credential(self, key: str) -> Credential | None:
        return Credential(access_key=KEY, secret=SECRET, principal="root") if key == KEY else None

    async def send(self, request: AWSPreparedRequest) -> dict[str, Any]:
        """The gateway's answer, as botocore's parsers take it."""
        return await exchange(self.gateway, scope_of(request), body_of(request))


def body_of(request: AWSPreparedRequest) -> bytes:
    body = request.body or b""
    return body.encode() if isinstance(body, str) else bytes(body)


def scope_of(request: AWSPreparedRequest) -> dict[str, Any]:
    url = urlsplit(request.url)
    headers = [(b"host", url.netloc.encode())]
    for name, value in request.headers.items():
        raw = value if isinstance(value, bytes) else str(value).encode()
        headers.append((name.lower().encode(), raw))
    return {
        "type": "http",
        "method": request.method,
        "raw_path": url.path.encode() or b"/",
        "query_string": url.query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 50000),
    }


async def exchange(gateway: Gateway, scope: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    received = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return received.pop() if received else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway(dict(scope), receive, send)
    start, *pieces = sent
    return {
        "status_code": start["status"],
        "headers": HeadersDict({k.decode(): v.decode() for k, v in start["headers"]}),
        "body": b"".join(piece.get("body", b"") for piece in pieces),
        "context": {},
    }


def signed(
    service: str,
    operation: str,
    protocol: str,
    params: dict[str, Any],
    alter: Callable[[bytes], bytes] | None = None,
) -> AWSPreparedRequest:
    """The request that botocore makes of ``params``, signed; ``alter`` changes its body before that."""
    model = operation_model(service, operation)
    serialized = serializer(protocol).serialize_to_request(params, model)
    serialized.pop("host_prefix", None)
    prepare_request_dict(serialized, ENDPOINT, context={}, user_agent="test")
    request = create_request_object(serialized)
    if alter is not None:
        request.data = alter(body_of(request.prepare()))
    metadata = service_model(service).metadata
    name = metadata.get("signingName") or metadata["endpointPrefix"]
    signer = S3SigV4Auth if name == "s3" else SigV4Auth
    signer(Credentials(KEY, SECRET), name, "us-east-1").add_auth(request)
    return request.prepare()


class Stream(io.BytesIO):
    """A body that botocore takes for a stream, which it leaves alone."""
