"""The cluster manager: takes reports in, lets the reconcilers step, sends specs out.

Nothing here decides anything about a resource; that is in ``instances``, ``volumes`` and ``placement``. The
manager knows which things may have a next step (they changed in the store, or a host said something new of
them, or their time has come) and which hosts may need a new spec. Killed at any moment it loses nothing: at
its start everything unsettled is looked at again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from gureum.control import (
    captures,
    events,
    instances,
    interfaces,
    migrations,
    nat_gateways,
    peerings,
    recovery,
    resizes,
    volumes,
)
from gureum.control.access import Access
from gureum.control.autosizer import Autosizer
from gureum.control.balancer import Assessment, Balancer
from gureum.control.blocks import SnapshotBlocks
from gureum.control.calls import Calls
from gureum.control.evacuations import Evacuations
from gureum.control.ha import Ha
from gureum.control.hosts import LEASE_SECONDS, Hosts
from gureum.control.keeping import Keeping
from gureum.control.keys import KeyStore
from gureum.control.kinds import SPEC_KINDS
from gureum.control.neighbours import Following
from gureum.control.networks import Networks, Ports
from gureum.control.observed import NETWORK, TAKEN, Observed
from gureum.control.pools import PoolChecks
from gureum.control.power import Power
from gureum.control.reports import REPORTS_PER_SECOND_MAX, bounded, concerning, on_host
from gureum.control.session import Session
from gureum.control.shares import shared_pools
from gureum.control.specs import host_spec
from gureum.control.switches import Switches
from gureum.control.upgrades import Upgrades
from gureum.env import Env
from gureum.errors import StoreError, TooLarge, TransportError
from gureum.hostspec import HostReport, HostSpec
from gureum.migrationspec import MigrationReport
from gureum.resources import (
    ClientToken,
    Host,
    HostCertificate,
    Image,
    Instance,
    InstanceMigration,
    InstanceState,
    ManagerMachine,
    NatGateway,
    NetworkInterface,
    PeeringConnection,
    Snapshot,
    Upgrade,
    Volume,
    VolumeState,
)
from gureum.resources.record import Record
from gureum.services.operation import Cloud, Joining
from gureum.sizespec import MachineSize
from gureum.store.base import Change, Store, Transaction
from gureum.transport.link import Link
from gureum.transport.messages import OF_NO_REPORT, Hello, Reply, Report, Same, Word

log = logging.getLogger(__name__)

SWEEP_SECONDS = 30.0
HELLO_SECONDS_MAX = 5.0
TICK_SECONDS = 2.0
RETRY_SECONDS = 2.0
TOO_LARGE_SECONDS = 10.0
"""When a spec that was too large to be sent is made anew."""
SPECS_KEPT_MAX = 8
"""Of how many hosts the last spec is kept; each may have megabytes."""
RESEND_SECONDS = 3.0
"""When a spec that no report acknowledges is sent anew."""
BATCH_MAX = 64
"""How many things one transaction steps: their commits share one disk flush."""
TOKENS_SWEPT_MAX = 1000
"""Client tokens that one sweep looks at; the next goes on where it ended."""

Key = tuple[str, str]
Step = Callable[[Transaction, Env, Observed, str], Awaitable[None]]

STEPS: dict[str, Step] = {
    "instance": instances.reconcile,
    "instance-migration": migrations.reconcile,
    "volume": volumes.reconcile,
    "snapshot": volumes.reconcile_snapshot,
    "network-interface": interfaces.reconcile,
    "nat-gateway": nat_gateways.reconcile,
    "vpc-peering-connection": peerings.reconcile,
}
UNSETTLED_INSTANCES = tuple(map(str, instances.UNSETTLED))
UNSETTLED_SNAPSHOTS = tuple(map(str, volumes.SNAPSHOT_UNSETTLED))
UNSETTLED_INTERFACES = tuple(map(str, interfaces.UNSETTLED))
UNSETTLED_NATS = tuple(map(str, nat_gateways.UNSETTLED))


class Manager:
    """One manager over one store. ``run`` works until cancelled; ``serve`` speaks with one agent."""

    def __init__(self, env: Env, cloud: Cloud, store: Store, keys: KeyStore | None = None) -> None:
        self.env = env
        self.cloud = cloud
        self.store = store
        self.observed = Observed()
        self.keys = keys
        self.hosts = Hosts(store, cloud.account, env if cloud.recovers else None)
        self.ha = Ha(env, store, self.hosts, self.observed, self.kick) if cloud.recovers else None
        self.keeping = Keeping(store, cloud.account) if shared_pools(cloud) else None
        """Of clouds with shared pools."""
        self.calls = Calls(self.observed)
        self.sessions = self.calls.sessions
        self.blocks = SnapshotBlocks(store, self.calls, keys)
        self.pools = PoolChecks(store, self.calls, cloud.name)
        self.switches = Switches(env, store, self.observed, self.calls)
        self.evacuations = Evacuations(env, store)
        self.balancer = Balancer(env, store)
        self.autosizer = Autosizer(env, store, self.observed)
        self.autosize = self.autosizer.sight
        self.upgrades = Upgrades(env, store, self.observed, self.calls)
        self.power = Power(env, store, self.hosts, self.kick, self.balancer, lambda: self.leads(), self.size)
        self._neighbours = Following(store)
        self.access: Access | None = None
        """Where hosts of other machines come in, if they may."""
        self.leads: Callable[[], bool] = lambda: True
        """Whether this manager certainly leads, now."""
        self._machines: set[str] = set()
        """With managers: if there are several, hosts are to notice when this one falls silent."""
        self._steps = STEPS | ({Instance.kind: recovery.reconcile} if cloud.recovers else {})
        self._pending: dict[Key, None] = {}
        self._unsettled: dict[Key, tuple[Key, ...]] = {}
        """What is under way, so that also news of old states, but newer specs, matter; and what else it waits
        for: its instance, or the network of its host.
        """
        self._made: dict[str, HostSpec] = {}
        """By host, of those that got one last, its spec: it may be sent again, also over its next link."""
        self._wake = asyncio.Event()
        self._tokens_swept: str | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._step_forever())
            group.create_task(self._sweep_forever())
            group.create_task(self.switches.run())
            group.create_task(self.upgrades.run())
            group.create_task(self.power.run())
            if self.ha is not None:
                group.create_task(self.ha.run())

    # What may have a next step

    def kick(self, kind: str, id: str) -> None:
        """Let the reconciler look at this thing soon."""
        if kind in STEPS:
            self._pending[kind, id] = None
            self._wake.set()

    async def _watch(self) -> None:
        since = self.store.revision
        async with self.store.read() as reader:
            found = await reader.find(ManagerMachine)
            self._machines = {machine.id for machine in found if not machine.revoked}
            # An attachment's state is in no index, so volumes are all looked through.
            for record in (
                *await reader.find(Instance, state=UNSETTLED_INSTANCES),
                *await reader.find(Volume),
                *await reader.find(Snapshot, state=UNSETTLED_SNAPSHOTS),
                *await reader.find(NetworkInterface, changing=UNSETTLED_INTERFACES),
                *await reader.find(NatGateway, state=UNSETTLED_NATS),
                *await captures.captured(reader),
                *await migrations.migrating(reader),
                *await resizes.resizing(reader),
            ):
                self._note_unsettled(record)
        await self._kick_unsettled()
        async for changes in self.store.watch(since):
            for change in changes:
                await self._changed(change)

    async def _changed(self, change: Change) -> None:
        record = change.record
        if record is None:
            self._unsettled.pop((change.kind, change.id), None)
        else:
            self._note_unsettled(record)
        if change.kind != NetworkInterface.kind or (change.kind, change.id) in self._unsettled:
            self.kick(change.kind, change.id)
        for each in (self.balancer, self.autosizer, self.power):
            each.changed(change)
        if change.kind == ManagerMachine.kind:
            there = isinstance(record, ManagerMachine) and not record.revoked
            (self._machines.add if there else self._machines.discard)(change.id)
            self._all_need_specs()
        if self.ha is not None and self.ha.changed(change):
            self._all_need_specs()
        if change.kind in SPEC_KINDS:
            for session in self.sessions.values():
                session.note(change)
        elif change.kind == Host.kind:
            self.evacuations.changed(change)
            if self.hosts.changed(change):
                self._all_need_specs()
            if self.keeping is not None and self.keeping.changed(change):
                self._all_need_specs()
                await self._kick_kept()
        elif change.kind == Image.kind and self.keeping is not None:
            self._all_need_specs()
        elif change.kind == Upgrade.kind:
            self.upgrades.changed(change)
        elif change.kind in (HostCertificate.kind, ManagerMachine.kind) and self.access is not None:
            self.access.changed(change)
        if isinstance(record, InstanceMigration):
            self.kick("instance", record.instance)
        if isinstance(record, Instance):
            await self._kick_attached([record.id])
        elif isinstance(record, Volume):
            for instance in record.instances:
                self.kick("instance", instance)

    def _all_need_specs(self) -> None:
        for session in self.sessions.values():
            session.dirty.set()

    async def _kick_kept(self) -> None:
        """What is in shared pools may need another host that looks after it."""
        assert self.keeping is not None
        async with self.store.read() as reader:
            for key in await self.keeping.abandoned(reader):
                self.kick(*key)
        for kind, id in self._unsettled:
            if kind in (Volume.kind, Snapshot.kind):
                self.kick(kind, id)

    def _note_unsettled(self, record: Record) -> None:
        """In the order of the changes."""
        other: tuple[Key, ...] = ()
        if isinstance(record, Instance):
            settled = instances.settled(record)
            if record.migration:
                other = tuple(("volume", device.volume) for device in record.devices)
        elif isinstance(record, Volume):
            settled = volumes.settled(record)
            other = tuple((TAKEN, host) for host in record.former)
            other += tuple(("instance", instance) for instance in record.instances)
        elif isinstance(record, NetworkInterface):
            settled = interfaces.settled(record)
            other = (("instance", record.instance),) if record.instance is not None else ()
        elif isinstance(record, NatGateway):
            settled = nat_gateways.settled(record)
            other = ((NETWORK, record.host),) if record.host is not None else ()
        elif isinstance(record, Snapshot):
            settled = volumes.snapshot_settled(record)
            other = tuple((TAKEN, host) for host in record.former)
        else:
            settled = True
        if settled:
            self._unsettled.pop((record.kind, record.id), None)
        else:
            self._unsettled[record.kind, record.id] = other

    async def _kick_attached(self, instances: list[str]) -> None:
        """Attachments depend on their instance, and on what is reported of its machine."""
        if not instances:
            return
        others = {("instance", id) for id in instances}
        for (kind, id), other in self._unsettled.items():
            if kind == NetworkInterface.kind and not others.isdisjoint(other):
                self.kick(kind, id)
        async with self.store.read() as reader:
            for volume in await reader.find(Volume, instances=instances):
                self.kick("volume", volume.id)

    async def _kick_unsettled(self) -> None:
        async with self.store.read() as reader:
            states = (*UNSETTLED_INSTANCES, str(InstanceState.terminated))
            for instance in await reader.find(Instance, state=states):
                if instance.state is not InstanceState.terminated or instance.purge_at <= self.env.now():
                    self.kick("instance", instance.id)
            for instance in (
                *await captures.captured(reader),
                *await migrations.migrating(reader),
                *await resizes.resizing(reader),
            ):
                self.kick("instance", instance.id)
                if instance.migration:
                    self.switches.kick(instance.id)
            for migration in await migrations.purgeable(reader, self.env.now()):
                self.kick(migration.kind, migration.id)
            states = (str(VolumeState.creating), str(VolumeState.deleting))
            for volume in await reader.find(Volume, state=states):
                self.kick("volume", volume.id)
            for snapshot in await reader.find(Snapshot, state=UNSETTLED_SNAPSHOTS):
                self.kick("snapshot", snapshot.id)
            for interface in await reader.find(NetworkInterface, changing=UNSETTLED_INTERFACES):
                self.kick("network-interface", interface.id)
            # Few, and those that ended wait for their time to go.
            for kind in (NatGateway, PeeringConnection):
                for record in await reader.find(kind):
                    self.kick(record.kind, record.id)

    async def _step_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                keys = [key for key, _ in zip(self._pending, range(BATCH_MAX), strict=False)]
                for key in keys:
                    del self._pending[key]
                await self._step(keys)

    async def _step(self, keys: list[Key]) -> None:
        async def work(tx: Transaction) -> None:
            for kind, id in keys:
                await self._steps[kind](tx, self.env, self.observed, id)

        self.env.crashpoint("manager.step")
        try:
            await self.store.transact(work, frees=True)  # it carries out what was granted
        except Exception as error:
            # One broken record, or a full disk, must not stop the others: each gets a transaction of its own.
            if len(keys) > 1:
                for key in keys:
                    await self._step([key])
                return
            expected = isinstance(error, StoreError)
            log.error("could not step %s %s, will try again", *keys[0], exc_info=None if expected else error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self.kick, *keys[0])
        self.env.crashpoint("manager.stepped")

    async def _sweep_forever(self) -> None:
        """What time alone brings: hosts that fell silent, purged records, and anything missed."""
        loop = asyncio.get_running_loop()
        async with self.store.read() as reader:
            await self.hosts.load(reader)
            await self.evacuations.load(reader)
            await self.balancer.load(reader)
            await self.autosizer.load(reader)
            await self.upgrades.load(reader)
            await self.power.load(reader)
        swept = loop.time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                for id in self.hosts.silent() if self.ha is None else ():
                    log.warning("host %s has not reported for %g s", id, LEASE_SECONDS)
                    await self.hosts.down(id)
                await self.evacuations.step()
                if loop.time() >= swept + SWEEP_SECONDS:
                    swept = loop.time()
                    await self._kick_unsettled()
                    if self.keeping is not None:
                        await self._kick_kept()
                    if self.ha is not None:
                        await self.store.transact(events.sweep, frees=True)
                    self._tokens_swept = await self.store.transact(self._expire_tokens, frees=True)
                await self.balancer.step()
                await self.autosizer.step()
            except StoreError as error:
                log.error("sweep failed, will try again: %s", error)

    async def _expire_tokens(self, tx: Transaction) -> str | None:
        """Delete expired tokens of the next part of all; returns where it ended, None at the end."""
        tokens = await tx.find(ClientToken, after=self._tokens_swept, limit=TOKENS_SWEPT_MAX)
        for token in tokens:
            if token.expires <= self.env.now():
                await tx.delete(token)
        return tokens[-1].id if len(tokens) == TOKENS_SWEPT_MAX else None

    # Hosts

    @property
    def joining(self) -> Joining | None:
        return self.access.joining if self.access is not None else None

    async def serve(self, link: Link) -> None:
        """Speak with one agent until its link breaks. Raises TransportError."""
        try:
            async with asyncio.timeout(HELLO_SECONDS_MAX):
                hello = await link.receive()
        except TimeoutError as error:
            raise TransportError(f"an agent said nothing for {HELLO_SECONDS_MAX:g} s") from error
        if not isinstance(hello, Hello):
            raise TransportError("not an agent")
        await self.speak(link, hello)

    async def speak(self, link: Link, hello: Hello, certificate: HostCertificate | None = None) -> None:
        """Speak with the agent that has said this; ``certificate``: of one of another machine. Raises
        TransportError.
        """
        if hello.cloud != self.cloud.name:
            raise TransportError("an agent of another cloud")
        loop = asyncio.get_running_loop()
        old = self.sessions.get(hello.host)
        lives = old is not None and old.instance != hello.instance and loop.time() < old.heard + LEASE_SECONDS
        if lives and certificate is not None:
            # On this machine a lock keeps agents from being two. Elsewhere the directory may be a copy. Where
            # an agent has ended, its link is closed or falls silent, and the next one tries again.
            raise TransportError(
                f"another agent speaks for host {hello.host} right now. If this is a copy of its directory, "
                "let this machine join under a name of its own"
            )
        session = Session(hello.host, link, certificate, hello.instance, loop.time())
        self.sessions[hello.host] = session
        if old is not None:
            await old.link.close()
        log.info("host %s is connected", hello.host)
        self.calls.connected()
        end: TransportError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_specs(session))
                group.create_task(self._hear(session, group))
        except* TransportError as errors:
            # Raised in here it would come out as a group.
            end = TransportError(f"host {hello.host}: {errors.exceptions[0]}")
        finally:
            session.close()
            if self.sessions.get(hello.host) is session:
                del self.sessions[hello.host]
        if end is not None:
            raise end

    async def _send_specs(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await session.dirty.wait()
            session.begin()
            try:
                async with self._neighbours.read() as (reader, neighbours):
                    revision = reader.revision
                    ports = session.specs.ports
                    only = self._neighbours.only_networks_since(
                        session.host, session.sent_revision, session.told
                    )
                    if only and neighbours is not None and ports is not None:
                        # A change of a group concerns many hosts, and nothing else on them.
                        load = Networks.load(reader, self.cloud, session.host, neighbours, Ports(*ports))
                        network, spec = (await load).spec(), None
                    else:
                        spec = self._made.pop(session.host, None)
                        if spec is None or spec.revision != revision:
                            spec = await host_spec(reader, self.cloud, session.host, neighbours, self.keys)
                        self._made[session.host] = spec
                        if len(self._made) > SPECS_KEPT_MAX:
                            del self._made[next(iter(self._made))]
                        network = spec.network
            except Exception as error:
                # A host that gets no specs still reports; it goes on with the last that it got.
                expected = isinstance(error, StoreError)
                log.error("no spec for %s: %s", session.host, error, exc_info=None if expected else error)
                session.failed()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.env.crashpoint("manager.spec")
            if spec is not None:
                session.made(spec, loop.time())
                message = session.specs.message(spec)
            else:
                session.made_network(revision, network, loop.time())
                message = session.specs.network_message(revision, network)
            try:
                await session.link.send(message)
            except TooLarge as error:
                if not session.problem:
                    log.error("host %s gets no specs: %s", session.host, error)
                session.problem = (
                    f"what is to be here is too large to be told ({error}), so nothing new is: let there be "
                    "fewer interfaces, security group rules or prefix list entries in the VPCs that are on it"
                )
                session.specs.forget()
                await asyncio.sleep(TOO_LARGE_SECONDS)
                session.dirty.set()
            else:
                session.problem = ""

    async def _hear(self, session: Session, group: asyncio.TaskGroup) -> None:
        while True:
            message = await session.link.receive()
            session.heard = asyncio.get_running_loop().time()
            if isinstance(message, Reply):
                session.answer(message)
            elif isinstance(message, Report | Same):
                report = session.reports.take(message)
                if session.waiting is not None:
                    if report.sequence > session.waiting.sequence:
                        session.waiting = report
                elif session.pace.allows(session.heard):
                    await self._reported(session, report)
                else:
                    session.waiting = report
                    group.create_task(self._report_waiting(session))

    async def _report_waiting(self, session: Session) -> None:
        """Of reports that come too fast only the newest is taken in, after a moment."""
        await asyncio.sleep(1 / REPORTS_PER_SECOND_MAX)
        session.pace.allows(asyncio.get_running_loop().time())
        report, session.waiting = session.waiting, None
        if report is not None:
            await self._reported(session, report)

    async def _reported(self, session: Session, report: HostReport) -> None:
        if report.cloud != self.cloud.name or report.host != session.host:
            raise TransportError(f"a report for {report.cloud!r}, {report.host!r}")
        if self.sessions.get(session.host) is not session:
            raise TransportError("another agent speaks for it now")
        if report.sequence <= session.sequence:
            return
        report = bounded(report)
        session.sequence = report.sequence
        news = self.observed.take(report)
        self.switches.reported(report)
        self.autosizer.heard(self.balancer.heard(report, session.mentioned))
        self.calls.heard()
        renewed = {(each.kind, each.id) for each in news}
        for key, other in self._unsettled.items():
            if key in renewed or not renewed.isdisjoint(other):
                self.kick(*key)
        try:
            if news:
                here = await self._here(session)
                changed = [(each.kind, each.id) for each in concerning(news, here) if not each.renewed]
                for kind, id in changed:
                    self.kick(kind, id)
                await self._kick_attached([id for kind, id in changed if kind == "instance"])
            if await self.hosts.note(report, session.certificate):
                await self._kick_unsettled()
            if self.ha is not None:
                self.ha.heard()
            await self._answer(session, report)
            if self.keeping is not None:
                await self.keeping.note(report, self.observed)
        except StoreError as error:
            log.error("could not note host %s: %s", report.host, error)
        lost = report.revision < session.sent_revision
        if lost and asyncio.get_running_loop().time() > session.sent + RESEND_SECONDS:
            session.specs.forget()
            session.dirty.set()

    async def _answer(self, session: Session, report: HostReport) -> None:
        """Let the host know that it was heard, and not given up: it may run machines on that word alone.

        So one that led, was stopped and goes on must not say so: another may have given the host up by then.
        Whether it leads is looked up after the report came, and a word is good for a time from before that.
        """
        if not self.leads():
            return
        if self.ha is not None and report.warden is not None and self.hosts.is_up(report.host):
            self.ha.spoke(report.host)
            await session.link.send(Word(report.sequence, same=True))
        elif len(self._machines) > 1:
            await session.link.send(Word(OF_NO_REPORT))

    async def _here(self, session: Session) -> Collection[str]:
        """Ids of what is on the host."""
        if session.sent_revision:
            return session.mentioned
        async with self.store.read() as reader:
            return await on_host(reader, session.host)

    def problems(self, host: str) -> tuple[str, ...]:
        """What is wrong with the host, for people."""
        return self.calls.problems(host)

    def copied(self, host: str, volume: str) -> tuple[int, int]:
        """Bytes of a volume that its host has copied to where it moves, of how many."""
        seen = self.observed.volume(host, volume)
        return (seen.done_bytes, seen.total_bytes) if seen is not None else (0, 0)

    def migrating(self, host: str, instance: str) -> MigrationReport | None:
        """What a host says of a machine that leaves it."""
        return self.observed.migration(host, instance)

    def balance(self) -> Assessment:
        """How busy hosts are, and what should be moved."""
        return self.balancer.found

    def size(self, host: str, instance: str, generation: int) -> MachineSize | None:
        """What a host says that a machine has and can have while it runs."""
        seen = self.observed.machine(host, instance, generation)
        return seen.size if seen is not None else None

    async def console(self, host: str, instance: str, max_bytes: int) -> bytes:
        """The end of a machine's console. Raises TransportError."""
        return await self.calls.call(host, "console", machine=instance, max_bytes=max_bytes)
