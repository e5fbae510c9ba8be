"""What a scenario waits for, and what it says must be so."""

from __future__ import annotations

import logging

from gureum.control.survival import outlooks, survivable
from gureum.resources import (
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    ParkState,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.resources.volume import AttachmentState
from gureum.services.ec2.instance_types import TYPES
from gureum.sim.acts import Options, Words, act
from gureum.sim.stage import Stage
from gureum.sim.violation import Violation
from gureum.sim.words import Names, Wrong

log = logging.getLogger("gureum.sim.scenario")

STATES: dict[str, frozenset[str]] = {
    "INSTANCE": frozenset(map(str, InstanceState)) | {"gone"},
    "VOLUME": frozenset(map(str, (*VolumeState, *AttachmentState))) | {"gone"},
    "SNAPSHOT": frozenset(map(str, SnapshotState)) | {"gone"},
    "HOST": frozenset(map(str, (*HostState, *ParkState))) | {"draining", "gone"},
    "ADDRESS": frozenset({"associated", "free", "gone"}),
}
"""What can be waited for, by kind. A volume in use has the state of its (first) attachment."""
WRITING_SECONDS = 10.0
"""In which a guest that can write does."""
WRITES = 20
"""How often it may."""


def _known_state(names: Names, words: Words, _: Options) -> None:
    kind = names.kind(words[0])
    if words[1] not in STATES.get(kind, ()):
        states = ", ".join(sorted(STATES.get(kind, ())))
        raise Wrong(
            f"{words[0]} is never {words[1]!r}, but: {states}" if states else f"{words[0]} has no state"
        )


def _known_end(_: Names, words: Words, __: Options) -> None:
    if words[1] not in list(MigrationState):
        raise Wrong(f"a migration is never {words[1]!r}, but: {', '.join(MigrationState)}")


@act("advance NUMBER", "let so many seconds pass")
async def advance(stage: Stage, words: Words, options: Options) -> bool:
    await stage.pass_time(float(words[0]))
    return True


@act(
    "wait-for THING WORD within NUMBER", "until it has this state, or the scenario fails", check=_known_state
)
async def wait_for(stage: Stage, words: Words, options: Options) -> bool:
    async def wrong() -> str:
        found = await stage.state(words[0])
        return "" if found == words[1] else f"{words[0]} is {found}"

    await stage.until(wrong, float(words[2]))
    return True


@act("wait-for rest within NUMBER", "until nothing is under way, and all is as the store says")
async def wait_for_rest(stage: Stage, words: Words, options: Options) -> bool:
    await stage.until(stage.unrest, float(words[0]))
    return True


@act("let NEW-HOST be where INSTANCE runs", "a name for a host, which placement chose")
async def let(stage: Stage, words: Words, options: Options) -> bool:
    stage.hosts[words[0]] = (await stage.runs_on(words[1])).name
    log.info("(%s is %s)", words[0], stage.hosts[words[0]])
    return True


@act("let NEW-HOST be what keeps VOLUME", "a name for the host that looks after a volume")
async def let_keeper(stage: Stage, words: Words, options: Options) -> bool:
    id = await stage.id(words[1])
    async with stage.world.store.read() as reader:
        volume = await reader.get(Volume, id)
    if volume is None or volume.host is None:
        raise Violation(f"nothing keeps {words[1]}")
    stage.hosts[words[0]] = volume.host
    log.info("(%s is %s)", words[0], volume.host)
    return True


@act("expect VOLUME writes|rests", "its guest's writes do, or do not, reach it within the next 10 s")
async def expect_writes(stage: Stage, words: Words, options: Options) -> bool:
    id = await stage.id(words[0])
    before = stage.guests.writes(id)
    for _ in range(WRITES):
        await stage.pass_time(WRITING_SECONDS / WRITES)
    writes = stage.guests.writes(id) > before
    return _hold(writes is (words[1] == "writes"), f"{words[0]} {'is' if writes else 'is not'} written to")


@act("wait-for INSTANCE migration WORD within NUMBER", "until its last migration is so", check=_known_end)
async def wait_for_migration(stage: Stage, words: Words, options: Options) -> bool:
    id = await stage.id(words[0])

    async def wrong() -> str:
        async with stage.world.store.read() as reader:
            found = await reader.find(InstanceMigration, instance=id)
        last = max(found, key=lambda each: each.started, default=None)
        if last is None:
            return f"{words[0]} was never migrated"
        return "" if last.state == words[1] else f"its migration is {last.state}: {last.message}"

    await stage.until(wrong, float(words[2]))
    return True


def _known_type(_: Names, words: Words, __: Options) -> None:
    if words[1] not in TYPES:
        raise Wrong(f"there is no instance type {words[1]}")


@act(
    "wait-for INSTANCE size WORD within NUMBER", "until its machine has what the type has", check=_known_type
)
async def wait_for_size(stage: Stage, words: Words, options: Options) -> bool:
    id, wanted = await stage.id(words[0]), TYPES[words[1]]

    async def wrong() -> str:
        size = (await stage.runs_on(words[0])).machines.machines[id].size
        if size is None or (size.vcpus, size.memory_bytes) != (wanted.vcpus, wanted.memory_bytes):
            return f"{words[0]} has {size}"
        async with stage.world.store.read() as reader:
            instance = await reader.get(Instance, id)
        right = instance is not None and instance.type == words[1] and instance.resize is None
        return "" if right else f"{words[0]} is not known to have it"

    await stage.until(wrong, float(words[2]))
    return True


@act("expect THING WORD", "it has this state", check=_known_state)
async def expect(stage: Stage, words: Words, options: Options) -> bool:
    found = await stage.state(words[0])
    return _hold(found == words[1], f"{words[0]} is {found}")


@act("expect INSTANCE on HOST", "its machine really runs there")
async def expect_on(stage: Stage, words: Words, options: Options) -> bool:
    found = (await stage.runs_on(words[0])).name
    return _hold(found == words[1], f"{words[0]} runs on {found}")


@act("expect INSTANCE not on HOST", "its machine runs, elsewhere")
async def expect_not_on(stage: Stage, words: Words, options: Options) -> bool:
    found = (await stage.runs_on(words[0])).name
    return _hold(found != words[1], f"{words[0]} runs on {found}")


@act("expect INSTANCE generation NUMBER", "it was started so often, counting what was tried")
async def expect_generation(stage: Stage, words: Words, options: Options) -> bool:
    found = (await stage.instance(words[0])).generation
    return _hold(found == int(words[1]), f"{words[0]} has generation {found}")


@act("expect INSTANCE reboots NUMBER", "its machine was reset so often")
async def expect_reboots(stage: Stage, words: Words, options: Options) -> bool:
    host, id = await stage.runs_on(words[0]), await stage.id(words[0])
    found = host.machines.machines[id].reboots
    return _hold(found == int(words[1]), f"{words[0]} was rebooted {found} times")


@act("expect machines NUMBER", "so many machines really run, and are not held, on all hosts together")
async def expect_machines(stage: Stage, words: Words, options: Options) -> bool:
    found = len(list(stage.machines()))
    return _hold(found == int(words[0]), f"{found} machines run")


@act("expect survival of NUMBER", "the loss of so many hosts would be survived, and of no more")
async def expect_survival(stage: Stage, words: Words, options: Options) -> bool:
    async with stage.world.store.read() as reader:
        found = {await survivable(each) for each in (await outlooks(reader, kept=True)).values()}
    return _hold(found == {int(words[0])}, f"it would be of {', '.join(map(str, sorted(found)))}")


def _hold(true: bool, otherwise: str) -> bool:
    if not true:
        raise Violation(otherwise)
    return True
