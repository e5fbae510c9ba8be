"""What the manager knows of hosts: their records, kept true by reports, and when each was last heard of."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from ipaddress import IPv4Address

from msgspec.structs import replace

from gureum.errors import StoreError, TransportError
from gureum.hostspec import HostReport
from gureum.resources import Host, HostCertificate, HostState
from gureum.store.base import Change, Reader, Store, Transaction

LEASE_SECONDS = 6.0
NUMBER_MAX = 16383
UPLINK_MTU_MIN = 1330
"""Guests need 1280 bytes, for IPv6, and VXLAN's headers take 50."""
WIREGUARD_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")

Place = tuple[int, str, int, str]
"""What other hosts must know of one: number, address, MTU and WireGuard key."""


class Hosts:
    """The lease is in memory only, so an idle host costs no commits. ``account``: whose hosts they are."""

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._account = account
        self._heard: dict[str, float] = {}
        """When each host that the store has as up was last heard of, on the event loop's clock."""
        self._places: dict[str, Place] = {}
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

        async def work(tx: Transaction) -> None:
            if certificate is not None:
                present = await tx.get(HostCertificate, certificate.id)
                if present is None or present.revoked:
                    raise TransportError(f"host {report.host} was revoked or removed")
            await _check_place(tx, report)
            host = noted(await tx.get(Host, report.host), report, self._account)
            if not host.number:
                used = {other.number for other in await tx.find(Host)}
                number = next((n for n in range(1, NUMBER_MAX + 1) if n not in used), 0)
                if not number:
                    raise StoreError(f"a cloud has at most {NUMBER_MAX} hosts; remove some that are gone")
                host = replace(host, number=number)
            await tx.put(host)

        async with self._store.read() as reader:
            known = await reader.get(Host, report.host)
        stale = known is None or not known.number or noted(known, report, self._account) != known
        if stale:
            await self._store.transact(work, frees=True)
        self._heard[report.host] = asyncio.get_running_loop().time()
        return stale

    def silent(self) -> Iterator[str]:
        """Those that were not heard of for a lease. To be asked more often than a lease is long."""
        now = asyncio.get_running_loop().time()
        if now > self._ticked + LEASE_SECONDS:
            # This process did not run for a while, so it was its own silence: reports may be waiting.
            self._heard = dict.fromkeys(self._heard, now)
        self._ticked = now
        return iter([id for id, heard in self._heard.items() if now > heard + LEASE_SECONDS])

    async def down(self, id: str) -> None:
        """The host is not heard of any more. Raises StoreError."""

        async def work(tx: Transaction) -> None:
            host = await tx.get(Host, id)
            if host is not None and host.state is HostState.up:
                await tx.put(replace(host, state=HostState.down))

        await self._store.transact(work, frees=True)
        self._heard.pop(id, None)


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
    """The record as the report says it is."""
    host = host or Host(id=report.host, account=account, zone=report.zone)
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
        cpu=report.cpu,
        boot_id=report.boot_id,
        address=report.address,
        uplink_mtu=report.uplink_mtu,
        wireguard_key=report.wireguard_key,
    )
