"""What the simulation finds of a fault that was put in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gureum.sim.run import simulate


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
