"""The life of an instance: the next step for one, from its record and what its host says.

``reconcile`` may be called at any time and any number of times; it changes only the store, in the caller's
transaction. States and who leaves them:

pending        placed here; ``running`` when the host runs this generation
running        ``stopping`` here when the guest shut itself down or its machine died
stopping       ``stopped`` here when the host says that this generation is off
shutting-down  ``terminated`` here likewise, after interfaces and volumes are let go
terminated     its record is deleted here when its time has come
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.control import captures, migrations, resizes
from gureum.control.fleet import Fleet
from gureum.control.interfaces import let_go
from gureum.control.observed import Observed
from gureum.control.placement import NoCapacity, NoHost, Wakes, choose_host
from gureum.env import Env
from gureum.hostspec import MachineReport, MachineState
from gureum.migrationspec import MigrationPhase
from gureum.resources import (
    Instance,
    InstanceState,
    NetworkInterface,
    RecoveryPolicy,
    StateReason,
    Volume,
    VolumeState,
)
from gureum.services.ec2 import keepers
from gureum.store.base import Transaction

log = logging.getLogger(__name__)

PURGE_SECONDS = 3600.0
"""A terminated instance is still described for an hour, as in EC2."""

HOST_SECONDS_MAX = 60.0
"""How long a new instance waits for a host to be up before its launch fails."""

WANT_PORT = (
    InstanceState.pending,
    InstanceState.running,
    InstanceState.stopping,
    InstanceState.shutting_down,
)
"""While its interfaces have ports on its host."""

UNSETTLED = (InstanceState.pending, InstanceState.stopping, InstanceState.shutting_down)

OFF = (MachineState.off, MachineState.shutdown, MachineState.crashed)
LIVE = (MachineState.running, MachineState.paused)
GIVES_UP = (RecoveryPolicy.restart, RecoveryPolicy.stop, RecoveryPolicy.terminate)
"""Those that do not leave a guest that hangs as it is, for a person to look at."""


def settled(instance: Instance) -> bool:
    """Whether the next step needs more than that a host says something else of it, or a newer record."""
    under_way = instance.capturing or instance.migration or instance.resize is not None
    return instance.state not in UNSETTLED and not under_way


async def reconcile(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """Take the next step for the instance, if there is one."""
    instance = await tx.get(Instance, id)
    if instance is None:
        return
    seen = observed.machine(instance.host, id, instance.generation)
    match instance.state:
        case InstanceState.pending:
            await _pending(tx, env, instance, seen)
        case InstanceState.running if instance.capturing:
            await captures.step(tx, instance, is_off(instance, seen))
        case InstanceState.running:
            await _running(tx, env, instance, seen)
            after = await tx.get(Instance, id)
            if after is not None and after.resize is not None and after.state is InstanceState.running:
                await resizes.step(tx, env, after, seen)
        case InstanceState.stopping:
            if is_off(instance, seen):
                await _stopped(tx, env, instance)
        case InstanceState.shutting_down:
            if is_off(instance, seen):
                await _terminated(tx, env, instance)
        case InstanceState.terminated:
            if env.now() >= instance.purge_at and not instance.migration:
                await tx.delete(instance)
                return
    after = await tx.get(Instance, id)
    if after is not None and after.migration:
        await migrations.step(tx, env, observed, after)


def is_off(instance: Instance, seen: MachineReport | None) -> bool:
    """Whether the machine is off for good: its host says so of a spec that no longer wants it to run."""
    if instance.host is None:
        return True
    return seen is not None and seen.state in OFF and seen.revision >= instance.version


async def _pending(tx: Transaction, env: Env, instance: Instance, seen: MachineReport | None) -> None:
    for volume in await tx.find(Volume, instances=instance.id):
        if volume.state is VolumeState.error:
            await launch_failed(tx, env, instance, f"Volume {volume.id}: {volume.message}")
            return
    if instance.host is None:
        await _place(tx, env, instance)
        return
    await plug(tx, instance)
    if seen is not None and seen.state in LIVE:
        await tx.put(
            replace(
                instance,
                state=InstanceState.running,
                state_reason=None,
                transition_reason="",
                recovers=0.0,
            )
        )
    elif seen is not None and seen.state is MachineState.crashed:
        await launch_failed(tx, env, instance, seen.message)
    elif seen is not None and seen.state is MachineState.shutdown:
        await _guest_shut_down(tx, env, instance)


async def _place(tx: Transaction, env: Env, instance: Instance) -> None:
    """Those whose host was lost are placed in another order, and wait for room (``recovery``)."""
    if instance.recovers:
        return
    try:
        host = await choose_host(tx, instance)
    except NoCapacity as error:
        waited = env.now() - instance.launched.timestamp()
        if isinstance(error, Wakes):
            return
        if isinstance(error, NoHost) and waited < HOST_SECONDS_MAX:
            return
        await launch_failed(tx, env, instance, str(error), code="Server.InsufficientInstanceCapacity")
        return
    await place_on(tx, instance, host.id)


async def place_on(tx: Transaction, instance: Instance, host: str) -> None:
    """The instance's machine, ports and volumes are on this host from now on."""
    cpu = (await tx.tally(Fleet)).cpu_model(instance.zone)
    await plug(tx, await tx.put(replace(instance, host=host, cpu=cpu)))
    for volume in await tx.find(Volume, instances=instance.id):
        if volume.host is None and not volume.former and not volume.lost:
            await tx.put(replace(volume, host=host))
        else:
            await keepers.follow(tx, volume, host)


async def launch_failed(
    tx: Transaction, env: Env, instance: Instance, message: str, code: str = "Server.InternalError"
) -> None:
    """A first launch that fails terminates the instance, a later start leaves it stopped; as in EC2.

    Also where the first launch was begun anew elsewhere: what was to be made for it was not.
    """
    volumes = await tx.find(Volume, instances=instance.id)
    first = instance.generation == 1 or any(each.state is VolumeState.error for each in volumes)
    log.warning("%s could not be started: %s", instance.id, message)
    reason = StateReason(code, f"{code}: {message}")
    state = InstanceState.shutting_down if first else InstanceState.stopping
    await tx.put(
        replace(instance, state=state, state_reason=reason, transition_reason=reason.message, force=True)
    )


async def _running(tx: Transaction, env: Env, instance: Instance, seen: MachineReport | None) -> None:
    if seen is None:
        return
    if seen.state is MachineState.shutdown:
        await _guest_shut_down(tx, env, instance)
    elif seen.state is MachineState.crashed or (seen.hung and instance.recovery.policy in GIVES_UP):
        log.warning("%s died: %s", instance.id, seen.message)
        reason = StateReason("Server.InternalError", f"Server.InternalError: {seen.message}")
        await tx.put(
            replace(
                instance,
                state=ending(instance),
                state_reason=reason,
                transition_reason=reason.message,
                force=True,
            )
        )
    elif not _is_leaving(instance, seen):
        impaired = seen.message if seen.state in LIVE else ""
        if impaired != instance.impaired:
            await tx.put(replace(instance, impaired=impaired))


def _is_leaving(instance: Instance, seen: MachineReport) -> bool:
    """Whether its guest is held to go to another host. To write that down would keep it waiting."""
    phase = seen.migration.phase if instance.migration and seen.migration is not None else None
    held = phase in (MigrationPhase.copying, MigrationPhase.completed)
    return held and seen.state is MachineState.paused


def ending(instance: Instance) -> InstanceState:
    """How it ends if it is not to run again, as its recovery says."""
    terminate = instance.recovery.policy is RecoveryPolicy.terminate and not instance.disable_api_termination
    return InstanceState.shutting_down if terminate else InstanceState.stopping


async def _guest_shut_down(tx: Transaction, env: Env, instance: Instance) -> None:
    code = "Client.InstanceInitiatedShutdown"
    reason = StateReason(code, f"{code}: Instance initiated shutdown")
    terminate = instance.shutdown_behavior == "terminate"
    await tx.put(
        replace(
            instance,
            state=InstanceState.shutting_down if terminate else InstanceState.stopping,
            state_reason=reason,
            transition_reason=reason.message,
            force=True,
        )
    )


async def _stopped(tx: Transaction, env: Env, instance: Instance) -> None:
    await captures.release(tx, instance)
    await tx.put(
        replace(
            instance,
            state=InstanceState.stopped,
            force=False,
            impaired="",
            capturing=(),
            recovers=0.0,
            leaving=False,
            restart_at=0.0,
            resize=None,
            growth=None,
        )
    )
    for interface in await tx.find(NetworkInterface, instance=instance.id):
        public_ip = interface.public_ip if interface.address else ""
        await tx.put(replace(interface, host=None, public_ip=public_ip))


async def plug(tx: Transaction, instance: Instance) -> None:
    """Let the instance's interfaces have their ports on its host."""
    for interface in await tx.find(NetworkInterface, instance=instance.id):
        if interface.host != instance.host:
            await tx.put(replace(interface, host=instance.host))


async def _terminated(tx: Transaction, env: Env, instance: Instance) -> None:
    await captures.release(tx, instance)
    for interface in await tx.find(NetworkInterface, instance=instance.id):
        await let_go(tx, interface)
    for volume in await tx.find(Volume, instances=instance.id):
        await _let_go_volume(tx, volume, instance.id)
    await tx.put(
        replace(
            instance,
            state=InstanceState.terminated,
            private_ip="",
            interfaces=(),
            devices=(),
            impaired="",
            capturing=(),
            resize=None,
            growth=None,
            purge_at=env.now() + PURGE_SECONDS,
        )
    )


async def _let_go_volume(tx: Transaction, volume: Volume, instance: str) -> None:
    attachment = volume.attached_to(instance)
    delete = attachment is not None and attachment.delete_on_termination
    free = volume.without_attachment(instance)
    if free.attachments:
        # As EC2: what the last of several instances says counts.
        await tx.put(free)
    elif delete:
        await tx.put(replace(free, state=VolumeState.deleting))
    elif volume.state is VolumeState.in_use:
        await tx.put(replace(free, state=VolumeState.available))
    else:
        await tx.put(free)
