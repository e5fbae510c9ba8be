"""A connected host, as the manager sees it."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from operator import attrgetter
from typing import Any

from gureum.control.reports import Pace
from gureum.errors import TransportError
from gureum.hostspec import HostReport, HostSpec, NetworkSpec, RemoteSpec
from gureum.resources import (
    DhcpOptions,
    EgressGateway,
    FlowLog,
    HostCertificate,
    Instance,
    InstanceMigration,
    InternetGateway,
    PeeringConnection,
    PrefixList,
)
from gureum.store.base import Change
from gureum.transport.link import Link
from gureum.transport.messages import Call, Reply
from gureum.transport.reports import ReportReceiver
from gureum.transport.specs import Sender

CALL_SECONDS_MAX = 5.0
_ID = attrgetter("id")
MEANWHILE_MAX = 1000
OF_ANY_VPC = DhcpOptions, PrefixList, FlowLog


class Session:
    """What a host was sent, what it last said, and the calls it has not answered yet.

    A session is one connection of one agent. Its reports are numbered from 1, so ``sequence`` tells which
    ones come a second time; those of another session say nothing about the order here.
    """

    def __init__(
        self,
        host: str,
        link: Link,
        certificate: HostCertificate | None = None,
        instance: str = "",
        heard: float = 0.0,
    ) -> None:
        self.host = host
        self.link = link
        self.certificate = certificate
        """Of a host of another machine: on whose word it is this host."""
        self.instance = instance
        """Which start of an agent this is."""
        self.heard = heard
        """When its last message came, on the event loop's clock."""
        self.specs = Sender()
        self.reports = ReportReceiver()
        self.sequence = 0
        self.pace = Pace()
        self.waiting: HostReport | None = None
        """The newest of reports that came too fast."""
        self.problem = ""
        """Why it gets no specs, for people; "" if it does."""
        self.dirty = asyncio.Event()
        self.dirty.set()
        self.sent_revision = 0
        self.sent = 0.0
        """When the last spec was sent, on the event loop's clock."""
        self.mentioned: frozenset[str] = frozenset()
        """What the last spec names: ids of what is on the host, and of its VPCs and their parts."""
        self._things: frozenset[str] = frozenset()
        """Of these, what is on the host."""
        self.told: frozenset[str] = frozenset()
        """That, and the interfaces of its machines."""
        self._remotes: tuple[RemoteSpec, ...] = ()
        """Its remote ports, by id: so many that their ids are not kept once more."""
        self._meanwhile: list[Change] | None = None
        """Changes that came while a spec is being made; None while none is."""
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._next_call = 0

    def note(self, change: Change) -> None:
        """Something changed in the store: if it concerns this host, it needs a new spec."""
        if self._meanwhile is not None:
            if len(self._meanwhile) < MEANWHILE_MAX:
                self._meanwhile.append(change)
            else:
                self.dirty.set()
        elif change.revision > self.sent_revision and self._concerned(change):
            self.dirty.set()

    def _concerned(self, change: Change) -> bool:
        record = change.record
        # What a deleted gateway was of, nothing says any more.
        if self._mentions(change.id) or (record is None and change.kind == EgressGateway.kind):
            return True
        if record is None or (isinstance(record, Instance) and record.host != self.host):
            return False
        if isinstance(record, InstanceMigration):
            return self.host in record.hosts
        if getattr(record, "host", None) == self.host or isinstance(record, OF_ANY_VPC):
            return True
        if self.host in (*getattr(record, "former", ()), *getattr(record, "strays", ())):
            # That it took in a spec without it is waited for.
            return True
        if isinstance(record, PeeringConnection):
            return not self.mentioned.isdisjoint(record.vpcs)
        vpc = getattr(record, "vpc", None)
        # A gateway that was detached does not say any more of what.
        return vpc in self.mentioned or (isinstance(record, InternetGateway) and not vpc)

    def _mentions(self, id: str) -> bool:
        if id in self.mentioned:
            return True
        at = bisect_left(self._remotes, id, key=_ID)
        return at < len(self._remotes) and self._remotes[at].id == id

    def begin(self) -> None:
        """A spec is read out of the store from now on."""
        self.dirty.clear()
        self._meanwhile = []

    def made(self, spec: HostSpec, now: float) -> None:
        """This spec is sent now. What changed since it was read out is looked at again."""
        things = (spec.machines, spec.volumes, spec.snapshots)
        self._things = frozenset(thing.id for part in things for thing in part)
        self.told = self._things.union(
            (each.id for machine in spec.machines for each in machine.metadata.interfaces),
            (port.id for port in spec.network.standby),
        )
        self.made_network(spec.revision, spec.network, now)

    def made_network(self, revision: int, network: NetworkSpec, now: float) -> None:
        """The same if nothing else is different from the last spec."""
        self.sent_revision, self.sent = revision, now
        parts = (
            *(network.ports, network.standby, network.peerings, network.groups, network.flow_logs),
            *(part for vpc in network.vpcs for part in ((vpc,), vpc.subnets, vpc.route_tables, vpc.acls)),
        )
        self.mentioned = self._things.union(thing.id for part in parts for thing in part)
        self._remotes = network.remotes
        meanwhile, self._meanwhile = self._meanwhile or [], None
        for change in meanwhile:
            self.note(change)

    def failed(self) -> None:
        """No spec could be made: it is tried again."""
        self._meanwhile = None
        self.dirty.set()

    async def call(self, method: str, **values: Any) -> bytes:
        """Ask the agent; ``values`` as in ``Call``. Raises TransportError."""
        self._next_call += 1
        id = self._next_call
        future = self._calls[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                await self.link.send(Call(id=id, method=method, **values))
                reply: Reply = await future
        except TimeoutError as error:
            raise TransportError(f"host {self.host} did not answer in {CALL_SECONDS_MAX:g} s") from error
        finally:
            del self._calls[id]
        if reply.error:
            raise TransportError(reply.error)
        return reply.data

    def answer(self, reply: Reply) -> None:
        future = self._calls.get(reply.id)
        if future is not None and not future.done():
            future.set_result(reply)

    def close(self) -> None:
        for future in self._calls.values():
            if not future.done():
                future.set_exception(TransportError(f"the link to host {self.host} was closed"))
