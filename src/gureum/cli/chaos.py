"""`gureum bench chaos`: hosts, processes and disks die at random for a while, and nothing may come of it."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path

import msgspec

from gureum.bench import figures
from gureum.bench.chaos.report import Report
from gureum.bench.chaos.run import Run
from gureum.bench.san import ended_cloud
from gureum.cli.bench import indented, warn_if_busy
from gureum.cli.config import default_base
from gureum.cli.output import FAILED, CliError, note, show_json, table
from gureum.errors import GureumError

MINUTES = 60.0
SHOWN_MAX = 20


def run(minutes: float | None, seed: int | None, *, as_json: bool) -> int:
    """Returns 0 if nothing was as it must not be, else 1, and keeps the cloud's directory."""
    machine = figures.machine()
    warn_if_busy(machine)
    seed = secrets.randbelow(1 << 16) if seed is None else seed
    note(f"chaos: {minutes or MINUTES:g} minutes, seed {seed}")
    directory = default_base() / "bench-chaos"
    with ended_cloud(directory) as cloud, tempfile.TemporaryDirectory(prefix="gureum-bench-") as scratch:
        chaos = Run(cloud, Path(scratch), seed, indented)
        try:
            chaos.run((minutes or MINUTES) * 60)
        except GureumError as error:
            chaos.violated(f"it could not go on: {error}")
    report = chaos.report
    if not report.violations:
        shutil.rmtree(directory, ignore_errors=True)
    if as_json:
        show_json({"machine": machine, **msgspec.to_builtins(report)})
    else:
        show(report)
    if not report.violations:
        return 0
    raise CliError(
        f"{len(report.violations)} things were as they must not be",
        f"look at {directory / 'log'}; the same faults again: gureum bench chaos --seed {seed}",
        exit_code=FAILED,
        detail="\n".join(f"  {each.at:.0f} s: {each.words}" for each in report.violations[:SHOWN_MAX]),
    )


def show(report: Report) -> None:
    print(table(figures.HEADER, figures.rows(report.figures())))
    for id, seconds in report.longest_waits.items():
        print(f"{id}: {seconds:.1f} s at most without an acknowledged write")
