"""Shared pools, as the manager follows them: their records, and what in them nobody looks after any more."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.control.observed import Observed
from gureum.hostspec import HostReport, PoolReport
from gureum.resources import Host, HostState, Pool, Volume
from gureum.resources.volume import shared
from gureum.store.base import Change, Reader, Store, Transaction

Key = tuple[str, str]


class Keeping:
    """``account``: whose pools they are."""

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._account = account
        self._able: dict[str, bool] = {}
        """By host, whether it can look after volumes."""
        self._noted: dict[str, tuple[PoolReport, ...]] = {}
        """What each host said when the records were last compared with it."""

    def changed(self, change: Change) -> bool:
        """Whether a host can look after volumes now that could not before, or the other way round."""
        self._noted.clear()
        record = change.record
        before = self._able.get(change.id)
        if not isinstance(record, Host):
            return self._able.pop(change.id, None) is not None
        self._able[record.id] = record.schedulable
        return self._able[record.id] != before

    async def abandoned(self, reader: Reader) -> list[Key]:
        """Volumes whose host can't look after them. What has no host is unsettled."""
        unable = [host for host, able in self._able.items() if not able]
        volumes = await reader.find(Volume, host=unable)
        return [(Volume.kind, volume.id) for volume in volumes if shared(volume.pool)]

    async def note(self, report: HostReport, observed: Observed) -> None:
        """Keep the pools' records true. Raises StoreError."""
        if report.pools == self._noted.get(report.host, ()):
            return
        async with self._store.read() as reader:
            stale = [pool for pool in report.pools if await self._after(reader, report.host, pool, observed)]
        if stale:

            async def work(tx: Transaction) -> None:
                for pool in stale:
                    noted = await self._after(tx, report.host, pool, observed)
                    if noted is not None:
                        await tx.put(noted)

            await self._store.transact(work, frees=True)
        self._noted[report.host] = report.pools

    async def _after(self, reader: Reader, host: str, seen: PoolReport, observed: Observed) -> Pool | None:
        """The record as it should be; None if it is so.

        How full the pool is one host says, since hosts look at different moments: the first that sees it.
        """
        known = await reader.get(Pool, seen.name)
        pool = known or Pool(id=seen.name, account=self._account)
        up = {each.id for each in await reader.find(Host) if each.state is HostState.up}
        away = {each: words for each, words in pool.away.items() if each in up and each != host}
        if seen.error:
            away[host] = seen.error
        after = replace(pool, away=away)
        if not seen.error and host == min(_seeing(seen.name, up, observed), default=host):
            moved = abs(seen.free_bytes - pool.free_bytes) > seen.size_bytes / 100
            changed = moved or seen.size_bytes != pool.size_bytes or seen.full != pool.full
            after = replace(
                after,
                size_bytes=seen.size_bytes,
                free_bytes=seen.free_bytes if changed else pool.free_bytes,
                full=seen.full,
                message=seen.message if changed else pool.message,
            )
        return after if after != known else None


def _seeing(name: str, up: set[str], observed: Observed) -> list[str]:
    """Hosts that are up and say that they can use the pool."""
    return [
        host
        for host, view in observed.hosts.items()
        if host in up and any(pool.name == name and not pool.error for pool in view.pools)
    ]
