"""Signed requests as bytes, made once and sent many times: what signs them is not what is measured."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

REGION = "us-east-1"
EC2_VERSION = "2016-11-15"
STS_VERSION = "2011-06-15"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server answers on this machine, and whom it knows."""

    port: int
    access_key: str
    secret: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def identity(endpoint: Endpoint) -> bytes:
    """GetCallerIdentity."""
    return signed(endpoint, "sts", {"Action": "GetCallerIdentity", "Version": STS_VERSION})


def instances(endpoint: Endpoint, **parameters: str | int) -> bytes:
    """DescribeInstances; parameters as the query protocol writes them (``MaxResults``, ``InstanceId_1``)."""
    named = {name.replace("_", "."): str(value) for name, value in parameters.items()}
    return signed(endpoint, "ec2", {"Action": "DescribeInstances", "Version": EC2_VERSION, **named})


def signed(endpoint: Endpoint, service: str, fields: dict[str, str]) -> bytes:
    """A query request as botocore signs it, ready for the wire."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    body = urlencode(fields)
    request = AWSRequest(
        "POST",
        endpoint.url + "/",
        data=body,
        headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
    )
    SigV4Auth(Credentials(endpoint.access_key, endpoint.secret), service, REGION).add_auth(request)
    headers = {
        "Host": f"127.0.0.1:{endpoint.port}",
        "Content-Length": str(len(body)),
        **dict(request.headers.items()),
    }
    lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", body]).encode()


def client(endpoint: Endpoint, service: str) -> Any:
    """A botocore client."""
    import botocore.session
    from botocore.config import Config

    return botocore.session.Session().create_client(
        service,
        region_name=REGION,
        endpoint_url=endpoint.url,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret,
        config=Config(connect_timeout=5, read_timeout=120, retries={"total_max_attempts": 1}),
    )
