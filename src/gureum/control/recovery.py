"""What becomes of an instance whose host was lost, or whose machine died.

Its ``recovery`` says what is wanted. What is lost with a host is started elsewhere only if all its volumes
are in shared pools, and only after the host was fenced: ``control.ha`` sees to that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from gureum.control import captures, events, instances, migrations
from gureum.control.filters import Scene, verdicts
from gureum.control.fleet import Fleet, taken
from gureum.control.observed import Observed
from gureum.control.placement import NoCapacity, choose_host, nowhere, wish_of
from gureum.control.restarts import RUNS as RUNS
from gureum.control.restarts import order as order
from gureum.env import Env
from gureum.hostspec import MachineReport, MachineState
from gureum.resources import (
    Host,
    Instance,
    InstanceMigration,
    InstanceState,
    NetworkInterface,
    RecoveryPolicy,
    Resize,
    Severity,
    StateReason,
    Volume,
    VolumeState,
)
from gureum.services.ec2 import keepers
from gureum.services.fleet import losses
from gureum.store.base import Reader, Transaction

HOST_FAILURE = "Server.HostFailure"
MACHINE_FAILURE = "Server.InternalError"
CRASHES_MAX = 5
CRASHES_SECONDS = 600.0
"""Of a machine that dies more often than CRASHES_MAX times in this time, it is not tried again."""
BACKOFF_SECONDS_MAX = 60.0

ENDS = (InstanceState.stopping, InstanceState.shutting_down)


async def waits(tx: Reader, instance: Instance) -> str:
    """Why it can't leave a host that is lost, for people; "" if it can."""
    bound = await losses.bound(tx, instance)
    if bound:
        names = ", ".join(volume.id for volume in bound)
        return f"{names} is on that host's own disk" if len(bound) == 1 else f"{names} are on its own disk"
    if not await tx.count(Volume, instances=instance.id):
        return "it has no volume that another host could open"
    if instance.state in RUNS and instance.recovery.policy is RecoveryPolicy.none:
        return "its recovery is switched off"
    return ""


async def leave(tx: Transaction, env: Env, instance: Instance, host: Host) -> None:
    """The instance leaves its host, which is fenced: nothing of it runs there."""
    if instance.capturing:
        await captures.release(tx, instance)
    await losses.leave(tx, instance, host.id)
    if instance.state in ENDS:
        await tx.put(replace(instance, host=None))
        return
    why = f" ({host.fence.reason})" if host.fence is not None else ""
    message = f"host {host.id} was lost{why}"
    if instance.recovery.policy is RecoveryPolicy.restart:
        await _elsewhere(tx, env, instance, message, host.silent)
        return
    reason = _because(message)
    ending = replace(
        instance, state=instances.ending(instance), capturing=(), impaired="", leaving=False, restart_at=0.0
    )
    await tx.put(replace(ending, state_reason=reason, transition_reason=reason.message, host=None))
    await _tell_ending(tx, env, instance, message)


async def _tell_ending(tx: Transaction, env: Env, instance: Instance, message: str) -> None:
    stops = instances.ending(instance) is InstanceState.stopping
    name, done = ("InstanceStopped", "stopped") if stops else ("InstanceTerminated", "terminated")
    text = f"{instance.id}: {message}; it is {done}, as its recovery says"
    await events.record(tx, env, name, text, Severity.warning, host=instance.host or "", instance=instance.id)


def _because(message: str) -> StateReason:
    return StateReason(HOST_FAILURE, f"{HOST_FAILURE}: {message}")


async def _elsewhere(tx: Transaction, env: Env, instance: Instance, message: str, since: float = 0.0) -> None:
    """It is on no host any more, and is to run again. ``since``: when it was lost, Unix time; 0 for now."""
    reason = _because(message)
    await tx.put(
        replace(
            instance,
            state=InstanceState.pending,
            state_reason=reason,
            transition_reason=reason.message,
            host=None,
            generation=instance.next_generation,
            reboots=0,
            capturing=(),
            impaired="",
            recovers=instance.recovers or since or env.now(),
            leaving=False,
            restart_at=0.0,
        )
    )
    text = f"{instance.id}: {message}; it is started elsewhere"
    await events.record(
        tx, env, "InstanceRestarting", text, Severity.warning, host=str(instance.host), instance=instance.id
    )


class Ended(NamedTuple):
    """Whether ``all_of_it`` was told to end that could be elsewhere, and what stays as it finds no room."""

    all_of_it: bool
    stay: frozenset[str] = frozenset()


async def end_there(
    tx: Transaction,
    env: Env,
    host: str,
    why: str,
    since: float,
    pools: frozenset[str] = frozenset(),
    stays: frozenset[str] = frozenset(),
    uplink: bool = False,
    told: Collection[str] = (),
) -> Ended:
    """The host does as it is told, and is cut off (``why``, ``since`` Unix time): what could be elsewhere is
    ended there first. ``pools``: only what has a volume in one of them, if any are named; ``stays``: but what
    has one in these. ``uplink``: only if its uplink is down still, and what finds room elsewhere. ``told``:
    instances of which the events say already that they stay.
    """
    if uplink and ((record := await tx.get(Host, host)) is None or not record.uplink_down):
        return Ended(False)
    there = await tx.find(Instance, host=host, state=[str(state) for state in RUNS])
    scene = Scene(await tx.tally(Fleet)).without([host], map(taken, there)) if uplink else None
    stay = set[str]()
    for instance in sorted(there, key=lambda each: (not each.leaving, order(each))):
        wanted = instance.recovery.policy is RecoveryPolicy.restart and not instance.capturing
        if pools and not await _has_volume_in(tx, instance, pools):
            continue
        if wanted and not await waits(tx, instance):
            homeless = ""
            if not instance.leaving and await _has_volume_in(tx, instance, stays):
                homeless = "most other hosts do not reach a pool that it has a volume in either"
            elif scene is not None and not instance.migration:
                homeless = await _homeless(tx, scene, instance)
            if instance.leaving:
                continue
            if homeless:
                stay.add(instance.id)
                if instance.id not in told:
                    text = f"{instance.id} stays on host {host}, {why}: {homeless}"
                    await events.record(
                        tx, env, "InstanceStays", text, Severity.warning, host=host, instance=instance.id
                    )
                continue
            leaving = replace(instance, state=InstanceState.pending, leaving=True, recovers=since)
            await tx.put(replace(leaving, restart_at=0.0))
            text = f"{instance.id} is ended on host {host}, {why}, to start elsewhere"
            await events.record(
                tx, env, "InstanceLeaving", text, Severity.warning, host=host, instance=instance.id
            )
    return Ended(not stay, frozenset(stay))


async def _homeless(tx: Transaction, scene: Scene, instance: Instance) -> str:
    """Why it finds no room, in thought, besides those before it; "" if it does."""
    try:
        wish = await wish_of(tx, instance)
    except NoCapacity as error:
        return str(error)
    asked = wish._replace(machine=wish.machine._replace(host=None))
    if scene.place(asked) is not None:
        return ""
    if scene.fleet.wakes and scene.best(asked._replace(wakes=True)) is not None:
        return ""
    return str(nowhere(wish._replace(excluding={str(instance.host): "is left"}), verdicts(scene, asked)))


async def _has_volume_in(tx: Transaction, instance: Instance, pools: frozenset[str]) -> bool:
    if not pools:
        return False
    return any(pools.intersection(volume.pools) for volume in await tx.find(Volume, instances=instance.id))


async def _left(tx: Transaction, env: Env, instance: Instance, host: Host | None) -> None:
    """Its machine has ended, and its host has let go of all that it had."""
    for interface in await tx.find(NetworkInterface, instance=instance.id):
        await tx.put(replace(interface, host=None))
    for volume in await tx.find(Volume, instances=instance.id):
        if volume.host == instance.host:
            await keepers.give(tx, volume, None)
    await _elsewhere(tx, env, instance, _cut_off(instance, host))


async def _left_behind(tx: Transaction, env: Env, instance: Instance, host: Host) -> None:
    """Its machine has ended, and its host cannot let go of its volumes: they are taken from it."""
    await losses.leave(tx, instance, host.id, await _still_there(tx, instance, host))
    await _elsewhere(tx, env, instance, _cut_off(instance, host))


async def _still_there(tx: Transaction, instance: Instance, host: Host) -> frozenset[str]:
    """Its volumes that another instance there has as well: the host lives, and would shut that one out."""
    there = await tx.find(Instance, host=host.id, state=[str(state) for state in (*RUNS, *ENDS)])
    others = {each.id for each in there} - {instance.id}
    volumes = await tx.find(Volume, instances=instance.id)
    return frozenset(each.id for each in volumes if each.multi_attach and others.intersection(each.instances))


def _is_cut(host: Host) -> bool:
    return host.uplink_down or bool(host.unfit)


def _cut_off(instance: Instance, host: Host | None) -> str:
    unfit = host.unfit if host is not None and not host.uplink_down else ""
    return f"host {instance.host} {unfit}" if unfit else f"the uplink of host {instance.host} is down"


async def rejoin(tx: Transaction, env: Env, instance: Instance, since: float) -> None:
    """The host that it waited for is back: its machine was ended there, and starts anew. ``since``: when it
    was lost, Unix time.
    """
    if instance.recovery.policy in (RecoveryPolicy.stop, RecoveryPolicy.terminate):
        reason = StateReason(HOST_FAILURE, f"{HOST_FAILURE}: host {instance.host} was lost")
        ending = replace(
            instance,
            state=instances.ending(instance),
            state_reason=reason,
            transition_reason=reason.message,
            force=True,
        )
        await tx.put(ending)
        return
    if instance.capturing:
        return  # it is off, as it should be
    await tx.put(
        replace(
            instance,
            state=InstanceState.pending,
            generation=instance.next_generation,
            reboots=0,
            impaired="",
            recovers=instance.recovers or since or env.now(),
            leaving=False,
            restart_at=0.0,
        )
    )


async def place(tx: Transaction, env: Env, id: str) -> None:
    """Find a host for an instance that lost its own; if none has room, it waits."""
    instance = await tx.get(Instance, id)
    if instance is None or instance.state is not InstanceState.pending or instance.host is not None:
        return
    for volume in await tx.find(Volume, instances=id):
        if volume.state is VolumeState.error:
            await instances.launch_failed(tx, env, instance, f"Volume {volume.id}: {volume.message}")
            return
    try:
        host = await choose_host(tx, instance)
    except NoCapacity as error:
        if instance.impaired != str(error):
            await tx.put(replace(instance, impaired=str(error)))
            text = f"{id} waits to be started again: {error}"
            await events.record(tx, env, "InstanceWaits", text, Severity.warning, instance=id)
        return
    await instances.place_on(tx, replace(instance, impaired=""), host.id)
    text = f"{id} starts on host {host.id}, as generation {instance.generation}"
    await events.record(tx, env, "InstancePlaced", text, host=host.id, instance=id)


async def reconcile(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """As ``instances.reconcile``, in a cloud that recovers."""
    instance = await tx.get(Instance, id)
    if instance is None:
        return
    host = await tx.get(Host, instance.host) if instance.host is not None else None
    if host is not None and host.fence is not None and instance.state in RUNS:
        # What is seen of a host that is given up is its end.
        if instance.migration and await waits(tx, instance):
            await _let_stay(tx, env, observed, instance)
        return
    seen = observed.machine(instance.host, id, instance.generation)
    if instance.leaving and instance.state in RUNS:
        if instances.is_off(instance, seen):
            await _left(tx, env, instance, host)
        elif host is not None and _is_cut(host) and seen is not None and seen.ended >= instance.version:
            await _left_behind(tx, env, instance, host)
        return
    if seen is not None and (seen.state is MachineState.crashed or seen.hung):
        if await _died(tx, env, instance, seen):
            return
        await _tell_ended(tx, env, instance, seen)
    await instances.reconcile(tx, env, observed, id)
    after = await tx.get(Instance, id)
    if instance.recovers and after is not None and after.state is InstanceState.running:
        seconds = max(0.0, env.now() - instance.recovers)
        text = f"{id} runs again, on host {after.host}, after {seconds:.1f} s"
        await events.record(tx, env, "InstanceRecovered", text, host=str(after.host), instance=id)
    if after is not None and instance.resize is not None:
        await _tell_resize(tx, env, after, instance.resize)


async def _tell_resize(tx: Transaction, env: Env, instance: Instance, before: Resize) -> None:
    """What became of a resize, if anything did."""
    now, host = instance.resize, str(instance.host)
    if now is None and instance.state is InstanceState.running:
        seconds = max(0.0, env.now() - before.since)
        text = f"{instance.id} has the size of {instance.type}, after {seconds:.1f} s"
        await events.record(tx, env, "InstanceResized", text, host=host, instance=instance.id)
    elif now is not None and now.message and now.message != before.message:
        text = f"{instance.id} does not have the size of {instance.type}: {now.message}"
        await events.record(
            tx, env, "InstanceNotResized", text, Severity.warning, host=host, instance=instance.id
        )


async def _let_stay(tx: Transaction, env: Env, observed: Observed, instance: Instance) -> None:
    """One that waits for its host, and does not leave it: then nothing else would end its migration."""
    migration = await tx.get(InstanceMigration, instance.migration)
    if migration is None or migration.source == instance.host:
        await migrations.step(tx, env, observed, instance)


async def _died(tx: Transaction, env: Env, instance: Instance, seen: MachineReport) -> bool:
    """Its machine ended by itself. Whether it is started again, a while later if it died not long ago.

    A first launch, or what a user started, that does not come to run has failed: that is told at once.
    """
    again = instance.recovery.policy is RecoveryPolicy.restart and not instance.capturing
    runs = instance.state is InstanceState.running
    if not again or not (runs or (instance.recovers and instance.state is InstanceState.pending)):
        return False
    now = env.now()
    crashes = tuple(each for each in instance.crashes if abs(now - each) < CRASHES_SECONDS)
    if len(crashes) >= CRASHES_MAX:
        text = (
            f"{instance.id} is stopped: its {_what(seen)} {CRASHES_MAX + 1} times in "
            f"{CRASHES_SECONDS / 60:g} minutes, at last: {seen.message}"
        )
        await events.record(
            tx,
            env,
            "InstanceGivenUp",
            text,
            Severity.error,
            host=str(instance.host),
            instance=instance.id,
        )
        return False
    backoff = backoff_seconds(len(crashes))
    reason = StateReason(MACHINE_FAILURE, f"{MACHINE_FAILURE}: {seen.message}")
    await tx.put(
        replace(
            instance,
            state=InstanceState.pending,
            state_reason=reason,
            transition_reason=reason.message,
            generation=instance.next_generation,
            reboots=0,
            impaired="",
            recovers=instance.recovers or now,
            restart_at=now + backoff,
            crashes=(*crashes, now),
        )
    )
    name = "InstanceHung" if seen.hung else "InstanceDied"
    end = f": {seen.message}" if seen.hung else f" died ({seen.message})"
    text = f"{instance.id}{end}; it is started again in {backoff:g} s"
    await events.record(tx, env, name, text, Severity.warning, host=str(instance.host), instance=instance.id)
    return True


def _what(seen: MachineReport) -> str:
    return "guest hung" if seen.hung else "machine died"


async def _tell_ended(tx: Transaction, env: Env, instance: Instance, seen: MachineReport) -> None:
    """Its machine died, or its guest hangs, and it is not started again."""
    if instance.state is not InstanceState.running or instance.capturing:
        return
    if instance.recovery.policy in (RecoveryPolicy.stop, RecoveryPolicy.terminate):
        await _tell_ending(tx, env, instance, seen.message)
    elif seen.hung and instance.recovery.policy is RecoveryPolicy.none and instance.impaired != seen.message:
        text = f"{instance.id}: {seen.message}; it is held as it is until somebody reboots or stops it"
        host = str(instance.host)
        await events.record(tx, env, "InstanceHung", text, Severity.warning, host=host, instance=instance.id)


def backoff_seconds(crashes: int) -> float:
    """After so many others: 1, 2, 4 ..."""
    return min(BACKOFF_SECONDS_MAX, 2.0**crashes)


async def due(tx: Transaction, env: Env, waiting: Mapping[str, float]) -> None:
    """Start those whose time has come. ``waiting``: by id, their ``restart_at``."""
    for id in waiting:
        instance = await tx.get(Instance, id)
        if instance is not None and instance.restart_at and is_due(env, instance.restart_at):
            await tx.put(replace(instance, restart_at=0.0))


def is_due(env: Env, at: float) -> bool:
    """Also if the clock was put back meanwhile."""
    return not env.now() < at <= env.now() + BACKOFF_SECONDS_MAX
