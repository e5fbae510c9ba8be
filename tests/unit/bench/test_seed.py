"""Seeded instances are like those that RunInstances makes: the API describes them whole."""

from pathlib import Path
from typing import Any

from gureum.bench.requests import Endpoint, identity, instances
from gureum.bench.seed import seed_instances
from gureum.env import Env
from gureum.gateway.call import Call
from gureum.resources import Instance, NetworkInterface, Volume
from gureum.services import ec2  # noqa: F401
from gureum.services.dispatch import Dispatcher
from gureum.services.operation import Caller, Cloud
from gureum.store.sqlite import SqliteStore

CLOUD = Cloud(
    name="bench",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a",),
    public_cidr="198.18.0.0/24",
    dns_domain="ec2.internal",
)


async def test_seeded_instances(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "store.db")
    try:
        ids = await seed_instances(store, Env(), CLOUD, 30)
        async with store.read() as reader:
            counts = [await reader.count(kind) for kind in (Instance, Volume, NetworkInterface)]
        found = await described(store)
    finally:
        await store.close()
    assert counts == [30, 30, 30]
    assert sorted(item["InstanceId"] for item in found) == sorted(ids)
    assert len({item["PrivateIpAddress"] for item in found}) == 30
    for item in found:
        assert item["State"]["Name"] == "running"
        assert item["NetworkInterfaces"][0]["PrivateIpAddress"] == item["PrivateIpAddress"]
        assert item["BlockDeviceMappings"][0]["Ebs"]["Status"] == "attached"
        assert item["SecurityGroups"]


async def described(store: SqliteStore) -> list[dict[str, Any]]:
    env = Env()
    dispatch = Dispatcher(env, CLOUD, store, None)  # type: ignore[arg-type]  # no call goes to a host
    caller = Caller(account=CLOUD.account, arn="arn", user_id="root", access_key="key")
    output = await dispatch(
        Call(
            service="ec2",
            operation="DescribeInstances",
            input={},
            region=CLOUD.region,
            request_id="1",
            caller=caller,
            source_ip="127.0.0.1",
            access_key="key",
        )
    )
    return [item for reservation in output["Reservations"] for item in reservation["Instances"]]


def test_requests_are_ready_for_the_wire() -> None:
    endpoint = Endpoint(port=4566, access_key="key", secret="secret")
    for request, action in ((identity(endpoint), b"GetCallerIdentity"), (instances(endpoint), b"Describe")):
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.startswith(b"POST / HTTP/1.1\r\nHost: 127.0.0.1:4566\r\n")
        assert b"Authorization: AWS4-HMAC-SHA256 Credential=key/" in head
        assert f"Content-Length: {len(body)}".encode() in head
        assert action in body


def test_parameters_are_written_as_the_protocol_does() -> None:
    endpoint = Endpoint(port=1, access_key="key", secret="secret")
    request = instances(endpoint, MaxResults=5, InstanceId_1="i-1")
    assert request.endswith(b"&MaxResults=5&InstanceId.1=i-1")
