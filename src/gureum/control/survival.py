"""Whether the loss of as many hosts as the fleet's settings say would be survived: looked at when something
has changed, and told when that changes.
"""

from __future__ import annotations

from msgspec.structs import replace

from gureum.control import events
from gureum.control.filters import Scene
from gureum.control.outlook import Outlook, domains
from gureum.control.restarts import Restarts
from gureum.env import Env
from gureum.errors import StoreError
from gureum.resources import FleetSettings, Severity
from gureum.resources.placement import FLEET
from gureum.services.ec2.capacity import settle
from gureum.store.base import Change, Reader, Store, Transaction

KINDS = frozenset(kind.kind for kind in Restarts.kinds)


async def outlooks(reader: Reader) -> dict[str, Outlook]:
    """By domain; to be asked before the caller lets another task have its turn."""
    restarts = await reader.tally(Restarts)
    found = {}
    for domain in domains(restarts):
        scene = Scene(restarts)
        settle(scene, domain)
        found[domain] = Outlook(scene, restarts, domain)
    return found


def named(domain: str) -> str:
    return f"zone {domain}" if domain else "all zones"


class Survival:
    """``step`` looks, if it must: nothing is read where no room is kept."""

    def __init__(self, env: Env, store: Store) -> None:
        self._env = env
        self._store = store
        self._settings = FleetSettings(id=FLEET)
        self._stale = True

    async def load(self, reader: Reader) -> None:
        self._settings = await reader.get(FleetSettings, FLEET) or self._settings

    def changed(self, change: Change) -> None:
        if change.kind == FleetSettings.kind:
            record = change.record
            self._settings = record if isinstance(record, FleetSettings) else FleetSettings(id=FLEET)
        self._stale = self._stale or change.kind in KINDS

    async def step(self) -> None:
        """Raises StoreError."""
        settings = self._settings
        if not self._stale or not (settings.survive or settings.short):
            return
        self._stale = False
        try:
            async with self._store.read() as reader:
                short = await _short(reader, settings)
            if tuple(short) != settings.short:
                await self._store.transact(self._tell, frees=True)
        except StoreError:
            self._stale = True
            raise

    async def _tell(self, tx: Transaction) -> None:
        settings = await tx.get(FleetSettings, FLEET) or FleetSettings(id=FLEET)
        short = await _short(tx, settings)
        if tuple(short) == settings.short:
            return
        await tx.put(replace(settings, short=tuple(short)))
        hosts = "a host" if settings.survive == 1 else f"{settings.survive} hosts"
        if new := [
            f"{named(domain)}: {why}" for domain, why in short.items() if domain not in settings.short
        ]:
            text = f"the loss of {hosts} would not be survived now: {'; '.join(new)}"
            await events.record(tx, self._env, "RoomIsShort", text, Severity.warning)
        over = [named(domain) for domain in settings.short if domain not in short]
        if over and settings.survive:
            text = f"the loss of {hosts} would be survived again, in {', '.join(over)}"
            await events.record(tx, self._env, "RoomIsKept", text)


async def _short(reader: Reader, settings: FleetSettings) -> dict[str, str]:
    """By domain, what would find no room."""
    if not settings.survive:
        return {}
    found = {domain: each.short(settings.survive) for domain, each in (await outlooks(reader)).items()}
    return {domain: str(short) for domain, short in sorted(found.items()) if short is not None}
