"""Upgrades of hosts in scenarios: the operator's command, and what is asked and waited for."""

from __future__ import annotations

from typing import Any

from gureum.resources import Upgrade, UpgradeState
from gureum.sim.acts import Options, Words, act
from gureum.sim.stage import Stage
from gureum.sim.words import Names, Wrong


def _known_end(_: Names, words: Words, __: Options) -> None:
    if words[0] not in list(UpgradeState):
        raise Wrong(f"an upgrade is never {words[0]!r}, but: {', '.join(UpgradeState)}")


@act(
    "upgrade HOST... [evacuate] [at-once=NUMBER] [seconds=NUMBER]",
    "Fleet's StartUpgrade; evacuate: each is emptied, and off and on again; seconds: for each step",
    asks=True,
)
async def upgrade(stage: Stage, words: Words, options: Options) -> bool:
    evacuate = "evacuate" in options
    input: dict[str, Any] = {"HostIds": list(words), "Evacuate": evacuate, "Reboots": evacuate}
    if "at-once" in options:
        input["AtOnce"] = int(options["at-once"])
    if "seconds" in options:
        input["WaitSeconds"] = int(options["seconds"])
    return await stage.call("StartUpgrade", "fleet", **input) is not None


@act("cancel-upgrade", "Fleet's CancelUpgrade, of the last one", asks=True)
async def cancel_upgrade(stage: Stage, words: Words, options: Options) -> bool:
    last = await _last(stage)
    return last is not None and await stage.call("CancelUpgrade", "fleet", UpgradeId=last.id) is not None


@act("break upgrades", "the operator's command fails, until mend")
async def break_upgrades(stage: Stage, words: Words, options: Options) -> bool:
    stage.world.hook_error.text = "told to fail"
    return True


@act("mend upgrades", "it works again")
async def mend_upgrades(stage: Stage, words: Words, options: Options) -> bool:
    stage.world.hook_error.text = ""
    return True


@act("wait-for upgrade WORD within NUMBER", "until the last one is so", check=_known_end)
async def wait_for_upgrade(stage: Stage, words: Words, options: Options) -> bool:
    async def wrong() -> str:
        last = await _last(stage)
        if last is None:
            return "nothing was upgraded"
        return "" if last.state == words[0] else f"the upgrade is {last.state}: {last.message}"

    await stage.until(wrong, float(words[1]))
    return True


async def _last(stage: Stage) -> Upgrade | None:
    async with stage.world.store.read() as reader:
        return max(await reader.find(Upgrade), key=lambda each: (each.began, each.id), default=None)
