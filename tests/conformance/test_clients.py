"""boto3 over a socket: what only a real client does (trailers, presigned URLs, event streams, retries)."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from gureum.errors import ApiError
from gureum.gateway.app import Gateway
from gureum.gateway.body import Body
from gureum.gateway.call import Call, Credential
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.server import listen

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


class Services:
    """A few operations that keep what they are given."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.checksums: dict[str, str] = {}
        self.calls: list[Call] = []

    def implemented(self, service: str, operation: str) -> bool:
        return hasattr(self, operation)

    async def __call__(self, call: Call) -> Any:
        self.calls.append(call)
        return await getattr(self, call.operation)(call)

    async def PutObject(self, call: Call) -> Any:
        body: Body = call.input["Body"]
        data = await body.read(1 << 26)
        self.checksums = body.checksums
        self.objects[call.input["Key"]] = data
        return {"ETag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'}

    async def GetObject(self, call: Call) -> Any:
        try:
            data = self.objects[call.input["Key"]]
        except KeyError:
            raise ApiError("NoSuchKey", "The specified key does not exist.", 404) from None

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 65536):
                yield data[at : at + 65536]

        return {"Body": pieces(), "ContentLength": len(data), "Metadata": {"purpose": "구름"}}

    async def HeadObject(self, call: Call) -> Any:
        return {"ContentLength": len(self.objects[call.input["Key"]]), "ETag": '"x"'}

    async def ListObjectsV2(self, call: Call) -> Any:
        return {"Contents": [{"Key": key, "Size": len(data)} for key, data in self.objects.items()]}

    async def InvokeWithResponseStream(self, call: Call) -> Any:
        async def events() -> AsyncIterator[dict[str, Any]]:
            yield {"PayloadChunk": {"Payload": b"first "}}
            yield {"PayloadChunk": {"Payload": call.input["Payload"]}}
            yield {"InvokeComplete": {"LogResult": "log"}}

        return {"StatusCode": 200, "ExecutedVersion": "7", "EventStream": events()}

    async def SelectObjectContent(self, call: Call) -> Any:
        async def events() -> AsyncIterator[dict[str, Any]]:
            yield {"Records": {"Payload": b"a,b\n"}}
            yield {"Stats": {"Details": {"BytesScanned": 12}}}
            yield {"End": {}}

        return {"Payload": events()}

    async def StartLiveTail(self, call: Call) -> Any:
        async def events() -> AsyncIterator[dict[str, Any]]:
            yield {"sessionStart": {"sessionId": "s-1", "logGroupIdentifiers": ["g"]}}
            yield {"sessionUpdate": {"sessionResults": [{"message": "구름"}]}}
            raise ApiError("SessionTimeoutException", "over")

        return {"responseStream": events()}

    async def PutMetricData(self, call: Call) -> Any:
        return None

    async def PutSnapshotBlock(self, call: Call) -> Any:
        return {"Checksum": hashlib.sha256(await call.input["BlockData"].read(1 << 20)).hexdigest()}

    async def GetCallerIdentity(self, call: Call) -> Any:
        return {"Account": "000000000000", "Arn": "arn:aws:iam::000000000000:root", "UserId": "000000000000"}


async def credential(key: str) -> Credential | None:
    return Credential(access_key=KEY, secret=SECRET, principal="root") if key == KEY else None


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
async def endpoint(catalogue: Catalogue, services: Services) -> AsyncIterator[str]:
    gateway = Gateway(services, credential, time.time, Limits(), catalogue=catalogue)
    server = await listen(gateway, port=0)
    yield f"http://127.0.0.1:{server.port}"
    await server.stop()


@pytest.fixture
def client(endpoint: str) -> Iterator[Callable[..., Any]]:
    made = []

    def make(service: str, **options: Any) -> Any:
        config = Config(retries={"max_attempts": 0}, **options)
        made.append(
            boto3.client(
                service,
                endpoint_url=endpoint,
                region_name="eu-west-1",
                aws_access_key_id=KEY,
                aws_secret_access_key=SECRET,
                config=config,
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


BIG = os.urandom(3_000_000)


@pytest.mark.parametrize("algorithm", [None, "CRC32", "SHA1", "SHA256"])
async def test_objects(client: Callable[..., Any], services: Services, algorithm: str | None) -> None:
    s3 = client("s3", s3={"addressing_style": "path"})
    extra = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    for key, data in (("a/b c+é구.bin", BIG), ("empty", b"")):
        await asyncio.to_thread(s3.put_object, Bucket="bucket", Key=key, Body=io.BytesIO(data), **extra)
        assert services.objects[key] == data
        assert services.checksums.keys() == {(algorithm or "CRC32").lower()}
        answer = await asyncio.to_thread(s3.get_object, Bucket="bucket", Key=key)
        assert await asyncio.to_thread(answer["Body"].read) == data
        head = await asyncio.to_thread(s3.head_object, Bucket="bucket", Key=key)
        assert head["ContentLength"] == len(data)
    listing = await asyncio.to_thread(s3.list_objects_v2, Bucket="bucket")
    assert {entry["Key"] for entry in listing["Contents"]} == {"a/b c+é구.bin", "empty"}


async def test_virtual_host(client: Callable[..., Any], services: Services, endpoint: str) -> None:
    s3 = client("s3", s3={"addressing_style": "path"})

    def other_host(request: Any, **_: Any) -> None:
        request.headers["Host"] = "my.bucket.s3.localhost:4566"
        request.url = request.url.replace("/ignored", "")

    s3.meta.events.register("before-sign.s3.PutObject", other_host)
    await asyncio.to_thread(s3.put_object, Bucket="ignored", Key="key", Body=b"x")
    assert services.calls[-1].input["Bucket"] == "my.bucket"
    assert services.calls[-1].input["Key"] == "key"


async def test_missing_object(client: Callable[..., Any]) -> None:
    s3 = client("s3", s3={"addressing_style": "path"})
    with pytest.raises(s3.exceptions.NoSuchKey) as caught:
        await asyncio.to_thread(s3.get_object, Bucket="bucket", Key="none")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def fetch(url: str, method: str = "GET", data: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urlopen(Request(url, data, method=method)) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


async def test_presigned(client: Callable[..., Any], services: Services) -> None:
    s3 = client("s3", signature_version="s3v4", s3={"addressing_style": "path"})
    params = {"Bucket": "bucket", "Key": "presigned é"}
    put = s3.generate_presigned_url("put_object", params, ExpiresIn=60)
    get = s3.generate_presigned_url("get_object", params, ExpiresIn=60)
    assert (await asyncio.to_thread(fetch, put, "PUT", BIG))[0] == 200
    assert await asyncio.to_thread(fetch, get) == (200, BIG)
    assert (await asyncio.to_thread(fetch, get.replace("presigned", "Presigned")))[0] == 403
    assert (await asyncio.to_thread(fetch, get.replace("Expires=60", "Expires=61")))[0] == 403
    assert (await asyncio.to_thread(fetch, get + "&X-Amz-Date=20260101T000000Z"))[0] == 403
    assert (await asyncio.to_thread(fetch, get, "DELETE"))[0] == 403
    expired = s3.generate_presigned_url("get_object", params, ExpiresIn=-1)
    assert (await asyncio.to_thread(fetch, expired))[0] == 403


async def test_presigned_sts(client: Callable[..., Any], endpoint: str) -> None:
    """What EKS does: the URL is passed on, whoever has it learns who signed it."""
    url = client("sts").generate_presigned_url("get_caller_identity", HttpMethod="GET")
    status, body = await asyncio.to_thread(fetch, url)
    assert status == 200
    assert b"arn:aws:iam::000000000000:root" in body


def drained(events: Any) -> list[Any]:
    with closing(events):
        return list(events)


async def test_event_streams(client: Callable[..., Any]) -> None:
    def invoke() -> tuple[Any, list[Any]]:
        answer = client("lambda").invoke_with_response_stream(FunctionName="f", Payload=b"second")
        return answer, drained(answer["EventStream"])

    answer, events = await asyncio.to_thread(invoke)
    assert answer["ExecutedVersion"] == "7"
    assert events == [
        {"PayloadChunk": {"Payload": b"first "}},
        {"PayloadChunk": {"Payload": b"second"}},
        {"InvokeComplete": {"LogResult": "log"}},
    ]

    def select() -> list[Any]:
        answer = client("s3", s3={"addressing_style": "path"}).select_object_content(
            Bucket="bucket",
            Key="key",
            Expression="SELECT 1",
            ExpressionType="SQL",
            InputSerialization={},
            OutputSerialization={},
        )
        return drained(answer["Payload"])

    assert await asyncio.to_thread(select) == [
        {"Records": {"Payload": b"a,b\n"}},
        {"Stats": {"Details": {"BytesScanned": 12}}},
        {"End": {}},
    ]


async def test_live_tail(client: Callable[..., Any]) -> None:
    logs = client("logs", inject_host_prefix=False)
    seen = []

    def tail() -> None:
        with closing(logs.start_live_tail(logGroupIdentifiers=["g"])["responseStream"]) as events:
            seen.extend(events)

    with pytest.raises(ClientError, match="SessionTimeoutException"):
        await asyncio.to_thread(tail)
    assert [next(iter(event)) for event in seen] == ["sessionStart", "sessionUpdate"]
    assert seen[1]["sessionUpdate"]["sessionResults"] == [{"message": "구름"}]


async def test_stream_ends_when_its_client_is_gone(
    client: Callable[..., Any], services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def endless(call: Call) -> Any:
        async def events() -> AsyncIterator[dict[str, Any]]:
            try:
                yield {"sessionStart": {"sessionId": "s-1"}}
                await asyncio.Event().wait()
            finally:
                ended.set()

        return {"responseStream": events()}

    monkeypatch.setattr(services, "StartLiveTail", endless, raising=False)
    logs = client("logs", inject_host_prefix=False)

    def first() -> Any:
        with closing(logs.start_live_tail(logGroupIdentifiers=["g"])["responseStream"]) as events:
            return next(iter(events))

    assert "sessionStart" in await asyncio.to_thread(first)
    await asyncio.wait_for(ended.wait(), 10)


async def test_metrics(client: Callable[..., Any], services: Services) -> None:
    cloudwatch = client("cloudwatch")
    for count in (1, 2000):  # the larger one is sent compressed
        data = [{"MetricName": "m", "Value": 1.5, "Unit": "Count"}] * count
        await asyncio.to_thread(cloudwatch.put_metric_data, Namespace="n", MetricData=data)
        assert services.calls[-1].input["MetricData"] == data


async def test_block(client: Callable[..., Any]) -> None:
    ebs = client("ebs")
    data = os.urandom(512 * 1024)
    answer = await asyncio.to_thread(
        ebs.put_snapshot_block,
        SnapshotId="snap-1",
        BlockIndex=0,
        BlockData=data,
        DataLength=len(data),
        Checksum="x",
        ChecksumAlgorithm="SHA256",
    )
    assert answer["Checksum"] is not None


async def test_not_implemented_is_not_retried(client: Callable[..., Any], services: Services) -> None:
    with pytest.raises(ClientError, match="does not implement ListRoles of iam") as caught:
        await asyncio.to_thread(client("iam").list_roles)
    assert caught.value.response["Error"]["Code"] == "NotImplemented"
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 0


async def test_unix_socket(catalogue: Catalogue, services: Services, tmp_path: Path) -> None:
    gateway = Gateway(services, credential, time.time, Limits(), catalogue=catalogue)
    server = await listen(gateway, unix_path=tmp_path / "api.sock")
    assert (tmp_path / "api.sock").stat().st_mode & 0o777 == 0o600
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "api.sock"))
    writer.write(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 403")
    writer.close()
    await server.stop()
