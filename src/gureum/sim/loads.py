"""Commands of scenarios about how busy guests are, and what becomes of it."""

from __future__ import annotations

import logging

from gureum.resources import BalanceMode, InstanceMigration
from gureum.sim.acts import Options, Words, act
from gureum.sim.demands import Demand
from gureum.sim.stage import Stage
from gureum.sim.violation import Violation
from gureum.sim.words import Names, Wrong

log = logging.getLogger("gureum.sim.scenario")


@act(
    "load INSTANCE... NUMBER [every=NUMBER]",
    "the percentage of its vCPUs that a guest wants; every: for so long, and then none for as long",
)
async def load(stage: Stage, words: Words, options: Options) -> bool:
    *names, share = words
    for name in names:
        demand = Demand(float(share) / 100, float(options.get("every", 0)))
        stage.world.demands[await stage.id(name)] = demand
    return True


def _known_mode(_: Names, words: Words, __: Options) -> None:
    if words[0] not in list(BalanceMode):
        raise Wrong(f"{words[0]!r} is none of: {', '.join(BalanceMode)}")


@act("balance WORD", "Fleet's ModifyFleetSettings: off, recommend or automatic", asks=True, check=_known_mode)
async def balance(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("ModifyFleetSettings", "fleet", BalanceMode=words[0]) is not None


@act("rebalance", "Fleet's Rebalance: what is recommended is done once", asks=True)
async def rebalance(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("Rebalance", "fleet") is not None


@act("expect recommendations NUMBER", "the cloud recommends so many moves")
async def expect_recommendations(stage: Stage, words: Words, options: Options) -> bool:
    answer = await stage.call("DescribeRecommendations", "fleet")
    if answer is None:
        raise Violation("the cloud does not answer")
    found = answer["Recommendations"]
    for each in found:
        log.info("(%s to %s; %s)", each["InstanceId"], each["TargetHostId"], each["Reason"])
    if len(found) != int(words[0]):
        raise Violation(f"{len(found)} moves are recommended")
    return True


@act("expect migrations NUMBER", "so many migrations were begun, whatever became of them")
async def expect_migrations(stage: Stage, words: Words, options: Options) -> bool:
    async with stage.world.store.read() as reader:
        found = await reader.count(InstanceMigration)
    if found != int(words[0]):
        raise Violation(f"{found} migrations were begun")
    return True


@act("wait-for HOST below NUMBER within NUMBER", "until its machines want less than that percentage of it")
async def wait_for_relief(stage: Stage, words: Words, options: Options) -> bool:
    async def wrong() -> str:
        host = stage.host(words[0])
        machines = host.machines.running()
        wanted = sum(
            stage.world.demands[id].share * host.machines.machines[id].config.vcpus for id in machines
        )
        percent = 100 * wanted / host.cpus
        return "" if percent < float(words[1]) else f"{words[0]} is at {percent:.0f} %"

    await stage.until(wrong, float(words[2]))
    return True
