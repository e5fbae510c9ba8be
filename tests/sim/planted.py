"""What the simulation finds of a fault that was put in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from gureum.sim.campaign import one
from gureum.sim.modes import MODES, Seeded
from gureum.sim.run import simulate

SEEDS_MAX = 40
"""How many may go by before one finds a fault that was put in."""


def violation(seed: int, *of: Any, **options: Any) -> str:
    """What the simulation finds, "" for nothing."""
    try:
        simulate(seed, *of, **options)
    except AssertionError as error:
        return str(error)
    return ""


def first(pattern: str, runs: Iterable[str]) -> None:
    """The first run that finds anything must find this. ``runs``: what each finds."""
    said = next(filter(None, runs), "nothing")
    assert re.search(pattern, said), said


def in_modes(prefix: str) -> Iterator[str]:
    """What the campaign's runs find in its modes that begin so."""
    for seed in range(SEEDS_MAX):
        for mode in MODES:
            if mode.startswith(prefix):
                yield one(Seeded(mode, seed)).violation


def some(pattern: str, runs: Iterable[str]) -> None:
    """One of the runs must find this; those before it may find what comes of it."""
    found: list[str] = []
    for said in filter(None, runs):
        if re.search(pattern, said):
            return
        found.append(said)
    raise AssertionError(f"no run found {pattern!r}, but {found or 'nothing'}")
