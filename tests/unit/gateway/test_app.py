"""The gateway's decisions: which service, which protocol, which error."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from gureum.errors import ApiError
from gureum.gateway.app import Gateway
from gureum.gateway.call import Call, Credential
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits

NOW = 1767323045.0
FORM = {"content-type": "application/x-www-form-urlencoded"}
WHO = b"Action=GetCallerIdentity&Version=2011-06-15"
Answer = tuple[int, dict[str, str], bytes]


class Services:
    def __init__(self) -> None:
        self.result: Any = {}
        self.missing: set[str] = set()
        self.calls: list[Call] = []

    def implemented(self, service: str, operation: str) -> bool:
        return operation not in self.missing

    async def __call__(self, call: Call) -> Any:
        self.calls.append(call)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class World:
    def __init__(self, catalogue: Catalogue, **options: Any) -> None:
        self.services = Services()
        limits = options.pop("limits", Limits())
        self.gateway = Gateway(
            self.services, self._credential, lambda: NOW, limits, catalogue=catalogue, **options
        )

    async def _credential(self, key: str) -> Credential | None:
        return Credential(access_key=key, secret="secret", principal="root") if key == "AKID" else None

    async def send(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        path, _, query = url.partition("?")
        headers = {"host": "localhost", **headers}
        scope = {
            "type": "http",
            "method": method,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [
                (k.lower().encode(), v.encode("latin-1")) for k, v in {"host": "localhost", **headers}.items()
            ],
            "client": ("127.0.0.1", 1),
        }
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.gateway(scope, receive, send)
        answered = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], answered, b"".join(m.get("body", b"") for m in sent[1:])

    async def call(
        self,
        service: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        url: str = "/",
        method: str = "POST",
    ) -> Answer:
        """Signed for ``service``."""
        request: Any = AWSRequest(method, f"http://localhost{url}", headers=headers or {}, data=body)
        SigV4Auth(Credentials("AKID", "secret"), service, "eu-west-1").add_auth(request)
        return await self.send(method, url, dict(request.headers.items()), body)


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: datetime.fromtimestamp(NOW, UTC))


@pytest.fixture
def world(catalogue: Catalogue) -> World:
    return World(catalogue)


def code(answer: Answer) -> str:
    _, headers, body = answer
    if "cbor" in headers["content-type"]:
        return str(cbor2.loads(body)["__type"])
    if "json" in headers["content-type"]:
        return headers.get("x-amzn-errortype") or str(json.loads(body)["__type"])
    return body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode()


async def test_call(world: World) -> None:
    world.services.result = {"Account": "1", "Arn": "arn", "UserId": "2"}
    status, headers, body = await world.call("sts", WHO, FORM)
    (call,) = world.services.calls
    assert (call.service, call.operation, call.region, call.caller) == (
        "sts",
        "GetCallerIdentity",
        "eu-west-1",
        "root",
    )
    assert (call.source_ip, call.access_key, call.input) == ("127.0.0.1", "AKID", {})
    assert status == 200
    assert headers["x-amzn-requestid"] == call.request_id
    assert headers["content-length"] == str(len(body))
    assert f"<RequestId>{call.request_id}</RequestId>".encode() in body


async def test_query_string_instead_of_a_form(world: World) -> None:
    await world.call("sts", url="/?" + WHO.decode(), method="GET")
    assert world.services.calls[0].operation == "GetCallerIdentity"


def logs(operation: str) -> dict[str, str]:
    return {"x-amz-target": f"Logs_20140328.{operation}"}


CBOR = {"smithy-protocol": "rpc-v2-cbor", "content-type": "application/cbor"}
JSON_ALARMS = {"x-amz-target": "GraniteServiceVersion20100801.DescribeAlarms"}
ALARMS = "/service/GraniteServiceVersion20100801/operation/DescribeAlarms"


@pytest.mark.parametrize(
    ("headers", "url", "body", "content_type"),
    [
        (FORM, "/", b"Action=DescribeAlarms&Version=2010-08-01", "text/xml;charset=UTF-8"),
        (
            {"x-amz-target": "GraniteServiceVersion20100801.DescribeAlarms"},
            "/",
            b"{}",
            "application/x-amz-json-1.0",
        ),
        (CBOR, ALARMS, b"\xa0", "application/cbor"),
    ],
)
async def test_a_service_with_three_protocols(
    world: World, headers: dict[str, str], url: str, body: bytes, content_type: str
) -> None:
    status, answered, _ = await world.call("monitoring", body, headers, url)
    assert (status, answered["content-type"]) == (200, content_type)
    assert world.services.calls[0].operation == "DescribeAlarms"
    world.services.result = ApiError("ResourceNotFound", "none", 404)
    status, answered, _ = await world.call("monitoring", body, headers, url)
    assert (status, answered["content-type"]) == (404, content_type)
    assert answered.get("x-amzn-query-error", "ResourceNotFound;Sender") == "ResourceNotFound;Sender"


@pytest.mark.parametrize(
    ("service", "headers", "url", "body", "status", "expected"),
    [
        ("ec2", FORM, "/", b"Action=LaunchRocket&Version=2016-11-15", 400, "InvalidAction"),
        ("ec2", FORM, "/", b"Version=2016-11-15", 400, "MissingAction"),
        ("iam", FORM, "/", b"Action=LaunchRocket&Version=2010-05-08", 400, "InvalidAction"),
        (
            "logs",
            logs("LaunchRocket"),
            "/",
            b"{}",
            400,
            "UnknownOperationException",
        ),
        ("logs", {"x-amz-target": "Other.CreateLogGroup"}, "/", b"{}", 404, "UnknownOperationException"),
        ("logs", {}, "/", b"{}", 404, "UnknownOperationException"),
        ("lambda", {}, "/2015-03-31/rockets", b"", 404, "UnknownOperationException"),
        ("monitoring", CBOR, ALARMS + "X", b"\xa0", 400, "UnknownOperationException"),
        ("kms", {"x-amz-target": "TrentService.ListKeys"}, "/", b"{}", 400, "NotImplemented"),
        ("rocketry", FORM, "/", b"Action=Launch&Version=2030-01-01", 400, "NotImplemented"),
        ("ec2", FORM, "/", b"Action=RunInstances&Version=2016-11-15", 400, "MissingParameter"),
        ("ec2", FORM, "/", b"Action=DescribeInstances&InstanceIds.1=x", 400, "UnknownParameter"),
        ("ec2", FORM, "/", b"Action=DescribeInstances&MaxResults=all", 400, "InvalidParameterValue"),
        (
            "ec2",
            FORM,
            "/",
            b"Action=DescribeInstances&DryRun=1&DryRun=2",
            400,
            "MalformedQueryString",
        ),
        ("ec2", FORM, "/", b"Action=DescribeInstances&Filter=%ff", 400, "MalformedQueryString"),
        ("sts", FORM, "/", b"Action=GetCallerIdentity&More=1", 400, "UnknownParameter"),
        ("logs", logs("CreateLogGroup"), "/", b"{}", 400, "ValidationException"),
        ("logs", logs("CreateLogGroup"), "/", b"{", 400, "SerializationException"),
        ("logs", logs("CreateLogGroup"), "/", b"[]", 400, "SerializationException"),
        ("lambda", {}, "/2015-03-31/functions", b"{}", 400, "ValidationException"),
        ("lambda", {}, "/2015-03-31/functions", b'{"FunctionName": 1}', 400, "SerializationException"),
        ("monitoring", CBOR, ALARMS, b"\xff", 400, "SerializationException"),
    ],
)
async def test_refused(
    world: World, service: str, headers: dict[str, str], url: str, body: bytes, status: int, expected: str
) -> None:
    answer = await world.call(service, body, headers, url)
    assert (answer[0], code(answer)) == (status, expected)
    assert world.services.calls == []


CALLS: list[tuple[str, dict[str, str], str, bytes, str]] = [
    ("ec2", FORM, "/", b"Action=DescribeRegions&Version=2016-11-15", "InternalError"),
    ("sts", FORM, "/", WHO, "InternalFailure"),
    ("logs", logs("DescribeLogGroups"), "/", b"{}", "InternalFailure"),
    ("monitoring", CBOR, ALARMS, b"\xa0", "InternalFailure"),
    ("lambda", {}, "/2015-03-31/functions/f/policy", b"", "InternalServerError"),
]


@pytest.mark.parametrize(("service", "headers", "url", "body", "expected"), CALLS)
@pytest.mark.parametrize("result", [ValueError("secret detail"), {"NoSuchMember": 1}])
async def test_bug_in_a_service(
    world: World,
    caplog: pytest.LogCaptureFixture,
    service: str,
    headers: dict[str, str],
    url: str,
    body: bytes,
    expected: str,
    result: Any,
) -> None:
    """500 in the service's own form, with the request's id in the answer and in the log."""
    world.services.result = result
    method = "GET" if service == "lambda" else "POST"
    with caplog.at_level(logging.ERROR):
        answer = await world.call(service, body, headers, url, method)
    assert (answer[0], code(answer)) == (500, expected)
    assert b"secret detail" not in answer[2]
    assert world.services.calls[0].request_id.encode() in answer[2]
    assert world.services.calls[0].request_id in caplog.text


@pytest.mark.parametrize(("service", "headers", "url", "body", "_expected"), CALLS)
async def test_not_implemented(
    world: World, service: str, headers: dict[str, str], url: str, body: bytes, _expected: str
) -> None:
    world.services.missing = {
        "DescribeRegions",
        "GetCallerIdentity",
        "DescribeLogGroups",
        "DescribeAlarms",
        "GetPolicy",
    }
    answer = await world.call(service, body, headers, url, "GET" if service == "lambda" else "POST")
    assert (answer[0], code(answer)) == (400, "NotImplemented")
    assert f"of {answer_name(service)}".encode() in answer[2]


def answer_name(service: str) -> str:
    return {"monitoring": "cloudwatch"}.get(service, service)


async def test_error_fields_that_do_not_fit(world: World) -> None:
    world.services.result = ApiError("ResourceNotFoundException", "none", fields={"NoSuchMember": 1})
    headers = logs("DescribeLogGroups")
    answer = await world.call("logs", b"{}", headers)
    assert (answer[0], code(answer)) == (400, "ResourceNotFoundException")


async def test_anonymous_where_the_model_says_so(world: World) -> None:
    body = (
        b"Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=a&RoleSessionName=b&WebIdentityToken=c"
    )
    assert (await world.send("POST", "/", FORM, body))[0] == 200
    assert world.services.calls[0].caller is None
    answer = await world.send("POST", "/", FORM, WHO)
    assert (answer[0], code(answer)) == (403, "MissingAuthenticationToken")


@pytest.mark.parametrize(
    ("headers", "url", "body", "expected"),
    [
        (FORM, "/", b"Action=Nothing&Version=2016-11-15", "MissingAuthenticationToken"),
        (logs("CreateLogGroup"), "/", b"{}", "MissingAuthenticationTokenException"),
        ({}, ALARMS, b"\xa0", "MissingAuthenticationTokenException"),
        ({"host": "lambda.localhost"}, "/", b"", "MissingAuthenticationTokenException"),
        ({}, "/bucket/key", b"", "AccessDenied"),
    ],
)
async def test_unsigned(world: World, headers: dict[str, str], url: str, body: bytes, expected: str) -> None:
    answer = await world.send("POST", url, headers, body)
    assert (answer[0], code(answer)) == (403, expected)


async def test_unsigned_payload_needs_an_operation_that_has_one(world: World) -> None:
    unsigned = {**FORM, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    answer = await world.call("sts", WHO, unsigned)
    assert (answer[0], code(answer)) == (403, "SignatureDoesNotMatch")
    assert world.services.calls == []


async def test_regions(catalogue: Catalogue) -> None:
    world = World(catalogue, regions=frozenset({"us-east-1"}))
    answer = await world.call("sts", WHO, FORM)
    assert (answer[0], code(answer)) == (403, "SignatureDoesNotMatch")
    assert b"eu-west-1" in answer[2]


async def test_body_limits(catalogue: Catalogue) -> None:
    world = World(catalogue, limits=Limits(body_bytes_max=100, body_bytes_by_service={"ec2": 200}))
    assert (await world.call("sts", WHO + b"&A=" + b"a" * 100, FORM))[0] == 413
    assert (await world.call("ec2", b"Action=DescribeRegions&DryRun=" + b"a" * 120, FORM))[0] == 400
    assert (await world.send("POST", "/", FORM, b"a" * 101))[0] == 413


async def test_all_bodies_together_are_bounded_and_given_back(catalogue: Catalogue) -> None:
    world = World(catalogue, limits=Limits(buffered_bytes_max=len(WHO) + 10))
    for _ in range(3):
        assert (await world.call("sts", WHO, FORM))[0] == 200
    assert (await world.call("sts", WHO + b"&A=" + b"a" * 50, FORM))[0] == 503
    assert (await world.call("sts", WHO, FORM))[0] == 200


async def test_client_that_goes_away(world: World) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    scope = {
        "type": "http",
        "method": "POST",
        "raw_path": b"/",
        "query_string": b"",
        "headers": headers,
    }
    await world.gateway(scope, receive, send)
    assert sent == []


def test_fragments(world: World) -> None:
    write: Callable[..., Any] = world.gateway.fragment
    assert write("ec2", "Tag", {"Key": "a", "Value": "<"}).text == "<key>a</key><value>&lt;</value>"
    assert write("s3", "Bucket", {"Name": "b"}).text == "<Name>b</Name>"


@pytest.mark.parametrize(
    ("query", "expected", "said"),
    [
        ("Action=CreateTags", "MissingParameter", "The request must contain the parameter resourceIdSet"),
        (
            "Action=CreateTags&ResourceId.1=i-1",
            "MissingParameter",
            "The request must contain the parameter tagSet",
        ),
        *(
            (f"Action={verb}Instances", "InvalidParameterCombination", "No instances specified")
            for verb in ("Start", "Stop", "Reboot", "Terminate")
        ),
    ],
)
async def test_an_empty_list_in_the_words_of_ec2(world: World, query: str, expected: str, said: str) -> None:
    """It is not on the wire, so it can't be told from one that is missing."""
    answer = await world.call("ec2", f"{query}&Version=2016-11-15".encode(), FORM, "/")
    assert (answer[0], code(answer)) == (400, expected)
    assert said in str(answer)


async def test_a_load_balancer_learns_who_leads(catalogue: Catalogue) -> None:
    leads = [True]
    world = World(catalogue, healthy=lambda: leads[0])
    status, _, body = await world.send("GET", "/.gureum/health", {}, b"")
    assert (status, body) == (200, b"leads\n")
    leads[0] = False
    assert (await world.send("HEAD", "/.gureum/health", {}, b""))[0] == 503
    assert (await world.send("POST", "/.gureum/health", {}, b""))[0] != 503
    assert not world.services.calls
