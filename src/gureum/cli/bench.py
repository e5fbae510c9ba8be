"""`gureum bench`: the figures of docs/SPECIFICATION.md, measured here and now, each against its peer."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gureum.bench import (
    calls,
    figures,
    fleet,
    idle,
    launch,
    losses,
    migration,
    network,
    placement,
    propagation,
    san,
    traffic,
)
from gureum.cli.output import FAILED, USAGE, CliError, note, show_json, table
from gureum.errors import GureumError

Measure = Callable[..., list[figures.Figure]]
MEASURES: dict[str, Measure] = {
    "launch": launch.measure,
    "calls": calls.measure,
    "fleet": fleet.measure,
    "idle": idle.measure,
    "placement": placement.measure,
    "propagation": propagation.measure,
    "traffic": traffic.measure,
    "rules": network.measure,
    "san": san.measure,
    "losses": losses.measure,
    "migration": migration.measure,
}
PARTS: dict[str, Measure] = {"copies": san.measure_copies}
"""Of what is measured by another name, too: alone only where it is asked for."""
BUSY_LOAD = 0.7
"""Runnable processes per core that make figures worth less."""


def run(args: list[str], *, as_json: bool) -> int:
    """Measure what is named, or everything. Returns 0 if every promise is kept, else 1."""
    quick = "--quick" in args
    names = [name for name in args if name != "--quick"] or list(MEASURES)
    known = {**MEASURES, **PARTS}
    if unknown := [name for name in names if name not in known]:
        raise CliError(
            f"there is nothing to measure by the name {unknown[0]!r}",
            f"choose from: {', '.join(known)}; --quick, --json",
            exit_code=USAGE,
        )
    machine = figures.machine()
    warn_if_busy(machine)
    loads: dict[str, float] = {}
    found: list[figures.Figure] = []
    for name in dict.fromkeys(names):
        note(f"{name}:")
        with tempfile.TemporaryDirectory(prefix="gureum-bench-") as directory:
            try:
                found += known[name](Path(directory), indented, quick=quick)
            except GureumError as error:
                raise CliError(f"{name} could not be measured: {error}", "gureum doctor") from error
        loads[name] = round(os.getloadavg()[0], 2)
    missed = [figure for figure in found if figure.is_met is False]
    if as_json:
        show_json(
            {"machine": machine, "load_after": loads, "figures": [figure.document() for figure in found]}
        )
    else:
        print(table(figures.HEADER, figures.rows(found)))
    promised = sum(figure.promise is not None for figure in found)
    note(f"{promised - len(missed)} of {promised} promises kept")
    for figure in missed:
        note(f"  missed: {figure.name}")
    return FAILED if missed else 0


def indented(text: str) -> None:
    note(f"    {text}")


def warn_if_busy(machine: dict[str, Any]) -> None:
    note(
        f"{machine['cores']} cores, {machine['cpu']}, {machine['memory_gib']} GiB, Linux {machine['kernel']}"
    )
    load = machine["load"][0] / machine["cores"]
    if load > BUSY_LOAD:
        note(f"this machine is busy (load {load:.1f} per core): figures will be worse than they could be")
