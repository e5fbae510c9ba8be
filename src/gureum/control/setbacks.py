"""For how long no host is emptied after one had to be woken, or could not be emptied.

What was gained was less than thought, and would be so again. It stands in the store, for whichever manager
leads, and is asked of all hosts that can stand in for each other: else they would take turns.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from gureum.control.fleet import Fleet
from gureum.control.outlook import domain
from gureum.env import Env
from gureum.resources import Host, HostPower, Setback
from gureum.store.base import Reader, Transaction

REST_SECONDS, REST_SECONDS_MAX = 900.0, 4 * 3600.0
"""After one, and twice as long each time that it happens soon again, up to this."""


def rest_seconds(setback: Setback) -> float:
    return min(REST_SECONDS_MAX, REST_SECONDS * 2.0 ** (setback.count - 1))


def left_seconds(powers: Iterable[HostPower], now: float) -> float:
    """How much of the rest is left. ``powers``: of the hosts that can stand in for each other."""
    last = _last(powers)
    if last is None or now < last.at:  # the clock was put back
        return 0.0
    return max(0.0, last.at + rest_seconds(last) - now)


def _last(powers: Iterable[HostPower]) -> Setback | None:
    return max((each.setback for each in powers if each.setback), key=lambda each: each.at, default=None)


def following(last: Setback | None, now: float) -> Setback:
    """What happens at once counts once, and what is long ago does not."""
    if last is None or not last.at <= now < last.at + 2 * rest_seconds(last):
        return Setback(count=1, at=now)
    soon = now < last.at + REST_SECONDS
    return Setback(count=last.count if soon else last.count + 1, at=now)


async def note(tx: Transaction, env: Env, host: Host) -> None:
    """The host was woken, or could not be emptied."""
    power = await tx.get(HostPower, host.id)
    if power is not None:
        last = _last(await of_area(tx, host))
        await tx.put(replace(power, setback=following(last, env.now())))


async def of_area(reader: Reader, host: Host) -> list[HostPower]:
    """The powers of the hosts that can stand in for this one."""
    fleet = await reader.tally(Fleet)
    here = {each.host.id for each in fleet.candidates(domain(fleet, host.zone))}
    return await reader.get_many(HostPower, here)
