"""Requests that no client would send: never a 500, never a hang, never an unsigned call."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from .exchange import Cloud, body_of, exchange, scope_of, signed
from .generate import Generator
from .models import AMBIGUOUS, SERVICES, operation_model, protocols, service_model
from .test_round_trip import make_input

few = settings(max_examples=150, deadline=2000, suppress_health_check=list(HealthCheck))

OPERATIONS = [
    (service, operation, protocol)
    for service in SERVICES
    for operation in list(service_model(service).operation_names)[::7]
    for protocol in protocols(service)
    if (service, operation) not in AMBIGUOUS
]
LATIN = st.characters(min_codepoint=0x20, max_codepoint=0xFF)
HEADER = st.tuples(
    st.sampled_from(
        [
            "authorization",
            "x-amz-date",
            "x-amz-target",
            "x-amz-content-sha256",
            "content-type",
            "host",
            "date",
            "x-amz-trailer",
            "x-amz-decoded-content-length",
            "x-amz-security-token",
            "smithy-protocol",
            "content-md5",
        ]
    ),
    st.one_of(
        st.text(LATIN, max_size=200),
        st.sampled_from(
            [
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/ec2/aws4_request, "
                "SignedHeaders=host, "
                "Signature=" + "0" * 64,
                "AWS4-HMAC-SHA256 Credential=a/b/c/s3/e,SignedHeaders=,Signature=",
                "application/x-www-form-urlencoded",
                "rpc-v2-cbor",
                "DynamoDB_20120810.ListTables",
                "UNSIGNED-PAYLOAD",
                "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
                "99991399T999999Z",
                "20260101T000000Z",
                "\xff\xfe",
                "",
            ]
        ),
    ),
)
QUERY = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"Action=RunInstances&Version=2016-11-15",
            b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=99",
            b"X-Amz-Signature=%ff",
            b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260101T000000Z&X-Amz-Expires=9"
            b"&X-Amz-SignedHeaders=%E2%98%81&X-Amz-Signature="
            + b"0" * 64
            + b"&X-Amz-Credential=AKIDEXAMPLE/20260101/%E2%98%81/s3/aws4_request",
            b"uploads&x-id=PutObject",
            b"&&=&",
        ]
    ),
)


async def send(cloud: Cloud, scope: dict[str, Any], body: bytes) -> dict[str, Any]:
    cloud.recorder.call, cloud.recorder.answer = None, {}
    return await exchange(cloud.gateway, scope, body)


@few
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"]),
    path=st.one_of(
        st.binary(max_size=100), st.sampled_from([b"/", b"/v20180820/tags/x", b"//", b"/%ff/%zz/%"])
    ),
    query=QUERY,
    headers=st.lists(HEADER, max_size=8),
    body=st.binary(max_size=300),
)
async def test_anything_unsigned(cloud: Cloud, **parts: Any) -> None:
    scope = {
        "type": "http",
        "method": parts["method"],
        "raw_path": b"/" + parts["path"].lstrip(b"/"),
        "query_string": parts["query"],
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in parts["headers"]],
        "client": None,
    }
    answer = await send(cloud, scope, parts["body"])
    assert 400 <= answer["status_code"] < 500
    assert cloud.recorder.call is None


@few
@given(which=st.sampled_from(OPERATIONS), data=st.data())
async def test_altered_signature(cloud: Cloud, which: tuple[str, str, str], data: st.DataObject) -> None:
    """Any byte of the Authorization header changed, or some cut out."""
    request = signed(
        *which, make_input(operation_model(*which[:2]), Generator("fuzz", "sparse"), which[2])[0]
    )
    scope = scope_of(request)
    headers = dict(scope["headers"])
    whole = headers[b"authorization"]
    at = data.draw(st.integers(0, len(whole) - 1))
    put = data.draw(st.binary(max_size=3))
    headers[b"authorization"] = altered = whole[:at] + put + whole[at + data.draw(st.integers(0, 9)) :]
    assume(b"".join(altered.split()) != b"".join(whole.split()))
    answer = await send(cloud, {**scope, "headers": list(headers.items())}, body_of(request))
    assert answer["status_code"] == 403
    assert cloud.recorder.call is None


def mutated(data: st.DataObject, whole: bytes) -> bytes:
    """``whole`` with pieces cut, doubled, or replaced by what parsers stumble over."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        end = min(len(whole), at + data.draw(st.integers(0, 12)))
        put = data.draw(
            st.one_of(
                st.binary(max_size=6),
                st.sampled_from(
                    [
                        b"[" * 500,
                        b"\x81" * 500,
                        b"<a>" * 300,
                        b".1" * 300,
                        b"&A=1&A.1=2",
                        b"%00",
                        b"NaN",
                        b"1e999",
                        b"9" * 5000,
                        b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
                        b"\xc2\x58\x20" + b"\xff" * 32,
                        b"&" * 50,
                        b"\xd8\x1d\x00",
                        b"null",
                        b'{"a":' * 200,
                        b"\xff\xff",
                        b"\xf9\x7e\x00",
                        b"=&=",
                        whole[at:end] * 3,
                    ]
                ),
            )
        )
        whole = whole[:at] + put + whole[end:]
    return whole


@few
@given(which=st.sampled_from(OPERATIONS), data=st.data())
async def test_mutated_bodies(cloud: Cloud, which: tuple[str, str, str], data: st.DataObject) -> None:
    """Signed as they are: the parsers get them."""
    service, operation, protocol = which
    style = data.draw(st.sampled_from(["full", "edge"]))
    params = make_input(operation_model(service, operation), Generator("fuzz", style), protocol)[0]
    request = signed(service, operation, protocol, params, alter=lambda body: mutated(data, body))
    answer = await send(cloud, scope_of(request), body_of(request))
    assert answer["status_code"] < 500, answer
    assert answer["status_code"] < 400 or len(answer["body"]) > 10 or request.method == "HEAD"
