"""Which hosts nothing needs, and which are needed: decisions over plain values.

What is asked are placement's own filters and the recovery's own outlook, in thought, so there is no second
opinion about who could run what. To park asks for more room than not to wake does: between the two nothing
happens, so a load that comes and goes a little switches no host.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gureum.breath import breathe
from gureum.control.filters import Scene
from gureum.control.fleet import EVERY_ZONE, Candidate, Fleet, total_cpus, total_memory
from gureum.control.outlook import Outlook, domain
from gureum.control.restarts import Restarts
from gureum.control.survival import named
from gureum.resources import FleetSettings, Host, HostState, ParkState
from gureum.services.ec2.capacity import settle

WAKE_SHARE = 0.5
"""Of the headroom: below that a host is woken."""
LOOKS_MAX = 16
"""Hosts of which it is looked in one turn what would be with, or without, them."""


def unready(host: Host) -> str:
    """Why the host itself is not one that could be parked, as what follows its name; "" if it is."""
    if host.park is not None:
        return f"is {host.park.state} already"
    if host.state is not HostState.up:
        return f"is {host.state}"
    if host.draining:
        return "is being drained"
    if host.uplink_down:
        return "has no uplink now"
    return host.unfit


def why_awake(fleet: Fleet, host: Host, scene: Scene | None = None) -> str:
    """What would not be left without the host, in words; "" if enough would. ``scene``: where it is lost,
    what is on it has gone elsewhere, and what waits for a host has one.
    """
    settings = fleet.settings
    area = domain(fleet, host.zone)
    settled, scene = scene is not None, scene or Scene(fleet).without([host.id], ())
    left = _usable(scene, area)
    if len(left) < settings.awake_min:
        hosts = "one host" if settings.awake_min == 1 else f"{settings.awake_min} hosts"
        return f"{hosts} of {named(area)} {'is' if settings.awake_min == 1 else 'are'} to stay on"
    share = free_share(left, settings)
    if share < settings.headroom:
        return (
            f"without it {share:.0%} of what the hosts of {named(area)} give away would be free, and "
            f"{settings.headroom:.0%} are to be"
        )
    if settings.survive and isinstance(fleet, Restarts):
        if not settled:
            settle(scene, area)
        if (short := Outlook(scene, fleet, area).short(settings.survive)) is not None:
            return f"without it the loss of {lost(settings.survive)} would not be survived: {short}"
    return ""


def wake_for_headroom(fleet: Fleet, area: str) -> Host | None:
    """The host to be woken since too little is free, if there is one."""
    settings = fleet.settings
    scene = Scene(fleet)
    usable = _usable(scene.woken(waking(fleet)), area)
    scarce = len(usable) < settings.awake_min or (
        free_share(usable, settings) < settings.headroom * WAKE_SHARE
    )
    return largest(fleet, area) if scarce else None


async def wake_for_survival(fleet: Fleet, area: str) -> Host | None:
    """The host to be woken so that what is to be survived is; None if it is, or no host would help. Of a
    fleet that is kept: each look may take long, and others have their turn between them.
    """
    if not isinstance(fleet, Restarts):
        return None
    coming = waking(fleet)
    if _holds(fleet, area, coming):
        return None
    asleep = sorted(wakeable(fleet, area), key=preference)
    for candidate in asleep[:LOOKS_MAX]:
        await breathe()
        if _holds(fleet, area, {*coming, candidate.host.id}):
            return candidate.host
    await breathe()
    together = {*coming, *(each.host.id for each in asleep)}
    return asleep[0].host if asleep and _holds(fleet, area, together) else None


def _holds(fleet: Restarts, area: str, awake: Collection[str]) -> bool:
    scene = Scene(fleet).woken(awake)
    settle(scene, area)
    return Outlook(scene, fleet, area).short(fleet.settings.survive) is None


def largest(fleet: Fleet, area: str) -> Host | None:
    """The host to be woken for nothing in particular."""
    found = min(wakeable(fleet, area), key=preference, default=None)
    return None if found is None else found.host


def wakeable(fleet: Fleet, area: str = EVERY_ZONE) -> list[Candidate]:
    """Those that are off, or about to be, or are emptied for that, and can be woken."""
    coming = waking(fleet, area)
    return [each for each in fleet.candidates(area) if each.host.wakeable and each.host.id not in coming]


def waking(fleet: Fleet, area: str = EVERY_ZONE) -> set[str]:
    hosts = [each.host for each in fleet.candidates(area)]
    return {host.id for host in hosts if host.park is not None and host.park.state is ParkState.waking}


def free_share(usable: Sequence[Candidate], settings: FleetSettings) -> float:
    """How much of what these hosts give away is free: of what is scarcer."""
    cpus = sum(total_cpus(each.host, settings) for each in usable)
    memory = sum(total_memory(each.host, settings) for each in usable)
    if not cpus or not memory:
        return 0.0
    free_cpus = sum(max(0, each.cpus) for each in usable)
    return min(free_cpus / cpus, sum(max(0, each.memory_bytes) for each in usable) / memory)


def preference(candidate: Candidate) -> tuple[bool, int, int, str]:
    """Those first that are on still, then those that came when they were woken last, then large ones."""
    host = candidate.host
    failures = host.park.failures if host.park is not None else 0
    return (not host.emptying, failures, -candidate.memory_bytes, host.id)


def _usable(scene: Scene, area: str) -> list[Candidate]:
    return [each for each in scene.candidates(area) if each.host.schedulable]


def lost(count: int) -> str:
    return "a host" if count == 1 else f"{count} hosts"
