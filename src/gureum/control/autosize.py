"""Which type an instance should have, by what it uses: decided over plain values.

It grows when it was busier than its target for half of the last minutes, to the smallest type that would not
be; it shrinks when for half an hour a smaller one would have been enough, with something to spare. What it
grew to is never too large by the second rule, nor what it shrank to too small by the first. So a constant
load changes it once, and one that the machine cuts off (all of its processors are used) in one direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from gureum.control.filters import gib
from gureum.resources import Autosize
from gureum.services.ec2.instance_types import TYPES, InstanceType, machine_size
from gureum.sizespec import MachineSize

SAMPLE_SECONDS = 10.0
"""As often as hosts measure."""
GAP_SECONDS = 60.0
"""What was not heard of for so long is looked at anew."""
GROW_SAMPLES = 18
"""Three minutes."""
SHRINK_SAMPLES = 180
"""Half an hour."""
MEDIAN = 0.5
"""The percentile that is above the target when it is to grow: a boot or a compiler's run is none."""
UPPER = 0.75
"""The percentile that has to fit into the type that it grows to."""
PEAK = 0.95
"""The one that has to fit into a smaller type."""
SPARE = 0.85
"""Of the target, what a smaller type may be used to: what it would just reach it may exceed in a moment."""
STEPS = 200
"""A sample is a byte, in steps of half a percent."""
MOST, NOT_SAID = 254, 255


class Level(NamedTuple):
    """Shares of what a type has. ``memory`` None: the guest does not say what it uses."""

    cpu: float
    memory: float | None

    def over(self, target: float) -> float:
        """By how much it is above the target, of both together."""
        return max(0.0, self.cpu - target) + max(0.0, (self.memory or 0.0) - target)

    def __str__(self) -> str:
        memory = f" and {100 * self.memory:.0f} % of its memory" if self.memory is not None else ""
        return f"{100 * self.cpu:.0f} % of its vCPUs{memory}"


class Seen(NamedTuple):
    """Percentiles: ``median`` and ``upper`` of the last minutes, ``peak`` of all that counts when it is to
    shrink. None: not looked at for so long yet.
    """

    median: Level | None = None
    upper: Level | None = None
    peak: Level | None = None


class Verdict(NamedTuple):
    """``type``: what it should have now, "" for what it has. ``stopped``: what it should have, and can have
    only after a stop, "" if that is ``type``.
    """

    reason: str
    type: str = ""
    stopped: str = ""


class Window:
    """What a machine used lately, while it was of one type: a few hundred bytes."""

    __slots__ = ("_cpu", "_memory", "at")

    def __init__(self) -> None:
        self._cpu = bytearray()
        self._memory = bytearray()
        self.at = -math.inf

    def take(self, level: Level, now: float) -> None:
        if now < self.at + SAMPLE_SECONDS / 2:
            return  # from a host that says more than it is asked for
        if now > self.at + GAP_SECONDS:
            self._cpu.clear()
            self._memory.clear()
        self.at = now
        self._cpu.append(_byte(level.cpu))
        self._memory.append(_byte(level.memory) if level.memory is not None else NOT_SAID)
        if len(self._cpu) > SHRINK_SAMPLES:
            del self._cpu[0], self._memory[0]

    @property
    def count(self) -> int:
        return len(self._cpu)

    def seen(self) -> Seen:
        if self.count < GROW_SAMPLES:
            return Seen()
        median, upper = self._levels(GROW_SAMPLES, MEDIAN, UPPER)
        [peak] = self._levels(SHRINK_SAMPLES, PEAK) if self.count >= SHRINK_SAMPLES else [None]
        return Seen(median, upper, peak)

    def _levels(self, last: int, *shares: float) -> list[Level]:
        """These percentiles of the last samples."""
        cpu, memory = sorted(self._cpu[-last:]), sorted(self._memory[-last:])
        said = memory[-1] != NOT_SAID
        places = [math.ceil(share * last) - 1 for share in shares]
        return [Level(cpu[at] / STEPS, memory[at] / STEPS if said else None) for at in places]


def _byte(share: float) -> int:
    return min(math.ceil(share * STEPS), MOST)


def within(policy: Autosize, type: InstanceType) -> bool:
    """Whether it is between the policy's bounds, by vCPUs and by memory."""
    return _within(policy.smallest, policy.largest, type)


def _within(smallest: str, largest: str, type: InstanceType) -> bool:
    low, high = TYPES[smallest], TYPES[largest]
    return (
        low.vcpus <= type.vcpus <= high.vcpus and low.memory_bytes <= type.memory_bytes <= high.memory_bytes
    )


def candidates(policy: Autosize, has: InstanceType) -> Sequence[InstanceType]:
    """What an instance may be, the smallest first: of its own family and those of its bounds."""
    return _between(policy.smallest, policy.largest, has.family)


@lru_cache(maxsize=256)
def _between(smallest: str, largest: str, family: str) -> Sequence[InstanceType]:
    families = {family, TYPES[smallest].family, TYPES[largest].family}
    found = [type for type in TYPES.values() if type.family in families and _within(smallest, largest, type)]
    return sorted(found, key=lambda type: _order(type, family))


def _order(type: InstanceType, family: str) -> tuple[int, int, bool, str]:
    """By size; of those that are alike, the one of this family first."""
    return type.vcpus, type.memory_bytes, type.family != family, type.family


class Chooser:
    """For a machine of one type, and what it can have (``size``, None: nothing else) while it runs."""

    def __init__(self, policy: Autosize, has: InstanceType, size: MachineSize | None) -> None:
        self._policy, self._has, self._size = policy, has, size
        self._target = policy.target / 100
        self._types = candidates(policy, has)
        low = TYPES[policy.smallest]
        self._below = has.vcpus < low.vcpus or has.memory_bytes < low.memory_bytes

    def decide(self, seen: Seen) -> Verdict:
        if seen.median is None or seen.upper is None:
            return Verdict("it is not known for long enough what it uses")
        if self._below:
            return self._verdict(f"it is to be a {self._policy.smallest} at least", seen.upper, True)
        if seen.median.over(self._target):
            why = f"in the last {_minutes(GROW_SAMPLES)} it used {seen.upper}"
            return self._verdict(why, seen.upper, True)
        if seen.peak is None:
            return Verdict(
                "it is large enough; whether it is too large is said after it was looked at for "
                f"{_minutes(SHRINK_SAMPLES)}"
            )
        why = f"in the last {_minutes(SHRINK_SAMPLES)} it used at most {seen.peak}"
        return self._verdict(why, seen.peak, False)

    def _verdict(self, why: str, level: Level, grows: bool) -> Verdict:
        """To have the best type, or as near as it can get to that while it runs."""
        choose = self._growth if grows else self._shrinkage
        best = choose(self._types, level)
        if best is None:
            return Verdict(f"{why}; {self._stays(grows)}")
        target = f"the target is {self._policy.target} %"
        why = f"{why}, and {target}: of a {best.name} that is {self._on(best, level)}"
        if self._reaches(best):
            return Verdict(why, type=best.name)
        near = choose([type for type in self._types if self._reaches(type)], level)
        why = f"{why}. It needs a stop to become that: {self._limits()}"
        return Verdict(why, type=near.name if near is not None else "", stopped=best.name)

    def _growth(self, types: Iterable[InstanceType], level: Level) -> InstanceType | None:
        """The smallest that is enough, or what is nearest to that; None if nothing is better than it has."""
        lacks = {
            type.name: self._on(type, level).over(self._target) for type in types if type is not self._has
        }
        name = min(lacks, key=lacks.__getitem__, default="")
        better = bool(name) and (self._below or lacks[name] < level.over(self._target))
        return TYPES[name] if better else None

    def _shrinkage(self, types: Iterable[InstanceType], level: Level) -> InstanceType | None:
        for type in types:
            if _order(type, self._has.family) >= _order(self._has, self._has.family):
                return None
            if not self._on(type, level).over(SPARE * self._target):
                return type
        return None

    def _on(self, type: InstanceType, level: Level) -> Level:
        """What it uses, as shares of another type."""
        cpu, memory = level.cpu * (self._has.vcpus / type.vcpus), level.memory
        if memory is not None:
            memory *= self._has.memory_bytes / type.memory_bytes
        elif type.memory_bytes < self._has.memory_bytes:
            memory = math.inf  # as far as is known
        return Level(cpu, memory)

    def _reaches(self, type: InstanceType) -> bool:
        size = self._size
        return (
            size is not None
            and size.vcpus_min <= type.vcpus <= size.vcpus_max
            and size.memory_min_bytes <= type.memory_bytes <= size.memory_max_bytes
        )

    def _limits(self) -> str:
        if (size := self._size) is None:
            return "its machine keeps its size while it runs"
        vcpus = f"{size.vcpus_min} to {size.vcpus_max} vCPUs"
        memory = f"{gib(size.memory_min_bytes)} to {gib(size.memory_max_bytes)}"
        return f"its machine can have {vcpus} and {memory} while it runs"

    def _stays(self, grows: bool) -> str:
        if grows:
            return f"no type up to its bound {self._policy.largest} would be better"
        return f"no smaller type from its bound {self._policy.smallest} on would be enough"


def decide(policy: Autosize, type: str, size: MachineSize | None, seen: Seen) -> Verdict:
    """``type``: what it has. ``size``: what its host says that its machine can have while it runs."""
    return Chooser(policy, machine_size(type), size).decide(seen)


def _minutes(samples: int) -> str:
    return f"{samples * SAMPLE_SECONDS / 60:g} minutes"
