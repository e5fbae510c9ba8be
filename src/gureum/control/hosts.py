"""What the manager knows of hosts: their records, kept true by reports, and when each was last heard of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from msgspec.structs import replace

from gureum.errors import StoreError, TransportError
from gureum.hostspec import HostReport
from gureum.resources import Host, HostCertificate, HostState
from gureum.store.base import Change, Reader, Store, Transaction

LEASE_SECONDS = 6.0
NUMBER_MAX = 65534

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

        A host of another machine has a ``certificate``. It is in the zone that it was let in for, and while its
        report was on the way it may have been revoked or removed, which the report must not undo.
        """
        if certificate is not None:
            report = replace(report, zone=certificate.zone)

        async def work(tx: Transaction) -> None:
            if certificate is not None:
                present = await tx.get(HostCertificate, certificate.id)
                if present is None or present.revoked:
                    raise TransportError(f"host {report.host} was revoked or removed")
            await _only_one(tx, report)
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


async def _only_one(tx: Transaction, report: HostReport) -> None:
    """Raises TransportError for an address that another host has: its traffic would come here."""
    if not report.address:
        return
    for other in await tx.find(Host):
        if other.address == report.address and other.id != report.host:
            raise TransportError(f"its address {report.address} is that of host {other.id}")


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
        boot_id=report.boot_id,
        address=report.address,
        uplink_mtu=report.uplink_mtu,
        wireguard_key=report.wireguard_key,
    )
