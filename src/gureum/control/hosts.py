"""What the manager knows of hosts: their records, kept true by reports, and when each was last heard of."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from ipaddress import IPv4Address

from msgspec.structs import replace

from gureum.control import events
from gureum.cpus import MODELS
from gureum.env import Env
from gureum.errors import StoreError, TransportError
from gureum.hostspec import HostReport
from gureum.resources import Host, HostCertificate, HostState, Severity
from gureum.store.base import Change, Reader, Store, Transaction

LEASE_SECONDS = 6.0
WARDED_LEASE_SECONDS = 4.0
"""Of a host that is fenceable: it reports more often."""
QUIET_SECONDS = 2.5
"""A fenceable host that was not heard of for so long has missed two reports."""
NUMBER_MAX = 16383
VERSION_MAX = 40
"""Characters of a version that are kept."""
UPLINK_MTU_MIN = 1330
"""Guests need 1280 bytes, for IPv6, and VXLAN's headers take 50."""
WIREGUARD_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")

OF_OTHER_RECORDS = {
    **dict.fromkeys(("revision", "sequence", "network_revision"), 0),
    **dict.fromkeys(("machines", "volumes", "snapshots", "pools", "fences", "problems"), ()),
    "load": None,
}
"""What in a report no host's record is made of: it is different each time."""

Place = tuple[int, str, int, str]
"""What other hosts must know of one: number, address, MTU and WireGuard key."""


class Hosts:
    """The lease is in memory only, so an idle host costs no commits. ``account``: whose hosts they are.

    ``env``: of clouds that recover what is lost: what happens to hosts is recorded.
    """

    def __init__(self, store: Store, account: str, env: Env | None = None) -> None:
        self._store = store
        self._account = account
        self._env = env
        self._heard: dict[str, float] = {}
        """When each host that the store has as up was last heard of, on the event loop's clock."""
        self._leases: dict[str, float] = {}
        self._up: set[str] = set()
        """Of those that were heard of, the ones that were up in the store after that."""
        self._places: dict[str, Place] = {}
        self._true: dict[str, tuple[int, HostReport]] = {}
        """The store's revision at which each host's record was as the host said, and what it said."""
        self._ticked = 0.0

    async def load(self, reader: Reader) -> None:
        """Every host that was up counts as heard now: this manager has only begun to listen."""
        self._ticked = asyncio.get_running_loop().time()
        for host in await reader.find(Host):
            self._learn(host.id, host)
            if host.state is HostState.up:
                self._heard.setdefault(host.id, self._ticked)

    def changed(self, change: Change) -> bool:
        """Whether what other hosts must know of this one changed."""
        record = change.record
        return self._learn(change.id, record if isinstance(record, Host) else None)

    def _learn(self, id: str, host: Host | None) -> bool:
        place = None
        if host is not None and host.address:
            place = host.number, host.address, host.uplink_mtu, host.wireguard_key
        if place == self._places.get(id):
            return False
        if place is None:
            del self._places[id]
        else:
            self._places[id] = place
        return True

    async def note(self, report: HostReport, certificate: HostCertificate | None = None) -> bool:
        """Keep the host's record true. Says whether it changed. Raises StoreError, TransportError.

        A host of another machine has a ``certificate``. It is in the zone that it was let in for. While its
        report was on the way it may have been revoked or removed, which the report must not undo.
        """
        if certificate is not None:
            report = replace(report, zone=certificate.zone)

        async def work(tx: Transaction) -> Host:
            if certificate is not None:
                present = await tx.get(HostCertificate, certificate.id)
                if present is None or present.revoked:
                    raise TransportError(f"host {report.host} was revoked or removed")
            await _check_place(tx, report)
            before = await tx.get(Host, report.host)
            host = noted(before, report, self._account)
            if not host.number:
                used = {other.number for other in await tx.find(Host)}
                number = next((n for n in range(1, NUMBER_MAX + 1) if n not in used), 0)
                if not number:
                    raise StoreError(f"a cloud has at most {NUMBER_MAX} hosts; remove some that are gone")
                host = replace(host, number=number)
            host = await tx.put(host)
            if before is not None and before.silent and not host.silent and self._env is not None:
                await events.record(
                    tx, self._env, "HostUp", f"host {host.id} is heard of again", host=host.id
                )
            return host

        said = self._store.revision, replace(report, **OF_OTHER_RECORDS)
        stale = False
        if self._true.get(report.host) != said:
            async with self._store.read() as reader:
                known = await reader.get(Host, report.host)
            stale = known is None or not known.number or noted(known, report, self._account) != known
            if stale or known is None:
                known = await self._store.transact(work, frees=True)
            else:
                self._true[report.host] = said
            (self._up.add if known.state is HostState.up else self._up.discard)(report.host)
        self._heard[report.host] = asyncio.get_running_loop().time()
        self._leases[report.host] = LEASE_SECONDS if report.warden is None else WARDED_LEASE_SECONDS
        return stale

    def is_up(self, id: str) -> bool:
        """Whether the host was up when its last report was noted."""
        return id in self._up

    def lease(self, id: str) -> float:
        """How long the host may be silent, in seconds."""
        return self._leases.get(id, LEASE_SECONDS)

    def silent(self) -> Iterator[str]:
        """Those that were not heard of for a lease. To be asked more often than a lease is long."""
        now = asyncio.get_running_loop().time()
        lease = min(self._leases.values(), default=LEASE_SECONDS)
        if now > self._ticked + lease:
            # This process did not run for a while, so it was its own silence: reports may be waiting.
            self._heard = dict.fromkeys(self._heard, now)
        self._ticked = now
        return iter([id for id in self._heard if not self.heard(id)])

    def heard(self, id: str, seconds: float = 0.0) -> bool:
        """Whether something was heard of the host in the last ``seconds``, or its lease."""
        heard = self._heard.get(id)
        return heard is not None and asyncio.get_running_loop().time() <= heard + (seconds or self.lease(id))

    def heard_after(self, id: str, at: float) -> bool:
        """Whether something was heard of the host after that time on the event loop's clock."""
        return self._heard.get(id, at) > at

    def quiet(self) -> frozenset[str]:
        """Those that are perhaps about to be found silent."""
        return frozenset(
            id
            for id in self._heard
            if self.lease(id) == WARDED_LEASE_SECONDS and not self.heard(id, QUIET_SECONDS)
        )

    async def down(self, id: str) -> None:
        """The host is not heard of any more. Raises StoreError."""

        async def work(tx: Transaction) -> None:
            host = await tx.get(Host, id)
            if host is None or host.state is not HostState.up:
                return
            if host.park is not None and not host.emptying:
                await tx.put(replace(host, state=HostState.down))
            else:
                await self.lost(tx, replace(host, park=None))

        await self._store.transact(work, frees=True)
        if not self.heard(id):
            self._heard.pop(id, None)

    async def lost(self, tx: Transaction, host: Host) -> None:
        """It is down, and meant to be on."""
        if self._env is None:
            await tx.put(replace(host, state=HostState.down))
            return
        now = asyncio.get_running_loop().time()
        silent = self._env.now() - (now - self._heard.get(host.id, now))
        await tx.put(replace(host, state=HostState.down, silent=silent))
        message = f"host {host.id} was not heard of for {self.lease(host.id):g} s"
        await events.record(tx, self._env, "HostDown", message, Severity.warning, host=host.id)


async def _check_place(tx: Transaction, report: HostReport) -> None:
    """Raises TransportError for what the other hosts cannot be told, or not without harm.

    They put it before their kernels as it is; the MTU of all guests is by the smallest uplink; and with the
    address or the key of another host its traffic would be lost.
    """
    key = report.wireguard_key
    if key and not WIREGUARD_KEY.fullmatch(key):
        raise TransportError(f"{key[:80]!r} is no WireGuard key")
    if not report.address:
        return
    try:
        address = IPv4Address(report.address)
    except ValueError as error:
        raise TransportError(f"{report.address[:80]!r} is no IPv4 address of an uplink") from error
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise TransportError(f"an uplink cannot have the address {address}")
    if report.uplink_mtu < UPLINK_MTU_MIN:
        raise TransportError(
            f"its uplink's MTU is {report.uplink_mtu}; it has to be at least {UPLINK_MTU_MIN}"
        )
    for other in await tx.find(Host):
        if other.id == report.host:
            continue
        if other.address == report.address:
            raise TransportError(f"its address {report.address} is that of host {other.id}")
        if key and other.wireguard_key == key:
            raise TransportError(f"its WireGuard key is that of host {other.id}")


def noted(host: Host | None, report: HostReport, account: str) -> Host:
    """The record as the report says it is.

    A fence that only the host knows of is one of a store that was since put back: it is over.
    """
    host = host or Host(id=report.host, account=account, zone=report.zone)
    given_up, warden = host.fence is not None, report.warden
    moved = abs(report.pool_free_bytes - host.pool_free_bytes) > report.pool_bytes / 100
    return replace(
        host,
        state=host.state if given_up else HostState.up,
        silent=host.silent if given_up else 0.0,
        watcher=host.watcher if given_up else "",
        lifted=host.lifted if given_up or warden is None else max(host.lifted, warden.fence),
        fenceable=warden is not None,
        uplink_down=report.uplink_down,
        unfit=host.unfit if warden is not None else "",
        zone=report.zone,
        cpus=report.cpus,
        memory_bytes=report.memory_bytes,
        pool_bytes=report.pool_bytes,
        pool_free_bytes=report.pool_free_bytes if moved else host.pool_free_bytes,
        accelerator=report.accelerator,
        cpu=report.cpu,
        cpu_vendor=report.cpu_vendor,
        cpu_models=tuple(model for model in MODELS if model in report.cpu_models),
        boot_id=report.boot_id,
        gureum_version=report.version[:VERSION_MAX],
        address=report.address,
        uplink_mtu=report.uplink_mtu,
        wireguard_key=report.wireguard_key,
    )
