"""A cloud of one account over a store in memory, and calls that are checked against the service model."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Collection
from functools import cache
from typing import Any, TypeVar

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from msgspec.structs import replace

import gureum.services.ebs
import gureum.services.ec2
import gureum.services.fleet
import gureum.services.sts  # noqa: F401  (registers its operations)
from gureum.control.autosizer import Sight
from gureum.control.balancer import Assessment
from gureum.control.fence_agents import Action, Answer
from gureum.control.keys import KeyStore
from gureum.control.resting import Rest
from gureum.env import Env
from gureum.errors import ApiError, ConfigError, TransportError
from gureum.gateway.catalogue import OWN_MODELS
from gureum.migrationspec import MigrationReport
from gureum.resources import (
    AttachmentState,
    Host,
    HostPower,
    HostState,
    Image,
    Instance,
    InstanceState,
    NetworkInterface,
    Record,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.san.ceph.audit import Finding
from gureum.services.ec2.defaults import ensure_defaults
from gureum.services.operation import OPERATIONS, Caller, Cloud, Context, Joining, Later
from gureum.sizespec import MachineSize
from gureum.store.base import Reader, Transaction
from gureum.store.sqlite import SqliteStore
from gureum.transport.messages import BLOCK_BYTES, BlockUse

R = TypeVar("R", bound=Record)

ACCOUNT = "123456789012"
IMAGE = "ami-00000000000000001"
IMAGE_SNAPSHOT = "snap-00000000000000001"


BESIDE_THE_MODEL = {("AttachmentStatus", "available"), ("State", "available")}
"""What EC2 sends, though its model does not list it: for Internet gateways and VPC endpoints."""


@cache
def service_model(service: str) -> ServiceModel:
    return ServiceModel(
        Loader(extra_search_paths=[str(OWN_MODELS)]).load_service_model(service, "service-2"), service
    )


def without_none(value: Any) -> Any:
    """What the gateway leaves of an answer: members that are None are not sent."""
    if isinstance(value, dict):
        return {name: without_none(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [without_none(each) for each in value]
    return value


def check(value: dict[str, Any], shape: Any, where: str) -> None:
    """Fails if the value does not fit the shape: unknown members, wrong types."""
    if shape is None:
        assert not value, f"{where} has no such shape"
        return
    report = ParamValidator().validate(value, shape)
    assert not report.has_errors(), f"{where}: {report.generate_report()}"


def check_enums(value: Any, shape: Any, where: str) -> None:
    """Fails for a value that the model does not list."""
    if shape.type_name == "structure":
        for name, each in value.items():
            check_enums(each, shape.members[name], f"{where}.{name}")
    elif shape.type_name == "list":
        for each in value:
            check_enums(each, shape.member, f"{where}[]")
    elif shape.type_name == "string" and getattr(shape, "enum", None):
        assert (shape.name, value) in BESIDE_THE_MODEL or value in shape.enum, f"{where}: {value!r}"


class FakeBlocks:
    """The blocks of snapshots, by their ids; a host that is down has none."""

    def __init__(self) -> None:
        self.data: dict[str, dict[int, bytes]] = {}
        self.down = False
        self.locked = False
        """Nothing that is encrypted can be read: the master key is another."""

    def _of(self, snapshot: Snapshot) -> dict[int, bytes]:
        if self.down:
            raise TransportError("the host does not answer")
        return self.data.setdefault(snapshot.id, {})

    async def used(
        self, snapshot: Snapshot, since: Snapshot | None, first: int, count: int
    ) -> list[BlockUse]:
        here, before = self._of(snapshot), self._of(since) if since is not None else {}
        found = sorted({*here, *before})
        if since is not None:
            found = [at for at in found if here.get(at) != before.get(at)]
        return [BlockUse(at, at in before, at in here) for at in found if at >= first][:count]

    async def read(self, snapshot: Snapshot, index: int) -> bytes:
        if snapshot.encrypted and self.locked:
            raise ConfigError("the key was not wrapped by this cloud's master key")
        return self._of(snapshot).get(index, bytes(BLOCK_BYTES))

    async def write(self, snapshot: Snapshot, index: int, data: bytes) -> None:
        self._of(snapshot)[index] = data


class FakePools:
    """Findings by pool and host; ``done``: the keys of what was to be repaired."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[Finding]] = {}
        self.more: dict[str, str] = {}
        self.down = False

    def hosts(self, pool: str) -> list[str]:
        return sorted(host for name, host in self.found if name == pool)

    async def check(self, pool: str, host: str, after: str) -> tuple[list[Finding], str]:
        if self.down:
            raise TransportError("the host does not answer")
        return [each for each in self.found[pool, host] if each.id > after], self.more.get(after, "")

    async def mend(self, pool: str, host: str, keys: Collection[str]) -> list[Finding]:
        found, _ = await self.check(pool, host, "")
        done = [each for each in found if each.key in keys]
        self.found[pool, host] = [each for each in found if each not in done]
        return done


class FakePower:
    """Knows one fence agent; ``asked``: how often what was called, with the agent's options."""

    def __init__(self) -> None:
        self.found: tuple[Rest, ...] = ()
        self.answer = Answer(on=True)
        self.asked: list[tuple[str, Action, dict[str, str]]] = []

    @property
    def switch(self) -> FakePower:
        return self

    def refusal(self, agent: str, remote: bool) -> str:
        return "" if agent == "fence_known" else f"there is no fence agent {agent!r}"

    async def __call__(self, power: HostPower, action: Action) -> Answer:
        self.asked.append((power.id, action, power.options))
        return self.answer


class FakeHook:
    lacks = ""

    def missing(self) -> str:
        return self.lacks

    async def run(self, host: str, address: str) -> str:
        raise AssertionError("operations call no commands")


class FakeUpgrades:
    def __init__(self) -> None:
        self.hook = FakeHook()


class FakeHosts:
    """Console output by instance id; a host that is not known does not answer."""

    def __init__(self) -> None:
        self.output: dict[str, bytes] = {}
        self.down = False
        self.joining: Joining | None = None
        self.migrations: dict[str, MigrationReport] = {}
        self.sizes: dict[str, MachineSize] = {}
        self.sights: dict[str, Sight] = {}
        self.wrong: dict[str, tuple[str, ...]] = {}
        self.copying: dict[tuple[str, str], tuple[int, int]] = {}
        self.blocks = FakeBlocks()
        self.pools = FakePools()
        self.power = FakePower()
        self.upgrades = FakeUpgrades()
        self.assessment = Assessment()

    def problems(self, host: str) -> tuple[str, ...]:
        return self.wrong.get(host, ())

    def migrating(self, host: str, instance: str) -> MigrationReport | None:
        return self.migrations.get(instance)

    def balance(self) -> Assessment:
        return self.assessment

    def autosize(self, instance: str) -> Sight | None:
        return self.sights.get(instance)

    def size(self, host: str, instance: str, generation: int) -> MachineSize | None:
        return self.sizes.get(instance)

    def copied(self, host: str, volume: str) -> tuple[int, int]:
        return self.copying.get((host, volume), (0, 0))

    async def console(self, host: str, instance: str, max_bytes: int) -> bytes:
        if self.down:
            raise TransportError(f"{host} does not answer")
        return self.output.get(instance, b"")[-max_bytes:]


class Rig:
    """Calls operations as the dispatcher does, and stands in for the reconcilers."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.time = 1_800_000_000.0
        self.env = Env(clock=lambda: self.time, rng=random.Random(7))
        self.cloud = Cloud(
            name="test",
            account=ACCOUNT,
            region="us-east-1",
            zones=("us-east-1a", "us-east-1b", "us-east-1c"),
            public_cidr="198.18.0.0/24",
        )
        self.caller = Caller(
            account=ACCOUNT, arn=f"arn:aws:iam::{ACCOUNT}:root", user_id=ACCOUNT, access_key="AKIATEST"
        )
        self.hosts = FakeHosts()
        self.keys = KeyStore(b"k" * 32)

    def context(self, reader: Reader) -> Context:
        return Context(
            env=self.env,
            cloud=self.cloud,
            caller=self.caller,
            request_id="test",
            tx=reader,  # type: ignore[arg-type]  # operations that only read get a Reader
            hosts=self.hosts,
            keys=self.keys,
        )

    async def call(self, operation: str, /, service: str = "ec2", **input: Any) -> Any:
        """The answer as a client would get it. Input and output must fit the model."""
        model = service_model(service).operation_model(operation)
        check(input, model.input_shape, f"input of {operation}")
        registered = OPERATIONS[service, operation]

        async def work(tx: Reader) -> Any:
            return await registered.handler(self.context(tx), input)

        if registered.write:
            output = await self.store.transact(work)
        else:
            async with self.store.read() as reader:
                output = await work(reader)
            if isinstance(output, Later):
                output = await output.rest()
        output = without_none(output)
        check(output, model.output_shape, f"output of {operation}")
        if model.output_shape is not None:
            check_enums(output, model.output_shape, f"output of {operation}")
        return output

    async def fails(self, code: str, operation: str, /, service: str = "ec2", **input: Any) -> str:
        """Call an operation that must fail with this code, changing nothing; answers the message."""
        before = self.store.revision
        with pytest.raises(ApiError) as caught:
            await self.call(operation, service=service, **input)
        assert caught.value.code == code, caught.value
        assert self.store.revision == before
        return caught.value.message

    async def get(self, kind: type[R], id: str) -> R:
        async with self.store.read() as reader:
            record = await reader.get(kind, id)
        assert record is not None, id
        return record

    async def find(self, kind: type[R], **index: Any) -> list[R]:
        async with self.store.read() as reader:
            return await reader.find(kind, **index)

    async def put(self, *records: Record) -> None:
        async def work(tx: Transaction) -> None:
            for record in records:
                await tx.put(record)

        await self.store.transact(work)

    async def change(self, kind: type[R], id: str, **changes: Any) -> R:
        record = replace(await self.get(kind, id), **changes)
        await self.put(record)
        return await self.get(kind, id)

    async def delete(self, record: Record) -> None:
        async def work(tx: Transaction) -> None:
            await tx.delete(record)

        await self.store.transact(work)

    async def image(self, id: str = IMAGE, **values: Any) -> Image:
        values = {
            "account": ACCOUNT,
            "name": "tiny",
            "disk_bytes": 2 << 30,
            "snapshot": IMAGE_SNAPSHOT,
            "created": self.env.utcnow(),
            **values,
        }
        await self.put(Image(id=id, **values))
        return await self.get(Image, id)

    async def launch(self, **input: Any) -> dict[str, Any]:
        """One new instance, as RunInstances answers it."""
        defaults = {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1}
        answer = await self.call("RunInstances", **{**defaults, **input})
        instance: dict[str, Any] = answer["Instances"][0]
        return instance

    async def running(self, **input: Any) -> str:
        """The id of a new instance that runs, with its volumes attached."""
        id: str = (await self.launch(**input))["InstanceId"]
        await self.settle(id)
        return id

    async def settle(self, id: str) -> None:
        """What the reconcilers do once the host runs the instance."""
        await self.change(Instance, id, state=InstanceState.running, host="host-a", state_reason=None)
        for volume in await self.find(Volume, instances=id):
            await self.attached(volume.id)
        for interface in await self.find(NetworkInterface, instance=id):
            await self.put(replace(interface, host="host-a"))

    async def attached(self, id: str) -> None:
        volume = await self.get(Volume, id)
        attached = tuple(replace(each, state=AttachmentState.attached) for each in volume.attachments)
        await self.put(replace(volume, state=VolumeState.in_use, host="host-a", attachments=attached))

    async def stopped(self, **input: Any) -> str:
        id = await self.running(**input)
        await self.call("StopInstances", InstanceIds=[id])
        await self.change(Instance, id, state=InstanceState.stopped, force=False)
        return id

    async def volume(self, **input: Any) -> str:
        """The id of a new volume that is available."""
        defaults = {"AvailabilityZone": "us-east-1a", "Size": 1, "VolumeType": "gp3"}
        id: str = (await self.call("CreateVolume", **{**defaults, **input}))["VolumeId"]
        await self.change(Volume, id, state=VolumeState.available, host="host-a")
        return id

    async def snapshot(self, volume: str, **input: Any) -> str:
        id: str = (await self.call("CreateSnapshot", VolumeId=volume, **input))["SnapshotId"]
        await self.change(Snapshot, id, state=SnapshotState.completed)
        return id


@pytest.fixture
async def empty() -> AsyncIterator[Rig]:
    """A cloud without defaults, hosts or images."""
    store = SqliteStore.open(":memory:", threaded=False)
    yield Rig(store)
    await store.close()


@pytest.fixture
async def rig(empty: Rig) -> Rig:
    """A cloud with its defaults, a host in the first zone and an image."""

    async def work(tx: Transaction) -> None:
        await ensure_defaults(tx, empty.env, empty.cloud)

    await empty.store.transact(work)
    await empty.put(
        Host(id="host-a", state=HostState.up, zone="us-east-1a", cpus=64, memory_bytes=512 << 30),
        Snapshot(
            id=IMAGE_SNAPSHOT,
            account=ACCOUNT,
            state=SnapshotState.completed,
            volume="vol-ffffffff",
            size_bytes=2 << 30,
            started=empty.env.utcnow(),
            image=IMAGE,
        ),
    )
    await empty.image()
    return empty


@pytest.fixture
def at(rig: Rig) -> Callable[[float], None]:
    """Moves the clock."""

    def move(seconds: float) -> None:
        rig.time += seconds

    return move
