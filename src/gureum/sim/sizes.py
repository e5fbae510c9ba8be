"""Instances that get another type by what they use, in a simulated cloud: commands of scenarios about them,
and guests that want more and less for seeded runs.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from gureum.resources import Event, Instance, InstanceState
from gureum.services.fleet.autosize import MODES
from gureum.sim.acts import Options, Words, act
from gureum.sim.demands import Demand
from gureum.sim.stage import Stage
from gureum.sim.violation import Violation
from gureum.sim.words import Names, Wrong
from gureum.sim.world import World

log = logging.getLogger("gureum.sim.scenario")

HUNGER_CHANCE = 0.1
POLICY_CHANCE = 0.1
BOUNDS = (
    ("t3.nano", "t3.large"),
    ("t3.micro", "t3.xlarge"),
    ("t3.small", "t3.medium"),
    ("t3.nano", "m5.large"),
)


@act(
    "work INSTANCE... NUMBER [memory=NUMBER] [every=NUMBER] [silent]",
    "how many processors a guest wants, and MiB of memory that it uses; silent: it doesn't say that; every: "
    "for so long, and then nothing for as long",
)
async def work(stage: Stage, words: Words, options: Options) -> bool:
    *names, cpus = words
    memory = -1.0 if "silent" in options else float(options.get("memory", 0))
    for name in names:
        demand = Demand(every=float(options.get("every", 0)), cpus=float(cpus), memory_mib=memory)
        stage.world.demands[await stage.id(name)] = demand
    return True


def _known(_: Names, words: Words, __: Options) -> None:
    if words[1] not in MODES:
        raise Wrong(f"{words[1]!r} is none of: {', '.join(MODES)}")


@act(
    "autosize INSTANCE WORD [min=WORD] [max=WORD] [target=NUMBER] [cool-down=NUMBER]",
    "Fleet's SetInstanceAutosize: off, recommend or automatic",
    asks=True,
    check=_known,
)
async def autosize(stage: Stage, words: Words, options: Options) -> bool:
    names = {"min": "MinInstanceType", "max": "MaxInstanceType"}
    numbers = {"target": "TargetPercent", "cool-down": "CoolDownSeconds"}
    input: dict[str, str | int] = {"InstanceId": await stage.id(words[0]), "Mode": words[1]}
    input |= {name: options[key] for key, name in names.items() if key in options}
    input |= {name: int(options[key]) for key, name in numbers.items() if key in options}
    return await stage.call("SetInstanceAutosize", "fleet", **input) is not None


@act("expect INSTANCE resized NUMBER", "it was given another type so many times for what it used")
async def expect_resized(stage: Stage, words: Words, options: Options) -> bool:
    id = await stage.id(words[0])
    async with stage.world.store.read() as reader:
        events = [each for each in await reader.find(Event) if each.instance == id]
    count = sum(each.name == "InstanceAutosized" for each in events)
    if count != int(words[1]):
        raise Violation(f"{words[0]} was given another type {count} times")
    return True


@act("expect INSTANCE recommended WORD", "it is said to be right as a type that it can become, or as it is")
async def expect_recommended(stage: Stage, words: Words, options: Options) -> bool:
    answer = await stage.call("DescribeInstanceAutosizes", "fleet", InstanceIds=[await stage.id(words[0])])
    if answer is None:
        raise Violation("the cloud does not answer")
    [found] = answer["InstanceAutosizes"]
    log.info("(%s; %s)", found.get("Reason"), found.get("HeldBecause") or "it may be done")
    wanted = found.get("RecommendedInstanceType") or found["InstanceType"]
    if wanted != words[1]:
        raise Violation(f"{words[0]} should be a {wanted}")
    return True


class Appetites:
    """Guests that want more, or less, now and then, and get bounds; by dice of their own.

    ``ask``: as a client.
    """

    def __init__(
        self, seed: int, world: World, ask: Callable[[str, Mapping[str, Any]], Awaitable[None]]
    ) -> None:
        self._random = random.Random(seed)
        self._world = world
        self._ask = ask

    async def step(self, instances: Collection[Instance]) -> None:
        rng = self._random
        for instance in sorted(instances, key=lambda each: each.id):
            if rng.random() < HUNGER_CHANCE:
                memory = rng.choice([-1.0, 100.0, 600.0, 1500.0, 3000.0, 7000.0])
                demand = Demand(
                    every=rng.choice([0.0, 0.0, 100.0]), cpus=rng.uniform(0, 5), memory_mib=memory
                )
                self._world.demands[instance.id] = demand
            alive = instance.state is not InstanceState.terminated
            if rng.random() < POLICY_CHANCE and alive:
                low, high = rng.choice(BOUNDS)
                input = {
                    "InstanceId": instance.id,
                    "Mode": rng.choice(["automatic", "automatic", "automatic", "recommend", "off"]),
                    "MinInstanceType": low,
                    "MaxInstanceType": high,
                    "CoolDownSeconds": rng.choice([60, 300, 900]),
                }
                await self._ask("SetInstanceAutosize", input)
