"""Operations: what an AWS API call runs.

An operation is one async function from ``(context, input)`` to output, both shaped as the service model says
(boto3's member names). It validates and changes desired state in ``context.tx``, one transaction; it never
touches a host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from gureum.env import Env
from gureum.hostspec import LOCAL
from gureum.migrationspec import MigrationReport
from gureum.resources.volume import Snapshot
from gureum.san.ceph.audit import Finding
from gureum.sizespec import MachineSize
from gureum.store.base import Transaction
from gureum.transport.messages import BlockUse

if TYPE_CHECKING:
    from gureum.control.autosizer import Sight
    from gureum.control.balancer import Assessment
    from gureum.control.fence_agents import Switch
    from gureum.control.hooks import Hook
    from gureum.control.resting import Rest

Input = Mapping[str, Any]
Output = Mapping[str, Any]


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who signed the request."""

    account: str
    arn: str
    user_id: str
    access_key: str


class Hosts(Protocol):
    """Direct calls to a host's agent, for what is no state (console output), and where agents connect."""

    async def console(self, host: str, instance: str, max_bytes: int) -> bytes:
        """Raises TransportError if the host does not answer in time."""

    def problems(self, host: str) -> tuple[str, ...]:
        """What is wrong with the host, for people."""

    def copied(self, host: str, volume: str) -> tuple[int, int]:
        """Of a volume on its way to another pool: how many bytes are there, of how many; zeros if nobody
        knows.
        """

    def migrating(self, host: str, instance: str) -> MigrationReport | None:
        """What the host says of a machine that leaves it; None if nothing."""

    def balance(self) -> Assessment:
        """How busy hosts are, and what should be moved."""

    def autosize(self, instance: str) -> Sight | None:
        """What is known of what an instance with a policy uses, and what type it should have."""

    def size(self, host: str, instance: str, generation: int) -> MachineSize | None:
        """What the host says that a machine has, and can have while it runs; None if nothing."""

    @property
    def upgrades(self) -> Upgrading:
        """How hosts are upgraded."""

    @property
    def joining(self) -> Joining | None:
        """How other machines join the cloud; None if it takes none."""

    @property
    def blocks(self) -> Blocks:
        """The data of snapshots."""

    @property
    def pools(self) -> Pools:
        """What is in pools, held against the store."""

    @property
    def power(self) -> Powers:
        """How hosts are switched on and off."""


class Powers(Protocol):
    @property
    def found(self) -> tuple[Rest, ...]:
        """Why hosts that could be switched off are on."""

    @property
    def switch(self) -> Switch:
        """Their fence agents."""


class Upgrading(Protocol):
    @property
    def hook(self) -> Hook:
        """The operator's command."""


class Pools(Protocol):
    """All raise TransportError."""

    def hosts(self, pool: str) -> list[str]:
        """Which can be asked about the pool: each has one of its own, or one of them is enough."""

    async def check(self, pool: str, host: str, after: str) -> tuple[list[Finding], str]:
        """What is to be told of the images with names above ``after``, and where the next page begins."""

    async def mend(self, pool: str, host: str, keys: Collection[str]) -> list[Finding]:
        """Repair what has one of these keys, if it is still found. Returns what was repaired."""


class Blocks(Protocol):
    """The data of snapshots, in blocks of BLOCK_BYTES, in clear. All raise TransportError."""

    async def used(
        self, snapshot: Snapshot, since: Snapshot | None, first: int, count: int
    ) -> list[BlockUse]:
        """The blocks with data, at most ``count`` from the index ``first`` on; ``since``: only those that
        may differ from this one's.
        """

    async def read(self, snapshot: Snapshot, index: int) -> bytes:
        """Raises ConfigError, too, if there is no key that opens it."""

    async def write(self, snapshot: Snapshot, index: int, data: bytes) -> None:
        """Of one that is not taken yet. Its volume may still be being made: waits for that, for a moment."""


class Keys(Protocol):
    """See ``control.keys``."""

    def new(self, env: Env, id: str) -> bytes: ...

    def seal(self, env: Env, id: str, secret: bytes) -> bytes: ...

    def sign(self, text: bytes) -> bytes: ...


class Joining(NamedTuple):
    """``fingerprint``: the SHA-256 of the certificate of the cloud's authority, in hexadecimal digits.
    ``manager``: the machine whose manager leads; "" if others can't have any. ``seen``: when those of other
    machines were last heard of, as Unix time.
    """

    url: str
    fingerprint: str
    manager: str = ""
    seen: Mapping[str, float] = MappingProxyType({})


class Cloud(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that operations need. ``public_cidr``: where public and elastic addresses come from.

    ``ipv6_prefix``: an IPv6 network that others lead to the hosts, from which VPCs get theirs; "" for none.
    ``one_machine``: all hosts are on one machine, which is their router.
    """

    name: str
    account: str
    region: str
    zones: tuple[str, ...]
    public_cidr: str
    ipv6_prefix: str = ""
    one_machine: bool = False
    dns_domain: str = "ec2.internal"
    encrypted: bool = False
    """What goes from host to host goes through WireGuard, or not at all."""
    pool: str = LOCAL
    """Where new volumes are made."""
    type_pools: tuple[tuple[str, str], ...] = ()
    """Volume types, and where their volumes are made instead."""
    kept_pools: tuple[str, ...] = ()
    """Other shared pools, with volumes or snapshots of types that now lead elsewhere."""

    recovers: bool = False
    """What ran on a host that is lost runs elsewhere, and what dies runs again."""

    def pool_of(self, type: str) -> str:
        """Where new volumes of this type are made."""
        return dict(self.type_pools).get(type, self.pool)


class Context(msgspec.Struct, kw_only=True):
    """One call. ``tx`` reads and, in operations that write, writes."""

    env: Env
    cloud: Cloud
    caller: Caller
    request_id: str
    tx: Transaction
    hosts: Hosts
    keys: Keys


class Later(NamedTuple):
    """What an operation that only reads returns when it has to wait for something else than the store: the
    rest of it, which is run when its read has ended.
    """

    rest: Callable[[], Awaitable[Output]]


Handler = Callable[[Context, Input], Awaitable[Output | Later]]


FREEING = ("Delete", "Detach", "Disassociate", "Drain", "Release", "Remove", "Revoke", "Stop", "Terminate")
"""How the names of operations begin that end something, or have to come before the end of something."""


class Operation(NamedTuple):
    service: str
    name: str
    handler: Handler
    write: bool

    @property
    def frees(self) -> bool:
        """Whether it makes room, in the end: it is done also on a full disk."""
        return self.name.startswith(FREEING)


OPERATIONS: dict[tuple[str, str], Operation] = {}


def operation(service: str, name: str, *, write: bool = False) -> Callable[[Handler], Handler]:
    """Register a handler. ``write``: it runs in a transaction that is committed before the answer."""

    def register(handler: Handler) -> Handler:
        assert (service, name) not in OPERATIONS, (service, name)
        OPERATIONS[service, name] = Operation(service, name, handler, write)
        return handler

    return register
