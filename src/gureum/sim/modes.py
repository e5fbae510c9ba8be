"""What runs can be like: the modes that a campaign goes through, as options of ``simulate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

QUIET_PACE_SECONDS = 60.0

MODES: Mapping[str, Mapping[str, Any]] = {
    "one host": {},
    "two hosts": {"hosts": 2},
    "networks": {"hosts": 2, "networks": True},
    "shared pool": {"hosts": 3, "shared": True},
    "several writers": {"hosts": 4, "shared": True, "several": True},
    "lost hosts": {"hosts": 3, "shared": True, "ha": True},
    "operated": {"hosts": 3, "shared": True, "ha": True, "operated": True, "steps": 80},
    "migrations": {"hosts": 3, "shared": True, "migrating": True},
    "own disks": {"hosts": 3, "shared": True, "migrating": True, "own_disks": True},
    "lost and migrating": {"hosts": 4, "shared": True, "ha": True, "migrating": True, "steps": 100},
    "balanced": {"hosts": 3, "shared": True, "balancing": True, "pace": 40.0, "steps": 30},
    "autosized": {"hosts": 3, "shared": True, "autosizing": True, "pace": 60.0, "steps": 30},
    "autosized, lost hosts": {
        "hosts": 3,
        "shared": True,
        "ha": True,
        "balancing": True,
        "autosizing": True,
        "pace": 60.0,
        "steps": 20,
    },
    "parked": {"hosts": 3, "shared": True, "parking": True, "pace": 25.0, "steps": 40},
    "parked, lost hosts": {
        "hosts": 4,
        "shared": True,
        "ha": True,
        "operated": True,
        "parking": True,
        "pace": 25.0,
        "steps": 40,
    },
    "quiet": {"pace": QUIET_PACE_SECONDS, "steps": 20},
    "quiet, lost hosts": {"hosts": 3, "shared": True, "ha": True, "pace": QUIET_PACE_SECONDS, "steps": 10},
    "lost hosts, two pools": {"hosts": 4, "shared": True, "ha": True, "pools": True, "steps": 80},
    "migrations, two pools": {"hosts": 3, "shared": True, "ha": True, "migrating": True, "pools": True},
}


class Seeded(NamedTuple):
    """A run of a campaign, in which each seed has a run of each mode."""

    mode: str
    seed: int


def runs(first: int, count: int) -> Iterator[Seeded]:
    """So many runs, from seed ``first`` on."""
    names = list(MODES)
    return (Seeded(names[n % len(names)], first + n // len(names)) for n in range(count))
