"""The cluster manager: takes reports in, lets the reconcilers step, sends specs out.

Nothing here decides anything about a resource; that is in ``instances``, ``volumes`` and ``placement``. The
manager knows which things may have a next step (they changed in the store, or a host said something new of
them, or their time has come) and which hosts may need a new spec. Killed at any moment it loses nothing: at
its start everything unsettled is looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from gureum.control import instances, volumes
from gureum.control.observed import Observed
from gureum.control.specs import host_spec
from gureum.env import Env
from gureum.errors import StoreError, TransportError
from gureum.hostspec import HostReport
from gureum.resources import (
    ClientToken,
    Host,
    HostState,
    Instance,
    InstanceState,
    NetworkInterface,
    SecurityGroup,
    Snapshot,
    SnapshotState,
    Subnet,
    Volume,
    VolumeState,
    Vpc,
)
from gureum.services.operation import Cloud
from gureum.store.base import Change, Store, Transaction
from gureum.transport.link import Link
from gureum.transport.messages import Call, Hello, Reply, Report, Spec

log = logging.getLogger(__name__)

LEASE_SECONDS = 6.0
SWEEP_SECONDS = 30.0
HELLO_SECONDS_MAX = 5.0
CALL_SECONDS_MAX = 5.0
TICK_SECONDS = 2.0
RETRY_SECONDS = 2.0
RESEND_SECONDS = 3.0
"""When a spec that no report acknowledges is sent anew."""
BATCH_MAX = 64
"""How many things one transaction steps: their commits share one disk flush."""

Key = tuple[str, str]
Step = Callable[[Transaction, Env, Observed, str], Awaitable[None]]

STEPS: dict[str, Step] = {
    "instance": instances.reconcile,
    "volume": volumes.reconcile,
    "snapshot": volumes.reconcile_snapshot,
}
NETWORK_KINDS = frozenset(kind.kind for kind in (Vpc, Subnet, SecurityGroup, NetworkInterface))
UNSETTLED_INSTANCES = (
    InstanceState.pending,
    InstanceState.stopping,
    InstanceState.shutting_down,
    InstanceState.terminated,
)


class Session:
    """A connected host: what it was sent, and the calls it has not answered yet."""

    def __init__(self, host: str, link: Link) -> None:
        self.host = host
        self.link = link
        self.dirty = asyncio.Event()
        self.dirty.set()
        self.sent_revision = 0
        self.sent = 0.0
        """When the last spec was sent, in Unix seconds."""
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._next_call = 0

    async def call(self, method: str, machine: str, max_bytes: int) -> bytes:
        """Ask the agent. Raises TransportError."""
        self._next_call += 1
        id = self._next_call
        future = self._calls[id] = asyncio.get_running_loop().create_future()
        try:
            await self.link.send(Call(id=id, method=method, machine=machine, max_bytes=max_bytes))
            async with asyncio.timeout(CALL_SECONDS_MAX):
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


class Manager:
    """One manager over one store. ``run`` works until cancelled; ``serve`` speaks with one agent."""

    def __init__(self, env: Env, cloud: Cloud, store: Store) -> None:
        self.env = env
        self.cloud = cloud
        self.store = store
        self.observed = Observed()
        self.sessions: dict[str, Session] = {}
        self._pending: dict[Key, None] = {}
        self._wake = asyncio.Event()
        self._connected = asyncio.Event()
        """Wakes those who wait for a host, whenever one connects."""
        self._heard: dict[str, float] = {}
        """When each host that the store has as up was last heard of, in Unix seconds."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._step_forever())
            group.create_task(self._sweep_forever())

    # What may have a next step

    def kick(self, kind: str, id: str) -> None:
        """Let the reconciler look at this thing soon."""
        if kind in STEPS:
            self._pending[kind, id] = None
            self._wake.set()

    async def _watch(self) -> None:
        since = self.store.revision
        await self._kick_unsettled()
        async for changes in self.store.watch(since):
            for change in changes:
                await self._changed(change)

    async def _changed(self, change: Change) -> None:
        self.kick(change.kind, change.id)
        record = change.record
        if change.kind in NETWORK_KINDS or record is None:
            self._dirty_all()
        elif isinstance(record, Instance | Volume | Snapshot):
            if record.host is not None:
                self._dirty(record.host)
            if isinstance(record, Instance):
                await self._kick_volumes([record.id])
            elif isinstance(record, Volume) and record.instance is not None:
                self.kick("instance", record.instance)

    async def _kick_volumes(self, instances: list[str]) -> None:
        """Attachments depend on their instance, and on what is reported of its machine."""
        async with self.store.read() as reader:
            for volume in await reader.find(Volume, instance=instances):
                self.kick("volume", volume.id)

    def _dirty(self, host: str) -> None:
        if host in self.sessions:
            self.sessions[host].dirty.set()

    def _dirty_all(self) -> None:
        for session in self.sessions.values():
            session.dirty.set()

    async def _kick_unsettled(self) -> None:
        async with self.store.read() as reader:
            for instance in await reader.find(Instance, state=[str(state) for state in UNSETTLED_INSTANCES]):
                self.kick("instance", instance.id)
            states = (VolumeState.creating, VolumeState.deleting)
            for volume in await reader.find(Volume, state=[str(state) for state in states]):
                self.kick("volume", volume.id)
            pending = (SnapshotState.pending, SnapshotState.deleting)
            for snapshot in await reader.find(Snapshot, state=[str(state) for state in pending]):
                self.kick("snapshot", snapshot.id)

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
                await STEPS[kind](tx, self.env, self.observed, id)

        self.env.crashpoint("manager.step")
        try:
            await self.store.transact(work)
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
        async with self.store.read() as reader:
            for host in await reader.find(Host):
                if host.state is HostState.up:
                    self._heard.setdefault(host.id, self.env.now())
        swept = self.env.now()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self.env.now()
            try:
                silent = [id for id, heard in self._heard.items() if now > heard + LEASE_SECONDS]
                for id in silent:
                    await self._silent(id)
                if now >= swept + SWEEP_SECONDS:
                    swept = now
                    await self._kick_unsettled()
                    await self.store.transact(self._expire_tokens)
            except StoreError as error:
                log.error("sweep failed, will try again: %s", error)

    async def _silent(self, id: str) -> None:
        async def work(tx: Transaction) -> None:
            host = await tx.get(Host, id)
            if host is not None and host.state is HostState.up:
                await tx.put(replace(host, state=HostState.down))

        log.warning("host %s has not reported for %g s", id, LEASE_SECONDS)
        await self.store.transact(work)
        del self._heard[id]

    async def _expire_tokens(self, tx: Transaction) -> None:
        for token in await tx.find(ClientToken, limit=1000):
            if token.expires <= self.env.now():
                await tx.delete(token)

    # Hosts

    async def serve(self, link: Link) -> None:
        """Speak with one agent until its link breaks. Raises TransportError."""
        async with asyncio.timeout(HELLO_SECONDS_MAX):
            hello = await link.receive()
        if not isinstance(hello, Hello) or hello.cloud != self.cloud.name:
            raise TransportError("an agent of another cloud, or none")
        old = self.sessions.get(hello.host)
        session = self.sessions[hello.host] = Session(hello.host, link)
        if old is not None:
            await old.link.close()
        log.info("host %s is connected", hello.host)
        self._connected.set()
        self._connected.clear()
        sender = asyncio.create_task(self._send_specs(session))
        try:
            while True:
                message = await link.receive()
                if isinstance(message, Report):
                    await self._reported(message.report)
                    lost = message.report.revision < session.sent_revision
                    if lost and self.env.now() > session.sent + RESEND_SECONDS:
                        session.dirty.set()
                elif isinstance(message, Reply):
                    session.answer(message)
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, TransportError):
                await sender
            session.close()
            if self.sessions.get(hello.host) is session:
                del self.sessions[hello.host]

    async def _send_specs(self, session: Session) -> None:
        while True:
            await session.dirty.wait()
            session.dirty.clear()
            async with self.store.read() as reader:
                spec = await host_spec(reader, self.cloud, session.host)
            self.env.crashpoint("manager.spec")
            session.sent_revision, session.sent = spec.revision, self.env.now()
            await session.link.send(Spec(spec))

    async def _reported(self, report: HostReport) -> None:
        if report.cloud != self.cloud.name:
            raise TransportError(f"a report for cloud {report.cloud!r}")
        news = self.observed.take(report, self.env.now())
        for kind, id in news:
            self.kick(kind, id)
        try:
            await self._kick_volumes([id for kind, id in news if kind == "instance"])
            await self._note_host(report)
        except StoreError as error:
            log.error("could not note host %s: %s", report.host, error)

    async def _note_host(self, report: HostReport) -> None:
        """Keep the host's record true; the lease itself is in memory, so an idle host costs no commits."""

        def noted(host: Host | None) -> Host:
            host = host or Host(id=report.host, account=self.cloud.account, zone=report.zone)
            moved = abs(report.pool_free_bytes - host.pool_free_bytes) > report.pool_bytes / 100
            return replace(
                host,
                state=HostState.up,
                zone=report.zone,
                cpus=report.cpus,
                memory_bytes=report.memory_bytes,
                pool_bytes=report.pool_bytes,
                pool_free_bytes=report.pool_free_bytes if moved else host.pool_free_bytes,
                accelerator=report.accelerator,
                boot_id=report.boot_id,
            )

        async def work(tx: Transaction) -> None:
            await tx.put(noted(await tx.get(Host, report.host)))

        async with self.store.read() as reader:
            known = await reader.get(Host, report.host)
        if known is None or noted(known) != known:
            await self.store.transact(work)
            await self._kick_unsettled()
        self._heard[report.host] = self.env.now()

    async def console(self, host: str, instance: str, max_bytes: int) -> bytes:
        """The end of a machine's console. Raises TransportError."""
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                while host not in self.sessions:
                    await self._connected.wait()
        except TimeoutError as error:
            raise TransportError(f"host {host} is not connected") from error
        return await self.sessions[host].call("console", instance, max_bytes)
