"""Whether the loss of as many hosts as the fleet's settings say would be survived: looked at when something
has changed, and told when that changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from msgspec.structs import replace

from gureum.breath import breathe
from gureum.control import events
from gureum.control.filters import Scene
from gureum.control.outlook import SURVIVE_MAX, Outlook, Shortfall, domains
from gureum.control.restarts import Restarts
from gureum.env import Env
from gureum.errors import StoreError
from gureum.resources import FleetSettings, Severity
from gureum.resources.placement import FLEET
from gureum.services.ec2.capacity import settle
from gureum.store.base import Change, Reader, Store, Transaction

KINDS = frozenset(kind.kind for kind in Restarts.kinds)


async def outlooks(reader: Reader, *, kept: bool = False) -> dict[str, Outlook]:
    """By domain; to be asked before the caller lets another task have its turn, unless they are ``kept``."""
    restarts = await reader.tally(Restarts)
    restarts = restarts.copy() if kept else restarts
    found = {}
    for domain in domains(restarts):
        scene = Scene(restarts)
        settle(scene, domain)
        found[domain] = Outlook(scene, restarts, domain)
    return found


async def shortfalls(outlook: Outlook, losses: int, most: int | None = None) -> list[Shortfall]:
    """As those of the outlook, which is kept, ``most`` of them: where sums leave it in doubt it takes long,
    and others have their turn meanwhile.
    """
    found: list[Shortfall] = []
    for each in outlook.looks(losses):
        await breathe()
        if each is not None:
            found.append(each)
        if len(found) == most:
            break
    return found


async def short(outlook: Outlook, losses: int) -> Shortfall | None:
    """The first of them."""
    return next(iter(await shortfalls(outlook, losses, 1)), None)


async def survivable(outlook: Outlook) -> int:
    """The loss of how many hosts would be survived, at most SURVIVE_MAX; -1 if even that of none is not:
    something finds no room now.
    """
    bound = min(SURVIVE_MAX, len(outlook.usable))
    for count in range(bound + 1):
        if await short(outlook, count) is not None:
            return count - 1
    return bound


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
                kept = await outlooks(reader, kept=True) if settings.survive else {}
            found = await _short(kept, settings.survive)
            if tuple(found) != settings.short:
                tell = partial(self._tell, survive=settings.survive, short=found)
                await self._store.transact(tell, frees=True)
        except StoreError:
            self._stale = True
            raise

    async def _tell(self, tx: Transaction, survive: int, short: Mapping[str, str]) -> None:
        settings = await tx.get(FleetSettings, FLEET) or FleetSettings(id=FLEET)
        if tuple(short) == settings.short or settings.survive != survive:
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


async def _short(kept: Mapping[str, Outlook], survive: int) -> dict[str, str]:
    """By domain, what would find no room."""
    found = {domain: await short(each, survive) for domain, each in sorted(kept.items())}
    return {domain: str(each) for domain, each in found.items() if each is not None}
