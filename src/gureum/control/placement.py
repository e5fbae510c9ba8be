"""Which host runs an instance: its records read, the ``filters`` asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gureum.control.filters import PARKED, ROOM, Scene, Verdict, Wish, reasons, verdicts
from gureum.control.fleet import MACHINE_MEMORY_BYTES, Fleet, taken
from gureum.resources import Host, Instance, InstanceMigration, Volume
from gureum.resources.migration import UNDECIDED
from gureum.services.ec2.capacity import homes
from gureum.store.base import Reader


class NoCapacity(Exception):
    """No host can run it; the text says why, for people."""


class Wakes(NoCapacity):
    """One that is parked could, and is woken for what is to run."""


class NoHost(NoCapacity):
    """None is up that could be asked: which may change when an agent or the manager has just started."""


async def choose_host(
    reader: Reader,
    instance: Instance,
    excluding: Mapping[str, str] = {},
    like: Host | None = None,
    copies: Sequence[Volume] = (),
) -> Host:
    """The best of the hosts that can run ``instance``. Raises NoCapacity, NoHost or Wakes.

    ``excluding``: none of these, and why. ``like``: one where what runs on this host can go on. ``copies``:
    volumes in its own pool that are copied with it.
    """
    wish = await wish_of(reader, instance, excluding, like, copies)
    scene = Scene(await reader.tally(Fleet))
    best = scene.best(wish)
    if best is None:
        asleep = scene.best(wish._replace(wakes=True)) if scene.fleet.wakes else None
        if asleep is not None:
            assert asleep.host.park is not None
            raise Wakes(f"host {asleep.host.id}, which could take it, {PARKED[asleep.host.park.state]}")
        raise nowhere(wish, verdicts(scene, wish))
    return best.host


async def require_host(
    reader: Reader, instance: Instance, id: str, like: Host | None = None, copies: Sequence[Volume] = ()
) -> Host:
    """This one host, if it can run ``instance``. Raises NoCapacity."""
    found = {each.host: each for each in await explain(reader, instance, like=like, copies=copies)}
    if id not in found:
        raise NoCapacity(f"there is no host {id}")
    if not found[id].fits:
        raise NoCapacity(f"host {reasons([found[id]])}")
    host = await reader.get(Host, id)
    assert host is not None
    return host


async def explain(
    reader: Reader,
    instance: Instance,
    excluding: Mapping[str, str] = {},
    like: Host | None = None,
    copies: Sequence[Volume] = (),
) -> list[Verdict]:
    """What is said of each host: those that fit, the best first, then the others. Raises NoCapacity."""
    wish = await wish_of(reader, instance, excluding, like, copies)
    return verdicts(Scene(await reader.tally(Fleet)), wish)


async def wish_of(
    reader: Reader,
    instance: Instance,
    excluding: Mapping[str, str] = {},
    like: Host | None = None,
    copies: Sequence[Volume] = (),
) -> Wish:
    """A volume on a local pool binds the instance to its host, and so does a snapshot to be cloned. Raises
    NoCapacity.
    """
    volumes = await reader.find(Volume, instances=instance.id) if instance.id else []
    bound = await homes(reader, [volume for volume in volumes if volume not in copies])
    if len(bound) > 1:
        raise NoCapacity("its volumes, or what they are made from, are on different hosts")
    if not copies:
        return Wish(taken(instance), bound, excluding, like, instance.cpu)
    promised: Counter[str] = Counter()
    for other in await reader.find(InstanceMigration, state=[str(state) for state in UNDECIDED]):
        promised[other.destination] += other.copy_bytes
    needed = sum(volume.size_bytes for volume in copies)
    return Wish(taken(instance), bound, excluding, like, instance.cpu, needed, promised)


def nowhere(wish: Wish, found: list[Verdict]) -> NoCapacity:
    """Why none of the hosts can run it. The one that it is to leave is no news."""
    machine, other = wish.machine, "other " if wish.excluding else ""
    own = machine.host if machine.host in wish.excluding else None
    near = [each for each in found if each.host != own and "zone" not in _names(each)]
    if not near:
        return NoHost(f"zone {machine.zone} has no {other}host")
    up = [each for each in near if not _names(each) & {"state", "storage"}]
    if not up:
        return NoHost(f"no {other}host of zone {machine.zone} is up")
    if all("draining" in _names(each) for each in up):
        return NoCapacity(f"{', '.join(sorted(each.host for each in up))} cannot take it, being drained")
    if all(_names(each) <= {*ROOM, "draining"} for each in up):
        return NoCapacity(
            f"no {other}host of zone {machine.zone} has {machine.vcpus} vCPUs and"
            f" {(machine.memory_bytes - MACHINE_MEMORY_BYTES) / 2**30:g} GiB of memory left"
        )
    return NoCapacity(f"no {other}host of zone {machine.zone} can take it now: {reasons(up)}")


def _names(verdict: Verdict) -> set[str]:
    return {name for name, _ in verdict.reasons}
