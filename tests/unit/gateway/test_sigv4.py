from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from gureum.gateway.call import Credential
from gureum.gateway.errors import AuthError, AuthFault
from gureum.gateway.message import Request
from gureum.gateway.sigv4 import (
    UNSIGNED,
    Claim,
    Verifier,
    canonical_paths,
    canonical_query,
    claimed_service,
    read_claim,
)

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
# From "Examples: Signature Calculations in AWS Signature Version 4" of the S3 manual.
KEY = Credential(access_key="AKIAIOSFODNN7EXAMPLE", secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = 1369353600.0  # 2013-05-24T00:00:00Z
SCOPE = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
GET_OBJECT = {
    "host": "examplebucket.s3.amazonaws.com",
    "range": "bytes=0-9",
    "x-amz-content-sha256": EMPTY,
    "x-amz-date": "20130524T000000Z",
    "authorization": (
        f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    ),
}
SIGNED = GET_OBJECT["authorization"]
PRESIGNED = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3"
    "%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
)


def request(
    headers: dict[str, str], path: str = "/test.txt", query: str = "", more: tuple[tuple[str, str], ...] = ()
) -> Request:
    pairs = [*headers.items(), *more]
    made = Request(
        {
            "method": "GET",
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in pairs],
        }
    )
    made.query = parse_qsl(query, keep_blank_values=True)
    return made


def verify(made: Request, now: float = NOW, credential: Credential | None = KEY) -> Claim:
    claim = read_claim(made)
    assert claim is not None
    verifier = Verifier()
    verifier.check_time(claim, now)
    verifier.check(made, claim, credential, claim.payload, now)
    verifier.check(made, claim, credential, claim.payload, now)  # with the key that was kept
    return claim


def fault(made: Request, now: float = NOW, credential: Credential | None = KEY) -> AuthFault:
    with pytest.raises(AuthError) as caught:
        verify(made, now, credential)
    return caught.value.fault


def test_header_example() -> None:
    claim = verify(request(GET_OBJECT))
    assert (claim.region, claim.service, claim.scope) == ("us-east-1", "s3", SCOPE.partition("/")[2])


def test_presigned_example() -> None:
    made = request({"host": "examplebucket.s3.amazonaws.com"}, query=PRESIGNED)
    assert verify(made).payload == UNSIGNED
    assert made.query == []


def test_list_example() -> None:
    headers = {
        **GET_OBJECT,
        "authorization": (
            f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
            "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        ),
    }
    del headers["range"]
    verify(request(headers, path="/", query="max-keys=2&prefix=J"))
    assert fault(request(headers, path="/", query="max-keys=3&prefix=J")) is AuthFault.MISMATCH


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"range": "bytes=0-8"}, AuthFault.MISMATCH),
        ({"x-amz-meta-new": "1"}, AuthFault.MISMATCH),
        ({"x-amz-content-sha256": "0" * 64}, AuthFault.MISMATCH),
        ({"x-amz-content-sha256": "STREAMING-AWS4-NEWER-PAYLOAD"}, AuthFault.MISMATCH),
        ({"x-amz-content-sha256": "unsigned-payload"}, AuthFault.MISMATCH),
        ({"x-amz-content-sha256": None}, AuthFault.INCOMPLETE),
        ({"x-amz-date": "20130524T000001Z"}, AuthFault.MISMATCH),
        ({"x-amz-date": "20130525T000000Z"}, AuthFault.INCOMPLETE),
        ({"x-amz-date": "2013-05-24"}, AuthFault.INCOMPLETE),
        ({"x-amz-date": None}, AuthFault.INCOMPLETE),
        ({"host": None}, AuthFault.MISMATCH),
        ({"x-amz-security-token": "t"}, AuthFault.MISMATCH),
        ({"authorization": "Bearer x"}, AuthFault.INCOMPLETE),
        ({"authorization": "AWS4-HMAC-SHA256"}, AuthFault.INCOMPLETE),
        ({"authorization": SIGNED + ",Signature=" + "0" * 64}, AuthFault.INCOMPLETE),
        ({"authorization": SIGNED[:-1]}, AuthFault.MISMATCH),
        ({"authorization": SIGNED.replace("host;", "")}, AuthFault.INCOMPLETE),
        (
            {"authorization": SIGNED.replace("range;", "range;range;")},
            AuthFault.INCOMPLETE,
        ),
        (
            {"authorization": SIGNED.replace("us-east-1", "us-east-2")},
            AuthFault.MISMATCH,
        ),
        (
            {"authorization": SIGNED.replace("aws4_request", "aws5")},
            AuthFault.INCOMPLETE,
        ),
        ({"authorization": SIGNED.replace("HMAC", "ECDSA")}, AuthFault.INCOMPLETE),
    ],
)
def test_altered(changed: dict[str, str | None], expected: AuthFault) -> None:
    headers = {name: value for name, value in {**GET_OBJECT, **changed}.items() if value is not None}
    assert fault(request(headers)) is expected


def test_skew() -> None:
    verify(request(GET_OBJECT), NOW + 900)
    verify(request(GET_OBJECT), NOW - 900)
    assert fault(request(GET_OBJECT), NOW + 901) is AuthFault.SKEWED
    assert fault(request(GET_OBJECT), NOW - 901) is AuthFault.SKEWED


def test_presigned_expiry() -> None:
    host = {"host": "examplebucket.s3.amazonaws.com"}
    verify(request(host, query=PRESIGNED), NOW + 86400)
    assert fault(request(host, query=PRESIGNED), NOW + 86401) is AuthFault.EXPIRED
    assert fault(request(host, query=PRESIGNED), NOW - 901) is AuthFault.SKEWED


@pytest.mark.parametrize(
    "query",
    [
        PRESIGNED.replace("86400", "604801"),
        PRESIGNED.replace("86400", "-1"),
        PRESIGNED.replace("&X-Amz-Expires=86400", ""),
        PRESIGNED + "&X-Amz-Expires=86400",
        PRESIGNED.replace("HMAC-SHA256", "HMAC-SHA1"),
        PRESIGNED.replace("SignedHeaders=host", "SignedHeaders=h%E2%98%81st"),
        PRESIGNED.replace("AKIA", "%E2%98%81"),
    ],
)
def test_presigned_malformed(query: str) -> None:
    assert fault(request({"host": "h"}, query=query)) is AuthFault.INCOMPLETE


def test_both_kinds_of_credentials() -> None:
    assert fault(request(GET_OBJECT, query=PRESIGNED)) is AuthFault.INCOMPLETE


def test_doubled_headers() -> None:
    assert fault(request(GET_OBJECT, more=(("range", "bytes=0-9"),))) is AuthFault.MISMATCH
    authorization = ("authorization", SIGNED)
    assert fault(request(GET_OBJECT, more=(authorization,))) is AuthFault.INCOMPLETE


def test_unknown_key() -> None:
    assert fault(request(GET_OBJECT), credential=None) is AuthFault.UNKNOWN_KEY


@pytest.mark.parametrize("token", ["right", "wrong", "", "é"])
def test_session_token(token: str) -> None:
    """Signed by botocore with each token; only one is the key's."""
    made: Any = AWSRequest("GET", "http://localhost/", headers={"x-amz-date": "x"})
    SigV4Auth(Credentials("A", "S", token or None), "sts", "us-east-1").add_auth(made)
    headers = {name.lower(): value for name, value in made.headers.items()} | {"host": "localhost"}
    sent = request(headers, path="/")
    claim = read_claim(sent)
    assert claim is not None
    now = float(claim.seconds)

    def result(**known: Any) -> AuthFault | None:
        try:
            Verifier().check(sent, claim, Credential(access_key="A", secret="S", **known), EMPTY, now)
        except AuthError as error:
            return error.fault
        return None

    assert result(session_token="right") is (None if token == "right" else AuthFault.BAD_TOKEN)
    assert result() is (None if token == "" else AuthFault.BAD_TOKEN)
    if token == "right":
        assert result(session_token="right", expires=now) is AuthFault.EXPIRED_TOKEN
        assert result(session_token="right", expires=now + 1) is None


@pytest.mark.parametrize(
    ("path", "service", "expected"),
    [
        ("/", "ec2", ["/"]),
        ("/a/./b/../c//d/", "lambda", ["/a/c/d/"]),
        ("/../..", "lambda", ["/"]),
        ("/a/./b/../c//d", "s3", ["/a/./b/../c//d"]),
        ("/a%20b/arn%3Aaws", "lambda", ["/a%2520b/arn%253Aaws"]),
        ("/arn:aws", "lambda", ["/arn%253Aaws", "/arn%3Aaws"]),
        ("/a%20b", "s3", ["/a%20b"]),
        ("/a(b)%2Fc", "s3", ["/a%28b%29%2Fc", "/a(b)%2Fc"]),
        ("/%e2%98%81", "s3", ["/%E2%98%81", "/%e2%98%81"]),
    ],
)
def test_canonical_paths(path: str, service: str, expected: list[str]) -> None:
    assert canonical_paths(path, service) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", ""),
        (b"b=2&a=1&b=1", "a=1&b=1&b=2"),
        (b"acl", "acl="),
        (b"a=x+y%2bz", "a=x%20y%2Bz"),
        (b"k=/:~", "k=%2F%3A~"),
        (b"a%2Db=1&a-=2", "a-=2&a-b=1"),
        (b"X-Amz-Signature=1&a=2", "a=2"),
    ],
)
def test_canonical_query(raw: bytes, expected: str) -> None:
    assert canonical_query(raw, presigned=True) == expected


def test_claimed_service() -> None:
    assert claimed_service(request(GET_OBJECT)) == "s3"
    assert claimed_service(request({}, query=PRESIGNED)) == "s3"
    assert claimed_service(request({"authorization": "Credential=/x"})) == ""
    assert claimed_service(request({})) == ""
