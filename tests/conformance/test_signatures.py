"""No operation lets a forged, expired or altered request through; each says so as its service does."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest

from .exchange import Cloud, body_of, exchange, scope_of, signed
from .generate import Generator
from .models import cases, operation_model, parser
from .test_round_trip import make_input

CODES = {
    "SignatureDoesNotMatch", "InvalidSignatureException", "AuthFailure", "RequestExpired",
    "RequestTimeTooSkewed", "InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException",
}  # fmt: skip
ANONYMOUS = {"AssumeRoleWithWebIdentity", "AssumeRoleWithSAML"}


def refused(answer: dict[str, Any], protocol: str, cloud: Cloud) -> None:
    assert cloud.recorder.call is None
    assert answer["status_code"] == 403
    code = parser(protocol).parse(answer, None)["Error"]["Code"]
    assert code in CODES or (code == "403" and not answer["body"])  # an answer to HEAD has no body


async def send(cloud: Cloud, request: AWSPreparedRequest, **changed: Any) -> dict[str, Any]:
    """The request as it was signed, but with ``changed`` parts of its scope or body."""
    cloud.recorder.call = None
    body = changed.pop("body", body_of(request))
    return await exchange(cloud.gateway, {**scope_of(request), **changed}, body)


def with_header(request: AWSPreparedRequest, name: bytes, value: bytes | None) -> list[tuple[bytes, bytes]]:
    kept = [pair for pair in scope_of(request)["headers"] if pair[0] != name]
    return kept if value is None else [*kept, (name, value)]


@pytest.mark.parametrize(("service", "operation", "protocol"), cases())
async def test_refused(cloud: Cloud, service: str, operation: str, protocol: str) -> None:
    generator = Generator(f"{service}.{operation}.{protocol}", "sparse")
    params, _ = make_input(operation_model(service, operation), generator, protocol)
    request = signed(service, operation, protocol, params)
    authorization = request.headers["Authorization"]
    authorization = authorization if isinstance(authorization, str) else authorization.decode()
    flipped = authorization[:-1] + ("0" if authorization[-1] != "0" else "1")

    forged = with_header(request, b"authorization", flipped.encode())
    refused(await send(cloud, request, headers=forged), protocol, cloud)

    unknown = with_header(
        request, b"authorization", authorization.replace("AKIDEXAMPLE", "AKIDOTHER").encode()
    )
    refused(await send(cloud, request, headers=unknown), protocol, cloud)

    query = scope_of(request)["query_string"]
    refused(await send(cloud, request, query_string=query + b"&x=y" if query else b"x=y"), protocol, cloud)

    added = with_header(request, b"x-amz-meta-more", b"unsigned")
    refused(await send(cloud, request, headers=added), protocol, cloud)

    if operation not in ANONYMOUS:
        unsigned = with_header(request, b"authorization", None)
        answer = await send(cloud, request, headers=unsigned)
        assert cloud.recorder.call is None
        assert answer["status_code"] == 403  # nothing says which service it was for: S3 may answer

    if service not in ("s3", "s3control"):  # their header has the body's hash: see test_s3
        refused(await send(cloud, request, body=body_of(request) + b" "), protocol, cloud)

    cloud.skew = 16 * 60
    refused(await send(cloud, request), protocol, cloud)
    cloud.skew = -16 * 60
    refused(await send(cloud, request), protocol, cloud)
