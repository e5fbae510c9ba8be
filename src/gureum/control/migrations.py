"""The life of a live migration: the next step for one, from its record and what both its hosts say.

preparing   the source says what the machine there has to have in common, the destination makes it and says
            where it listens: ``copying`` here
copying     the source sends the guest's memory, and before that its disks that are in its own pool. When it
            has sent, and the destination received, everything, ``switch`` makes the instance the
            destination's, in one transaction: ``switching``
switching   the destination's machine runs, the source lets go of its own, and then removes what it has of
            those disks: ``completed`` here
aborting    the instance stays where it is, the destination lets go, and removes what it has of those disks:
            ``failed`` or ``cancelled`` here

Before ``switch`` nothing lets the destination's machine run, and after it nothing lets the source's. So
whatever ends in between, at most one of them does; and which of two copies of a disk is the disk is decided
with it.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.control import disk_copies, events
from gureum.control.fleet import held
from gureum.control.move import CannotMove, move_instance
from gureum.control.observed import Observed
from gureum.control.placement import NoCapacity, choose_host, require_host
from gureum.env import Env
from gureum.hostspec import MachineReport, MachineState
from gureum.migrationspec import MigrationPhase, MigrationReport
from gureum.resources import (
    AttachmentState,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    NetworkInterface,
    Resize,
    Severity,
    Volume,
    VolumeState,
)
from gureum.resources.migration import ENDED, UNDECIDED, UNDER_WAY
from gureum.services.ec2 import keepers
from gureum.store.base import Reader, Transaction

log = logging.getLogger(__name__)

PER_HOST_MAX = 2
"""Migrations that leave a host at once; also those that come to it."""
PREPARE_SECONDS_MAX = 120.0
COPY_SECONDS_MAX = 3600.0
COPY_BYTES_PER_SECOND_MIN = 8 << 20
"""Disks get so much longer as they take at this rate, or at a lower one that was asked for."""
HELD_SECONDS_MAX = 15.0
"""For so long a guest is held for a destination that does not say that it has all of it: as long as its agent
needs to be restarted.
"""
PURGE_SECONDS = 24 * 3600.0
"""For so long the record of an ended migration is kept."""
SECRET_BYTES = 32

OFF = (MachineState.off, MachineState.shutdown, MachineState.crashed)


async def begin(
    tx: Transaction,
    env: Env,
    instance: Instance,
    to: str = "",
    bytes_per_second: int = 0,
    drains: bool = False,
    reason: str = "",
    type: str = "",
) -> InstanceMigration:
    """Let the instance migrate to the host ``to``, or to the emptiest one. Raises CannotMove.

    ``type``: another one, that it gets there.
    """
    await require_movable(tx, instance)
    host = await require_destination(tx, replace(instance, type=type or instance.type), to)
    source = str(instance.host)
    copies = await disk_copies.bound(tx, instance)
    if await busy(tx, source=source):
        raise CannotMove(f"{PER_HOST_MAX} instances leave host {source} now: try again when one has left")
    generation = instance.next_generation
    volumes = await tx.find(Volume, instances=instance.id)
    migration = await tx.put(
        InstanceMigration(
            id=env.new_id("mig"),
            account=instance.account,
            instance=instance.id,
            type=type or instance.type,
            held=held(instance) if instance.resize is not None else (0, 0),
            zone=instance.zone,
            source=source,
            destination=host.id,
            generation=generation,
            source_generation=instance.generation,
            reboots=instance.reboots,
            drains=drains,
            reason=reason,
            bytes_per_second=bytes_per_second,
            secret=env.secret(SECRET_BYTES),
            volumes=tuple(volume.id for volume in volumes),
            copies=tuple(volume.id for volume in copies),
            copy_bytes=sum(volume.size_bytes for volume in copies),
            started=env.utcnow(),
        )
    )
    await tx.put(replace(instance, migration=migration.id, generations=generation))
    for volume in volumes:
        # It will have the volume open: where it is lost, it is shut out before another host opens it. Or a
        # copy of it: as long as there may be one, there is to be no other.
        await tx.put(replace(volume, former=tuple(sorted({*volume.former, host.id}))))
    return migration


async def require_movable(reader: Reader, instance: Instance) -> None:
    """Raises CannotMove with what keeps the instance from migrating, wherever to."""
    id = instance.id
    if instance.state is not InstanceState.running or instance.host is None:
        raise CannotMove(f"{id} is {instance.state}, and only what runs is migrated")
    if instance.migration:
        raise CannotMove(f"{id} is being migrated already ({instance.migration})")
    if instance.resize is not None and not instance.resize.message:
        raise CannotMove(f"{id} is being resized: wait until that is done")
    if instance.capturing:
        raise CannotMove(f"{id} is off until the image {instance.capturing[0]} is made of it")
    source = await reader.get(Host, instance.host)
    if source is None or source.state is not HostState.up:
        raise CannotMove(f"host {instance.host}, where {id} is, is not up")
    for volume in await reader.find(Volume, instances=id):
        _require_volume_movable(volume, instance)
    for snapshot in await disk_copies.untaken(reader, await disk_copies.bound(reader, instance)):
        raise CannotMove(f"{snapshot.id} of {snapshot.volume} is not taken yet: wait until it is")
    for interface in await reader.find(NetworkInterface, instance=id):
        if interface.changing:
            raise CannotMove(f"{interface.id} is being attached or detached: wait until that is done")


def _require_volume_movable(volume: Volume, instance: Instance) -> None:
    if volume.target:
        raise CannotMove(f"{volume.id} is on its way to the pool {volume.target}: wait until it is there")
    if volume.multi_attach:
        raise CannotMove(f"{volume.id} can be attached to several instances (Multi-Attach): detach it first")
    if volume.state is not VolumeState.in_use or volume.leaves:
        raise CannotMove(f"{volume.id} is still being made, or moved: wait until that is done")
    attachment = volume.attached_to(instance.id)
    if attachment is None or attachment.state is not AttachmentState.attached:
        raise CannotMove(f"{volume.id} is being attached or detached: wait until that is done")
    if volume.modification is not None and volume.modification.state == "modifying":
        raise CannotMove(f"{volume.id} is being modified: wait until that is done")
    if others := {*volume.former, *volume.lost}:
        raise CannotMove(
            f"host {', '.join(sorted(others))} has not let go of {volume.id} yet: try again in a moment"
        )


async def require_destination(reader: Reader, instance: Instance, to: str = "", later: bool = False) -> Host:
    """The host ``to``, or the best one, for an instance that could migrate. Raises CannotMove.

    ``later``: it may be one to which as many come now as may.
    """
    source = await reader.get(Host, str(instance.host))
    assert source is not None
    if to == source.id:
        raise CannotMove(f"{instance.id} is on host {to} already")
    copies = await disk_copies.bound(reader, instance)
    strays = {host for volume in copies for host in volume.strays}
    if to in strays:
        raise CannotMove(f"host {to} has not removed yet what it had of {instance.id} when it was lost")
    try:
        if not to:
            hosts = () if later else await reader.find(Host)
            full = [each.id for each in hosts if await busy(reader, destination=each.id)]
            without = dict.fromkeys(full, f"has {PER_HOST_MAX} instances coming to it now")
            without |= dict.fromkeys(strays, f"has not removed yet what it had of {instance.id}")
            without[source.id] = "has it already"
            host = await choose_host(reader, instance, excluding=without, like=source, copies=copies)
        else:
            host = await require_host(reader, instance, to, like=source, copies=copies)
    except NoCapacity as error:
        raise CannotMove(str(error)) from error
    if not host.address or not source.address:
        raise CannotMove(f"hosts {source.id} and {host.id} do not reach each other")
    if to and await busy(reader, destination=to):
        raise CannotMove(f"{PER_HOST_MAX} instances come to host {to} now: try again when one is there")
    return host


async def busy(reader: Reader, **index: str) -> bool:
    """Whether as many migrations as may are under way from, or to, a host.

    One that is aborted takes up nothing at its source, and may wait for a destination that is lost.
    """
    of_source = (*UNDECIDED, MigrationState.switching)
    states = [str(state) for state in (of_source if "source" in index else UNDER_WAY)]
    return await reader.count(InstanceMigration, state=states, **index) >= PER_HOST_MAX


async def abort(
    tx: Transaction, migration: InstanceMigration, outcome: str, message: str
) -> InstanceMigration:
    """Let the instance stay where it is. Only of one that is not decided."""
    log.warning("%s of %s: %s: %s", migration.id, migration.instance, outcome, message)
    return await tx.put(replace(migration, state=MigrationState.aborting, outcome=outcome, message=message))


async def step(tx: Transaction, env: Env, observed: Observed, instance: Instance) -> None:
    """Take the next step for the instance's migration, if there is one."""
    migration = await tx.get(InstanceMigration, instance.migration)
    if migration is None:
        await tx.put(replace(instance, migration=""))
    elif migration.state in UNDECIDED:
        ends = _Ends(observed, migration)
        reason = await _fault(tx, env, observed, instance, migration, ends)
        if reason is not None:
            await abort(tx, migration, *reason)
        else:
            await _proceed(tx, migration, ends)
    elif migration.state is MigrationState.switching:
        if not migration.released:
            if await _let_go(tx, observed, instance, migration, migration.source):
                ends = _Ends(observed, migration)
                await tx.put(replace(_counted(migration, ends.said(ends.source)), released=True))
        elif not migration.taken and not await _taken(tx, observed, instance, migration):
            return
        elif migration.copies and not migration.taken:
            await tx.put(replace(migration, taken=True))
        elif await disk_copies.over(tx, observed, migration, migration.source):
            await _ended(tx, env, observed, instance, migration, MigrationState.completed)
    elif await _let_go(tx, observed, instance, migration, migration.destination):
        await _ended(tx, env, observed, instance, migration, MigrationState(migration.outcome))


class _Ends:
    """What both hosts say of the machine's way."""

    def __init__(self, observed: Observed, migration: InstanceMigration) -> None:
        id, self._migration, self._copies = migration.instance, migration.id, migration.copies
        self.source = observed.machine(migration.source, id, migration.source_generation)
        self.destination = observed.machine(migration.destination, id, migration.generation)

    def said(self, seen: MachineReport | None) -> MigrationReport:
        told = seen.migration if seen is not None else None
        if told is None or told.migration != self._migration:
            return MigrationReport(migration=self._migration)
        return told

    @property
    def sent(self) -> bool:
        """Whether the source has sent all of it, and holds the guest."""
        held = self.source is not None and self.source.state is MachineState.paused
        return held and self.said(self.source).phase is MigrationPhase.completed

    @property
    def done(self) -> bool:
        """Whether all of it is at the destination, and the guest is held at the source."""
        return (
            self.sent and not self.missing and self.said(self.destination).phase is MigrationPhase.completed
        )

    @property
    def missing(self) -> set[str]:
        """The disks that the destination does not have, where the source has sent the memory: an agent that
        knows nothing of copies sends that alone.
        """
        said = self.said(self.source)
        return set(self._copies).difference(said.copied) if said.phase is MigrationPhase.completed else set()


async def _fault(
    tx: Transaction,
    env: Env,
    observed: Observed,
    instance: Instance,
    migration: InstanceMigration,
    ends: _Ends,
) -> tuple[str, str] | None:
    """The outcome and the message of a migration that can't go on."""
    if instance.state is InstanceState.pending:
        return "failed", f"{instance.id} ended where it was, and is started anew"
    if instance.state is not InstanceState.running or instance.capturing:
        return "cancelled", f"{instance.id} is not to run any more"
    if instance.reboots != migration.reboots:
        return "cancelled", f"{instance.id} was asked to reboot"
    if instance.host != migration.source or instance.generation != migration.source_generation:
        return "failed", f"{instance.id} runs no more where it did"
    source = await tx.get(Host, migration.source)
    if source is None or source.fence is not None:
        return "failed", f"host {migration.source} is given up"
    host = await tx.get(Host, migration.destination)
    if host is None or host.state is not HostState.up:
        return "failed", f"host {migration.destination} is not up"
    if host.draining or host.emptying:
        what = "drained" if host.draining else "emptied"
        return "failed", f"host {migration.destination} is being {what}"
    for seen in (ends.source, ends.destination):
        if error := ends.said(seen).error:
            return "failed", error
    if ends.destination is not None and ends.destination.state in OFF:
        return "failed", f"at {migration.destination}: {ends.destination.message or 'the machine ended'}"
    if ends.missing:
        return "failed", f"host {migration.source} did not send {', '.join(sorted(ends.missing))} along"
    if error := disk_copies.error(observed, migration):
        return "failed", f"at {migration.destination}: {error}"
    preparing = migration.state is MigrationState.preparing
    if ends.source is not None and ends.source.state is MachineState.starting:
        return "failed", f"{instance.id} is being started anew where it was"
    limit = PREPARE_SECONDS_MAX if preparing else _copy_seconds(migration)
    if abs(env.now() - migration.started.timestamp()) > limit:  # the clock may have been set back
        what = "was not ready to receive it" if preparing else "did not have all of it"
        return "failed", f"host {migration.destination} {what} after {limit:g} s"
    return None


def _copy_seconds(migration: InstanceMigration) -> float:
    rate = min(migration.bytes_per_second or COPY_BYTES_PER_SECOND_MIN, COPY_BYTES_PER_SECOND_MIN)
    return COPY_SECONDS_MAX + migration.copy_bytes / rate


async def _proceed(tx: Transaction, migration: InstanceMigration, ends: _Ends) -> None:
    layout, there = ends.said(ends.source).layout, ends.said(ends.destination)
    addresses = there.address, there.disks_address if migration.copies else ""
    if migration.layout is None:
        if layout is not None:
            await tx.put(replace(migration, layout=layout))
    elif there.address and addresses != (migration.address, migration.disks_address):
        # Others after the destination's agent was restarted.
        address, disks = addresses
        copying = MigrationState.copying
        await tx.put(replace(migration, state=copying, address=address, disks_address=disks))


def ready(observed: Observed, migration: InstanceMigration) -> bool:
    """Whether the guest is held and can go on at the destination."""
    return migration.state is MigrationState.copying and _Ends(observed, migration).done


def sent(observed: Observed, migration: InstanceMigration) -> bool:
    """Whether the guest is held at the source, whatever the destination says."""
    return migration.state is MigrationState.copying and _Ends(observed, migration).sent


async def give_up(tx: Transaction, observed: Observed, id: str) -> InstanceMigration | None:
    """Let a guest go on at the source that is held there, if the destination still does not say that it has
    all of it; None if it does, or does not need to.
    """
    migration = await tx.get(InstanceMigration, id)
    if migration is None or not sent(observed, migration) or ready(observed, migration):
        return None
    said = f"host {migration.destination} did not say in {HELD_SECONDS_MAX:g} s that it has all of it"
    return await abort(tx, migration, "failed", said)


async def switch(tx: Transaction, env: Env, observed: Observed, id: str) -> Instance | None:
    """Let the instance be the destination's from now on, if it can; None if not."""
    instance = await tx.get(Instance, id)
    migration = await tx.get(InstanceMigration, instance.migration) if instance is not None else None
    if instance is None or migration is None or not ready(observed, migration):
        return None
    ends = _Ends(observed, migration)
    reason = await _fault(tx, env, observed, instance, migration, ends)
    if reason is not None:
        await abort(tx, migration, *reason)
        return None
    try:
        moved = await move_instance(tx, id, migration.destination, migration.copies)
    except CannotMove as error:
        await abort(tx, migration, "failed", str(error))
        return None
    for volume in await tx.find(Volume, instances=id):
        former = tuple(sorted({*volume.former, migration.source} - {migration.destination}))
        await tx.put(replace(volume, former=former))
    source = ends.said(ends.source)
    await tx.put(
        replace(
            migration,
            state=MigrationState.switching,
            switched=env.utcnow(),
            copied_bytes=source.copied_bytes,
            copied_disk_bytes=source.disk_done_bytes,
            downtime_ms=source.downtime_ms,
            copy_ms=source.copy_ms,
        )
    )
    resize = None
    if instance.resize is not None or instance.type != migration.type:
        most = held(instance)
        resize = Resize(
            generation=migration.generation,
            vcpus=most.vcpus,
            memory_bytes=most.memory_bytes,
            since=env.now(),
        )
    return await tx.put(
        replace(moved, type=migration.type, generation=migration.generation, impaired="", resize=resize)
    )


async def _let_go(
    tx: Transaction, observed: Observed, instance: Instance, migration: InstanceMigration, host: str
) -> bool:
    """Whether the host has ended its machine, and other hosts can have its volumes; of one that the instance
    did not come to, whether there is nothing of it any more.
    """
    known = await tx.get(Host, host)
    if host == migration.destination and not await disk_copies.over(tx, observed, migration, host):
        return False
    if instance.host == host or known is None:
        # Anew, it is that machine's host as of any other; what is no more was shut out.
        return True
    if known.state is HostState.fenced:
        # Nothing of it runs. What it has open is taken from it.
        for volume in await tx.get_many(Volume, set(migration.volumes).difference(migration.copies)):
            former = tuple(each for each in volume.former if each != host)
            await tx.put(replace(keepers.lost(volume, host, tx.revision), former=former))
    if disk_copies.lost(known, migration):
        return True
    here = host == migration.source
    seen = observed.machine(host, instance.id, migration.source_generation if here else migration.generation)
    return seen is not None and seen.state in OFF and seen.revision >= migration.version


def _counted(migration: InstanceMigration, said: MigrationReport) -> InstanceMigration:
    """With what the source has counted in the end: it knows that a moment after all was sent."""
    if not said.downtime_ms:
        return migration
    return replace(
        migration, copied_bytes=said.copied_bytes, downtime_ms=said.downtime_ms, copy_ms=said.copy_ms
    )


async def _taken(
    tx: Transaction, observed: Observed, instance: Instance, migration: InstanceMigration
) -> bool:
    """Whether the destination has its volumes for itself; or it is there no more."""
    if not await disk_copies.owned(tx, observed, migration):
        return False
    same = instance.host == migration.destination and instance.generation == migration.generation
    if not same or instance.state is not InstanceState.running:
        return True
    seen = observed.machine(instance.host, instance.id, instance.generation)
    if seen is None or seen.state is MachineState.starting:
        return False
    reports = [
        observed.volume(instance.host, each.id) for each in await tx.find(Volume, instances=instance.id)
    ]
    return all(each is not None and each.revision >= migration.version for each in reports)


async def _ended(
    tx: Transaction,
    env: Env,
    observed: Observed,
    instance: Instance,
    migration: InstanceMigration,
    state: MigrationState,
) -> None:
    other = migration.source if state is MigrationState.completed else migration.destination
    await disk_copies.forget(tx, observed, migration, other)
    await tx.put(
        replace(
            migration,
            state=state,
            secret=b"",
            layout=None,
            ended=env.utcnow(),
            purge_at=env.now() + PURGE_SECONDS,
        )
    )
    await tx.put(replace(instance, migration=""))
    await _tell(tx, env, migration, state)


async def _tell(tx: Transaction, env: Env, migration: InstanceMigration, state: MigrationState) -> None:
    id, source, destination = migration.instance, migration.source, migration.destination
    if state is MigrationState.completed:
        held = f", held for {migration.downtime_ms} ms" if migration.downtime_ms else ""
        text = f"{id} went from {source} to {destination}{held}"
        await events.record(tx, env, "InstanceMigrated", text, host=destination, instance=id)
        return
    severity = Severity.warning if state is MigrationState.failed else Severity.info
    text = f"{id} did not go from {source} to {destination}: {migration.message}"
    await events.record(tx, env, "InstanceNotMigrated", text, severity, host=source, instance=id)


async def reconcile(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """Forget a migration that ended long ago."""
    migration = await tx.get(InstanceMigration, id)
    if migration is None or migration.state in UNDER_WAY:
        return
    if env.now() >= migration.purge_at:
        await tx.delete(migration)


async def migrating(reader: Reader) -> list[Instance]:
    """The instances that have a migration under way."""
    found = await reader.find(InstanceMigration, state=[str(state) for state in UNDER_WAY])
    return await reader.get_many(Instance, {migration.instance for migration in found})


async def purgeable(reader: Reader, now: float) -> list[InstanceMigration]:
    """Those that ended long ago."""
    ended = await reader.find(InstanceMigration, state=[str(state) for state in ENDED])
    return [migration for migration in ended if migration.purge_at <= now]
