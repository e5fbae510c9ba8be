"""What must hold in a simulated cloud: always, and once it has come to rest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Container, Iterator, Mapping
from contextlib import aclosing

from gureum.control.fleet import held
from gureum.hostspec import LOCAL
from gureum.hypervisors.fake_machine import FakeMachine
from gureum.resources import (
    AttachmentState,
    Host,
    HostState,
    Instance,
    InstanceState,
    NetworkInterface,
    RecoveryPolicy,
    Snapshot,
    SnapshotState,
    Upgrade,
    UpgradeState,
    Volume,
    VolumeState,
)
from gureum.san.fake_shared import FakeSan
from gureum.services.ec2.instance_types import machine_size
from gureum.sim import empty_invariants, network_invariants, park_invariants
from gureum.sim.violation import Violation
from gureum.sim.world import FOREIGN, SimHost, World

RESTING_INSTANCES = (InstanceState.running, InstanceState.stopped, InstanceState.terminated)
RESTING_VOLUMES = (VolumeState.available, VolumeState.in_use, VolumeState.error)


async def always(world: World) -> None:
    """Raise Violation if something is wrong that must not be wrong for a moment."""
    world.sizes.always()
    _no_double_run(world)
    async with world.store.read() as reader:
        instances = {each.id: each for each in await reader.find(Instance)}
        volumes = {each.id: each for each in await reader.find(Volume)}
        _no_two_writers(world, {id for id, volume in volumes.items() if volume.multi_attach})
        await network_invariants.always(world, reader)
        hosts = await reader.find(Host)
        park_invariants.always(hosts, instances.values(), volumes.values())
        await empty_invariants.always(reader, hosts, instances.values())
    for host in world.hosts:
        _true(world, host, instances, volumes)


def _no_double_run(world: World) -> None:
    where: dict[str, str] = {}
    for host in world.hosts:
        for machine in host.machines.running():
            if host.harmless(host.machines.machines[machine]):
                continue
            if machine in where:
                raise Violation(f"{machine} runs on {where[machine]} and on {host.name}")
            where[machine] = host.name


def _no_two_writers(world: World, several: Container[str]) -> None:
    """``several``: volumes for which more than one writer was asked for."""
    writer: dict[str, str] = {}
    for host in world.hosts:
        for id, machine in host.machines.machines.items():
            for volume in machine.disks if not (machine.away or host.harmless(machine)) else ():
                if volume in writer and volume not in several:
                    raise Violation(f"{volume} is written by {writer[volume]} and by {id}")
                writer[volume] = id


def _true(
    world: World, host: SimHost, instances: Mapping[str, Instance], volumes: Mapping[str, Volume]
) -> None:
    """What the store says to be off, detached or deleted is so: it said so on evidence."""
    for id, machine in host.machines.machines.items():
        if not machine.runs and not machine.disks:
            continue
        instance = instances.get(id)
        if machine.away:
            # Without a migration it is about to go on where it was, or its host is lost and told so later.
            known = instance is not None and (instance.migration or instance.host == host.name)
            strays = any(host.name in volumes[id].strays for id in machine.disks if id in volumes)
            if not known and not strays and not host.harmless(machine):
                raise Violation(f"{id} is held on {host.name} for a migration that is none")
            continue
        if (instance is None or instance.host != host.name) and host.harmless(machine):
            continue
        if instance is None or instance.state in (InstanceState.stopped, InstanceState.terminated):
            raise Violation(f"{id} runs, and is {instance.state if instance else 'gone'} in the store")
        _room(instance, machine)
        for volume, disk in machine.disks.items():
            owners = volumes[volume].instances if volume in volumes else ()
            if id not in owners:
                raise Violation(f"{id} has {volume}, which the store gives to {owners or 'nobody'}")
            if disk.shared:
                _true_of_shared(world.san_of(disk), host, instances[id], volumes[volume])
            elif host.disk.name(disk.layers[0]) not in host.disk.layers:
                raise Violation(f"{id} has {volume}, which the pool has not")


def _room(instance: Instance, machine: FakeMachine) -> None:
    """What a machine has is counted."""
    size, most = machine.size, held(instance)
    if size is None or machine.config.generation != instance.generation:
        return
    if size.vcpus > most.vcpus or size.memory_bytes > most.memory_bytes:
        raise Violation(f"{instance.id} has {size.vcpus} vCPUs and {size.memory_bytes} bytes, not {most}")


def _true_of_shared(san: FakeSan, host: SimHost, instance: Instance, volume: Volume) -> None:
    machine = instance.id
    image = san.rbd.get(volume.id)
    if image is None or image.husk:
        raise Violation(f"{machine} has {volume.id}, which the pool has not")
    if image.partial:
        raise Violation(f"{machine} has {volume.id}, which is not complete")
    if volume.multi_attach:
        if host.name not in image.sharers:
            raise Violation(f"{machine} has {volume.id} on {host.name}, shared by {sorted(image.sharers)}")
        return
    if volume.host != host.name:
        raise Violation(f"{machine} has {volume.id} on {host.name}, and {volume.host} looks after it")
    if host.name not in (image.holder, *image.receivers):
        raise Violation(f"{machine} has {volume.id} on {host.name}, and {image.holder} holds it")


def _wrong_size(world: World, instance: Instance) -> str:
    machines = (host.machines.machines.get(instance.id) for host in world.hosts if host.name == instance.host)
    machine = next(machines, None)
    if machine is None or machine.size is None or machine.ignores_detach:
        return ""
    if instance.resize is not None:
        return f"{instance.id} is being resized"
    size, wanted = machine.size, machine_size(instance.type)
    right = (size.vcpus, size.memory_bytes) == (wanted.vcpus, wanted.memory_bytes)
    return "" if right else f"{instance.id} is no {instance.type}: {size}"


async def at_rest(world: World) -> list[str]:
    """What is not yet as it should be when nothing happens any more; empty when all is well."""
    return [problem async for problem in _unrest(world)]


async def restless(world: World) -> bool:
    """Whether there is anything of that: it is asked each second, and the first thing is enough."""
    async with aclosing(_unrest(world)) as problems:
        return await anext(problems, None) is not None


async def _unrest(world: World) -> AsyncGenerator[str, None]:
    async with world.store.read() as reader:
        instances = await reader.find(Instance)
        volumes = await reader.find(Volume)
        snapshots = await reader.find(Snapshot)
        interfaces = await reader.find(NetworkInterface)
        upgrades = await reader.find(Upgrade, state=str(UpgradeState.running))
    for upgrade in upgrades:
        yield f"{upgrade.id} is under way"
    for instance in instances:
        if instance.state not in RESTING_INSTANCES:
            yield f"{instance.id} is {instance.state}"
        if instance.migration:
            yield f"{instance.id} is being migrated"
        if instance.growth is not None:
            yield f"{instance.id} waits to become a {instance.growth.type}"
        if instance.state is InstanceState.running and (wrong := _wrong_size(world, instance)):
            yield wrong
    async with world.store.read() as reader:
        hosts = await reader.find(Host)
    for known in hosts if world.leases is not None else ():
        if known.state is not HostState.up and known.park is None:
            yield f"{known.id} is {known.state}"
    for problem in park_invariants.at_rest(hosts):
        yield problem
    for volume in volumes:
        if volume.state not in RESTING_VOLUMES:
            yield f"{volume.id} is {volume.state}"
        elif changing := [each for each in volume.attachments if each.state is not AttachmentState.attached]:
            yield f"{volume.id} is {changing[0].state}"
        elif volume.modifying:
            yield f"{volume.id} is being modified"
        elif volume.target or volume.leaves:
            yield f"{volume.id} is in {', '.join(volume.pools)}"
    for interface in interfaces:
        if interface.changing:
            yield f"{interface.id} is {interface.attachment_state}"
    for snapshot in snapshots:
        if snapshot.state not in (SnapshotState.completed, SnapshotState.error):
            yield f"{snapshot.id} is {snapshot.state}"
    running = {each.id: each for each in instances if each.state is InstanceState.running}
    for problem in _machines(world, running, volumes):
        yield problem
    for problem in _pools(world, volumes, snapshots):
        yield problem
    for problem in _nics(world, running, interfaces):
        yield problem
    for problem in [each async for each in network_invariants.at_rest(world)]:
        yield problem
    alive = {each.id: each for each in instances if each.state is not InstanceState.terminated}
    for problem in _loose_ends(alive, volumes, interfaces):
        yield problem


def _loose_ends(
    alive: dict[str, Instance],
    volumes: list[Volume],
    interfaces: list[NetworkInterface],
) -> Iterator[str]:
    """Records that say different things of each other, or hold what nobody uses any more."""
    owned = [(volume.id, owner) for volume in volumes for owner in volume.instances]
    owned += [(each.id, each.instance) for each in interfaces if each.instance is not None]
    for id, owner in owned:
        if owner not in alive:
            yield f"{id} belongs to {owner}, which is gone"
    for interface in interfaces:
        if interface.instance is not None and interface.public_ip and not interface.address:
            state = alive[interface.instance].state if interface.instance in alive else "gone"
            if state != InstanceState.running:
                yield f"{interface.id} of an instance that is {state} keeps {interface.public_ip}"
    for instance in alive.values():
        had = {device.volume for device in instance.devices}
        has = {volume.id for volume in volumes if instance.id in volume.instances}
        if had != has:
            yield f"{instance.id} shows {sorted(had)} and has {sorted(has)}"


def _machines(world: World, running: dict[str, Instance], volumes: list[Volume]) -> Iterator[str]:
    real = {id: generation for host in world.hosts for id, generation in host.machines.running().items()}
    wanted = {id: instance.generation for id, instance in running.items()}
    if real != wanted:
        yield f"machines {real} instead of {wanted}"
    disks = {
        (id, volume)
        for host in world.hosts
        for id, machine in host.machines.machines.items()
        for volume in machine.disks
    }
    attached = {(owner, each.id) for each in volumes for owner in each.instances if owner in running}
    if disks != attached:
        yield f"disks {sorted(disks ^ attached)} are on one side only"
    if world.leases is not None:
        yield from _hung(world, running)


def _hung(world: World, running: dict[str, Instance]) -> Iterator[str]:
    """Guests that hang and are not left so."""
    for host in world.hosts:
        for id, machine in host.machines.machines.items():
            if machine.hung and id in running and running[id].recovery.policy is not RecoveryPolicy.none:
                yield f"{id} hangs"


def _pools(world: World, volumes: list[Volume], snapshots: list[Snapshot]) -> Iterator[str]:
    in_pools = {id for host in world.hosts for id in host.disk.volumes() - {FOREIGN}}
    for san in world.sans.values():
        in_pools |= san.volumes() - {FOREIGN}
    known = {each.id for each in volumes}
    whole = {each.id for each in volumes if each.state is not VolumeState.error}
    if not whole <= in_pools <= known:
        yield f"volumes {sorted(in_pools ^ known)} are in the pool or in the store only"
    yield from _places(world, volumes)
    held = {id for host in world.hosts for id in host.disk.snapshots()}
    for san in world.sans.values():
        held |= san.snapshots()
        yield from _san(world, san)
    taken = {each.id for each in snapshots if not each.image and each.state is SnapshotState.completed}
    if held != taken:
        yield f"snapshots {sorted(held ^ taken)} are in the pool or in the store only"
    for host in world.hosts:
        if FOREIGN not in host.disk.volumes():
            yield f"{host.name}: the volume that nobody knows was not kept"
        for leak in host.disk.leaks():
            yield f"{host.name}: {leak}"


def _places(world: World, volumes: list[Volume]) -> Iterator[str]:
    """Each volume is in its pool, and in no other."""
    homes = {each.id: each.host if each.pool == LOCAL else each.pool for each in volumes}
    places = [(host.name, host.disk.volumes()) for host in world.hosts]
    places += [(san.name, san.volumes()) for san in world.sans.values()]
    for place, there in places:
        for id in sorted(there - {FOREIGN}):
            if homes.get(id) != place:
                yield f"{id} is in {place}, and not only in {homes.get(id)}"


def _san(world: World, san: FakeSan) -> Iterator[str]:
    if FOREIGN not in san.volumes():
        yield f"{san.name}: the volume that nobody knows was not kept"
    yield from san.leaks()
    opened = {
        (volume, host.name)
        for host in world.hosts
        for machine in host.machines.machines.values()
        for volume, disk in (machine.disks.items() if not host.harmless(machine) else ())
        if disk.pool == san.name and host.name not in san.rbd[volume].evicted
    }
    held = {
        (id, host)
        for id, image in san.rbd.items()
        for host in (image.holder, *image.sharers, *image.receivers)
        if host
    }
    if held != opened:
        yield f"volumes {sorted(held ^ opened)} are held and not open, or open and not held"


def _nics(world: World, running: dict[str, Instance], interfaces: list[NetworkInterface]) -> Iterator[str]:
    nics = {
        (id, nic)
        for host in world.hosts
        for id, machine in host.machines.machines.items()
        if machine.runs
        for nic in machine.nics
    }
    wanted = {(str(each.instance), each.id) for each in interfaces if each.instance in running}
    if nics != wanted:
        yield f"interfaces {sorted(nics ^ wanted)} are on one side only"
