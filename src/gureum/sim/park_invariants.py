"""What must always hold of hosts that are switched off because nothing needs them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from gureum.hostspec import LOCAL
from gureum.resources import Host, Instance, InstanceState, ParkState, Volume, VolumeState
from gureum.sim.violation import Violation

NEEDS_HOST = (
    InstanceState.pending,
    InstanceState.running,
    InstanceState.stopping,
    InstanceState.shutting_down,
)
WHOLE = (VolumeState.available, VolumeState.in_use)


def is_parked(host: Host) -> bool:
    return host.park is not None and host.park.state is ParkState.parked


def always(hosts: Collection[Host], instances: Collection[Instance], volumes: Collection[Volume]) -> None:
    """Nothing is on a host that is parked, no data is only there, and one host at least stays on.

    That ``powers.SimSwitch`` switches nothing off on which a machine runs, it looks itself.
    """
    # What is on the own disk of one that was fenced waits for it.
    off = {host.id for host in hosts if is_parked(host) and host.fence is None}
    if placed := [each.id for each in instances if each.host in off and each.state in NEEDS_HOST]:
        raise Violation(f"{', '.join(placed)} is on a host that is parked")
    for volume in volumes:
        if volume.pool == LOCAL and volume.host in off and volume.state in WHOLE:
            raise Violation(f"{volume.id} is on the own disk of {volume.host}, which is parked")
    on = [host for host in hosts if host.id not in off and not _is_parking(host)]
    if off and not on:
        raise Violation(f"all hosts are parked: {', '.join(sorted(off))}")


def _is_parking(host: Host) -> bool:
    return host.park is not None and host.park.state is ParkState.parking


def at_rest(hosts: Collection[Host]) -> Iterator[str]:
    """Hosts that are being switched."""
    for host in hosts:
        if host.park is not None and not is_parked(host):
            yield f"{host.id} is {host.park.state}"
