"""What is to be done to a cloud, from a seed: always the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

HOSTS_AT_ONCE = 0.05
TWO_AT_ONCE = 0.3
ON_TOP = 0.2
"""How often two hosts are lost together, which may be most of them; how often something else besides what
a step is about; and how often the next step does not wait until all is well again.
"""
PAUSE_SECONDS = (2.0, 15.0)
LATER_SECONDS = 12.0


class Kind(NamedTuple):
    """``weight``: how often it is chosen, to the others'. ``seconds``: it lasts, at least and at most."""

    weight: int
    seconds: tuple[float, float]


HOST_KINDS = {
    "host killed": Kind(4, (5, 45)),
    "host stopped": Kind(3, (2, 45)),
    "host cut off": Kind(3, (3, 45)),
    "host away from manager": Kind(2, (3, 50)),
    "host away from storage": Kind(2, (3, 75)),
    "host unplugged": Kind(2, (3, 45)),
}
"""Of which two hosts at most have one at a time."""
OTHER_KINDS = {
    "agent killed": Kind(3, (0, 0)),
    "warden killed": Kind(2, (0, 0)),
    "worker killed": Kind(2, (0, 0)),
    "machine killed": Kind(3, (0, 0)),
    "manager killed": Kind(3, (0, 0)),
    "osd killed": Kind(3, (0, 0)),
    "osd stopped": Kind(1, (3, 40)),
    "mon killed": Kind(2, (0, 0)),
    "storage stopped": Kind(1, (2, 20)),
}
KINDS = {**HOST_KINDS, **OTHER_KINDS}


class Fault(NamedTuple):
    """``target``: which one of those that there are, counted round and round. ``after``: seconds from the
    step's beginning.
    """

    kind: str
    target: int
    seconds: float
    after: float = 0.0


class Step(NamedTuple):
    faults: tuple[Fault, ...]
    pause: float
    waits: bool
    """Whether all has to be well again before the next step."""


def steps(seed: int) -> Iterator[Step]:
    """Without end."""
    chance = random.Random(seed)
    while True:
        first = _fault(chance, KINDS)
        faults = [first]
        if first.kind in HOST_KINDS and chance.random() < HOSTS_AT_ONCE:
            other = _fault(chance, HOST_KINDS, chance.uniform(0, LATER_SECONDS))
            faults.append(other._replace(target=first.target + 1))
        elif chance.random() < TWO_AT_ONCE:
            faults.append(_fault(chance, OTHER_KINDS, chance.uniform(0, LATER_SECONDS)))
        yield Step(tuple(faults), chance.uniform(*PAUSE_SECONDS), chance.random() >= ON_TOP)


def _fault(chance: random.Random, kinds: dict[str, Kind], after: float = 0.0) -> Fault:
    [name] = chance.choices(list(kinds), [kind.weight for kind in kinds.values()])
    return Fault(name, chance.randrange(1 << 16), chance.uniform(*kinds[name].seconds), after)
