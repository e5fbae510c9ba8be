"""Hosts that are parked and woken in scenarios: what is asked, and what goes wrong."""

from __future__ import annotations

import logging
from typing import Any

from gureum.resources import PowerMode
from gureum.sim.acts import Options, Words, act
from gureum.sim.powers import AGENT
from gureum.sim.stage import Stage
from gureum.sim.violation import Violation
from gureum.sim.words import Names, Wrong

log = logging.getLogger("gureum.sim.scenario")


@act(
    "switch HOST... [seconds=NUMBER]", "Fleet's ModifyHostPower; seconds: in which it has to come", asks=True
)
async def switch(stage: Stage, words: Words, options: Options) -> bool:
    wait = {"WakeSeconds": int(options["seconds"])} if "seconds" in options else {}
    answers = [
        await stage.call("ModifyHostPower", "fleet", HostId=host, Agent=AGENT, **wait) for host in words
    ]
    return None not in answers


def _known_mode(_: Names, words: Words, __: Options) -> None:
    if words[0] not in list(PowerMode):
        raise Wrong(f"{words[0]!r} is none of: {', '.join(PowerMode)}")


@act(
    "fence-power none|off|reboot",
    "Fleet's ModifyFleetSettings: what is done with the power of a host that is fenced",
    asks=True,
)
async def fence_power(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("ModifyFleetSettings", "fleet", FencePower=words[0]) is not None


@act(
    "parking WORD [rest=NUMBER] [awake=NUMBER] [headroom=NUMBER] [empty]",
    "Fleet's ModifyFleetSettings: the PowerMode, and when a host is parked; empty: hosts are emptied for it",
    asks=True,
    check=_known_mode,
)
async def parking(stage: Stage, words: Words, options: Options) -> bool:
    names = {"rest": "RestSeconds", "awake": "AwakeHosts", "headroom": "HeadroomPercent"}
    input: dict[str, Any] = {name: int(options[key]) for key, name in names.items() if key in options}
    if "empty" in options:
        input["EmptyHosts"] = True
    return await stage.call("ModifyFleetSettings", "fleet", PowerMode=words[0], **input) is not None


@act("expect to-empty NUMBER", "of so many hosts the cloud says that they could be emptied")
async def expect_to_empty(stage: Stage, words: Words, options: Options) -> bool:
    answer = await stage.call("DescribeRecommendations", "fleet")
    if answer is None:
        raise Violation("the cloud does not answer")
    for each in answer["HostsToEmpty"]:
        log.info("(%s; %s)", each["HostId"], each["Reason"])
    if len(answer["HostsToEmpty"]) != int(words[0]):
        raise Violation(f"{len(answer['HostsToEmpty'])} could be emptied")
    return True


@act("park HOST", "Fleet's ParkHost", asks=True)
async def park(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("ParkHost", "fleet", HostId=words[0]) is not None


@act("wake HOST", "Fleet's WakeHost", asks=True)
async def wake(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("WakeHost", "fleet", HostId=words[0]) is not None


@act(
    "break switch|late|boot HOST",
    "its fence agent fails, and what it was told comes late or never, or it hangs when it starts, until mend",
)
async def break_power(stage: Stage, words: Words, options: Options) -> bool:
    _break(stage, words, broken=True)
    return True


@act("mend switch|late|boot HOST", "that works again")
async def mend_power(stage: Stage, words: Words, options: Options) -> bool:
    _break(stage, words, broken=False)
    return True


def _break(stage: Stage, words: Words, *, broken: bool) -> None:
    host = stage.host(words[1])
    if words[0] == "switch":
        host.switch_broken = broken
    elif words[0] == "late":
        host.switch_late = broken
    else:
        host.hangs_at_boot = broken
