"""What goes wrong in a scenario, and comes right again."""

from __future__ import annotations

import asyncio

from gureum.san.fake import FakePoolDisk
from gureum.san.fake_shared import FakeSan
from gureum.sim.acts import Options, Words, act
from gureum.sim.faults import POOL_STEPS, SAN_STEPS
from gureum.sim.stage import Stage
from gureum.sim.violation import Violation
from gureum.sim.words import Names, Wrong
from gureum.sim.world import POOL_BYTES

# Processes. Who dies is started again soon, as by a supervisor, or after ``for``.


@act("kill manager [for=NUMBER]", "kill -9; for: it can't be started for so long")
async def kill_manager(stage: Stage, words: Words, options: Options) -> bool:
    world = stage.world
    if "for" in options:
        world.manager_power.clear()
        asyncio.get_running_loop().call_later(float(options["for"]), world.manager_power.set)
    stage.manager().die()
    return True


@act("kill agent HOST [for=NUMBER]", "kill -9 of the agent only: machines go on")
async def kill_agent(stage: Stage, words: Words, options: Options) -> bool:
    process = stage.agent(words[0])
    if "for" in options:
        stage.world.unseat(stage.host(words[0]), float(options["for"]))
    else:
        process.die()
    return True


@act("kill warden HOST", "kill -9; it is started again at once")
async def kill_warden(stage: Stage, words: Words, options: Options) -> bool:
    process = stage.host(words[0]).warden_process
    if process is None:
        raise Violation(f"no warden of {words[0]} runs")
    process.die()
    return True


@act("kill guest INSTANCE", "kill -9 of its hypervisor's process")
async def kill_guest(stage: Stage, words: Words, options: Options) -> bool:
    host = await stage.runs_on(words[0])
    host.machines.crash(await stage.id(words[0]))
    return True


def _known_count(_: Names, __: Words, options: Options) -> None:
    if not float(options.get("count", 1)).is_integer():
        raise Wrong("count is a whole number")


@act("hang guest INSTANCE", "it does nothing more, and its watchdog runs out")
async def hang_guest(stage: Stage, words: Words, options: Options) -> bool:
    host = await stage.runs_on(words[0])
    host.machines.hang(await stage.id(words[0]))
    return True


@act(
    "crash-at WORD [count=NUMBER]",
    "who reaches this crash point next, or for the nth time, dies there",
    check=_known_count,
)
async def crash_at(stage: Stage, words: Words, options: Options) -> bool:
    points = stage.world.points
    points.at, points.count = words[0], points.reached[words[0]] + int(options.get("count", 1))
    return True


@act("pause manager", "SIGSTOP, until resume")
async def pause_manager(stage: Stage, words: Words, options: Options) -> bool:
    stage.manager().freezer.freeze()
    return True


@act("resume manager", "SIGCONT")
async def resume_manager(stage: Stage, words: Words, options: Options) -> bool:
    stage.manager().freezer.thaw()
    return True


@act("pause agent HOST", "SIGSTOP of the agent only, until resume")
async def pause_agent(stage: Stage, words: Words, options: Options) -> bool:
    stage.agent(words[0]).freezer.freeze()
    return True


@act("resume agent HOST", "SIGCONT")
async def resume_agent(stage: Stage, words: Words, options: Options) -> bool:
    stage.agent(words[0]).freezer.thaw()
    return True


# Hosts


@act("power off|on|cycle HOST...", "off: machines and agent are gone at once; cycle: off and on again")
async def power(stage: Stage, words: Words, options: Options) -> bool:
    what, *names = words
    for name in names:
        host = stage.host(name)
        if what == "on":
            host.power.set()
            continue
        if what == "off":
            host.power.clear()
        stage.world.lose_power(host)
    return True


@act(
    "pause host HOST for NUMBER",
    "nothing of it runs, as in a suspend: agent, warden, machines; then all goes on",
)
async def pause_host(stage: Stage, words: Words, options: Options) -> bool:
    stage.world.pause(stage.host(words[0]), float(words[1]))
    return True


@act(
    "partition HOST... from manager|storage|both",
    "what is sent to and fro is lost, until heal; nobody is told",
)
async def partition(stage: Stage, words: Words, options: Options) -> bool:
    *names, what = words
    if what != "storage":
        for name in names:
            stage.world.cut_manager(stage.host(name), True, True)
    if what != "manager":
        _cut(stage, names, True)
    return True


@act("partition HOST... from POOL", "they do not reach this one of several shared pools, until heal")
async def partition_from_pool(stage: Stage, words: Words, options: Options) -> bool:
    *names, pool = words
    if pool not in stage.world.sans:
        raise Violation("only a shared pool can be away")
    _cut(stage, names, True, pool)
    return True


@act("deafen HOST", "it hears nothing of the manager, which hears it, until heal")
async def deafen(stage: Stage, words: Words, options: Options) -> bool:
    stage.world.cut_manager(stage.host(words[0]), True, False)
    return True


@act("mute HOST", "the manager hears nothing of it, and it hears the manager, until heal")
async def mute(stage: Stage, words: Words, options: Options) -> bool:
    stage.world.cut_manager(stage.host(words[0]), False, True)
    return True


@act("heal HOST...", "they reach the manager and all shared pools again")
async def heal(stage: Stage, words: Words, options: Options) -> bool:
    for name in words:
        stage.world.cut_manager(stage.host(name), False, False)
    if stage.world.sans:
        _cut(stage, words, False)
    return True


def _cut(stage: Stage, names: Words, away: bool, pool: str = "") -> None:
    if not stage.world.sans:
        raise Violation("this cloud has no shared pool: begin with hosts N shared")
    stage.world.cut_san([stage.host(name) for name in names], away, pool)


@act("break network HOST", "its kernel refuses every change of its network, until mend")
async def break_network(stage: Stage, words: Words, options: Options) -> bool:
    stage.world.wires.failing.add(words[0])
    return True


@act("mend network HOST", "no more")
async def mend_network(stage: Stage, words: Words, options: Options) -> bool:
    stage.world.wires.failing.discard(words[0])
    return True


@act(
    "weather [loss=NUMBER] [repeat=NUMBER] [cut=NUMBER] [delay=NUMBER]",
    "the chance that a message is lost, comes twice, or cuts its link, and seconds of delay; alone: fair",
)
async def weather(stage: Stage, words: Words, options: Options) -> bool:
    links = stage.world.weather
    links.loss, links.repeat, links.cut = (float(options.get(key, 0)) for key in ("loss", "repeat", "cut"))
    links.delay = (0.0005, max(0.01, float(options.get("delay", 0))))
    return True


@act("clock forward|back NUMBER", "the wall clock jumps")
async def clock(stage: Stage, words: Words, options: Options) -> bool:
    seconds = float(words[1])
    stage.world.skew_seconds += seconds if words[0] == "forward" else -seconds
    return True


@act(
    "break uplink HOST", "its device towards the other hosts is down, and the manager is reached all the same"
)
async def break_uplink(stage: Stage, words: Words, options: Options) -> bool:
    stage.host(words[0]).uplink_down = True
    return True


@act("mend uplink HOST", "it is up again")
async def mend_uplink(stage: Stage, words: Words, options: Options) -> bool:
    stage.host(words[0]).uplink_down = False
    return True


# Disks


@act("fill POOL [host=HOST]", "it has room for nothing more; local: that of host, or of all")
async def fill(stage: Stage, words: Words, options: Options) -> bool:
    for disk in _disks(stage, words[0], options):
        disk.size_bytes = disk.used_bytes()
    return True


@act("empty POOL [host=HOST]", "it has room again")
async def empty(stage: Stage, words: Words, options: Options) -> bool:
    for disk in _disks(stage, words[0], options):
        disk.size_bytes = POOL_BYTES
    return True


def _known_step(_: Names, words: Words, options: Options) -> None:
    steps = POOL_STEPS if words[0] == "local" else SAN_STEPS
    if words[1] not in steps:
        raise Wrong(f"{words[1]!r} is no step of {words[0]}: {', '.join(steps)}")
    _known_count(Names([], []), words, options)


@act(
    "fail POOL WORD [host=HOST] [count=NUMBER]", "input/output error in the next such step", check=_known_step
)
async def fail(stage: Stage, words: Words, options: Options) -> bool:
    for disk in _disks(stage, words[0], options):
        for _ in range(int(options.get("count", 1))):
            disk.fail_next(words[1])
    return True


@act(
    "delay POOL WORD NUMBER", "the next such step of the shared pool takes so many seconds", check=_known_step
)
async def delay(stage: Stage, words: Words, options: Options) -> bool:
    if words[0] not in stage.world.sans:
        raise Violation("only steps of the shared pool can be slow")
    stage.world.sans[words[0]].delay_next(words[1], float(words[2]))
    return True


def _disks(stage: Stage, pool: str, options: Options) -> list[FakePoolDisk] | list[FakeSan]:
    if pool != "local":
        return [stage.world.sans[pool]]
    hosts = [stage.host(options["host"])] if "host" in options else stage.world.hosts
    return [host.disk for host in hosts]


# Guests


@act("shutdown INSTANCE", "its guest shuts itself down")
async def shutdown(stage: Stage, words: Words, options: Options) -> bool:
    (await stage.runs_on(words[0])).machines.guest_shutdown(await stage.id(words[0]))
    return True


@act("deaf INSTANCE", "its guest does not hear the power button")
async def deaf(stage: Stage, words: Words, options: Options) -> bool:
    (await stage.runs_on(words[0])).machines.ignore_power_button(await stage.id(words[0]))
    return True


@act(
    "clingy INSTANCE [not]", "its guest does not give up its devices, nor take vCPUs and memory; not: no more"
)
async def clingy(stage: Stage, words: Words, options: Options) -> bool:
    machines = (await stage.runs_on(words[0])).machines
    machines.ignore_detach(await stage.id(words[0]), "not" not in options)
    return True


@act("break start INSTANCE", "no host can start its machine, until mend")
async def break_start(stage: Stage, words: Words, options: Options) -> bool:
    for host in stage.world.hosts:
        host.machines.fail_start(await stage.id(words[0]))
    return True


@act("mend start INSTANCE", "they can again")
async def mend_start(stage: Stage, words: Words, options: Options) -> bool:
    for host in stage.world.hosts:
        host.machines.fail_start(await stage.id(words[0]), "")
    return True
