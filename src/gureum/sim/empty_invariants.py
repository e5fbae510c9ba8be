"""What must always hold of hosts that are emptied to be parked, and of what was there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from gureum.control.emptier import EMPTYING
from gureum.control.fleet import Fleet
from gureum.control.outlook import domain
from gureum.resources import Host, HostState, Instance, InstanceMigration, InstanceState
from gureum.sim.violation import Violation
from gureum.store.base import Reader

HOUR = 3600.0
MOVES_MAX = 2
"""So often an instance leaves hosts within an hour since they are emptied."""


async def always(reader: Reader, hosts: Collection[Host], instances: Collection[Instance]) -> None:
    """What runs has a host; of hosts that can stand in for each other one is emptied at a time, and is on;
    and nothing is driven to and fro.
    """
    fleet = await reader.tally(Fleet)
    known = {host.id for host in hosts}
    for instance in instances:
        if instance.state is InstanceState.running and instance.host not in known:
            raise Violation(f"{instance.id} runs, and has no host")
    emptied: defaultdict[str, list[str]] = defaultdict(list)
    for host in hosts:
        if host.emptying:
            emptied[domain(fleet, host.zone)].append(host.id)
            if host.state is not HostState.up:
                raise Violation(f"host {host.id} is {host.state}, and goes on being emptied")
    if several := next((each for each in emptied.values() if len(each) > 1), None):
        raise Violation(f"hosts {', '.join(several)} are emptied at once")
    if fleet.settings.empties:
        _calm(await reader.find(InstanceMigration))


def _calm(migrations: Collection[InstanceMigration]) -> None:
    moves: defaultdict[str, list[float]] = defaultdict(list)
    for each in migrations:
        if each.reason.startswith(EMPTYING):
            moves[each.instance].append(each.started.timestamp())
    for id, times in moves.items():
        times.sort()
        for first, last in zip(times, times[MOVES_MAX:], strict=False):
            if last < first + HOUR:
                raise Violation(f"{id} left hosts that are emptied {MOVES_MAX + 1} times within an hour")
