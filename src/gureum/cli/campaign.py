"""`gureum sim campaign`: very many seeded runs, of all modes, on several processors."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from gureum.cli.options import AsJson
from gureum.cli.output import counted, note, show_json, table

TOLD_SECONDS = 5.0
TOLD_IN_A_LOG_SECONDS = 60.0
SUMS = ("Runs", "VirtualSeconds", "Seconds", "CpuSeconds", "Calls", "Faults", "Writes")
"""Of each mode; seconds are those of its runs, on whatever processor."""


def campaign(
    count: Annotated[int, typer.Argument(metavar="COUNT", min=1)],
    first: Annotated[
        int, typer.Option("--from", metavar="SEED", min=0, help="The first one: goes on where another ended.")
    ] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes. Default: one for each processor.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    from gureum.sim.campaign import Campaign
    from gureum.sim.modes import MODES

    work = Campaign(range(first, first + count), jobs or len(os.sched_getaffinity(0)))
    sums: dict[str, dict[str, float]] = {name: dict.fromkeys(SUMS, 0) for name in MODES}
    violated: tuple[int, str, str] | None = None
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = told = time.monotonic()
    every = TOLD_SECONDS if sys.stderr.isatty() else TOLD_IN_A_LOG_SECONDS
    done = 0
    try:
        for run in work.run():
            done += 1
            found = (1, run.virtual_seconds, run.seconds, run.cpu_seconds, run.calls, run.faults, run.writes)
            for name, value in zip(SUMS, found, strict=True):
                sums[run.mode][name] += value
            if run.violation:
                violated = run.seed, run.mode, run.violation
            if (now := time.monotonic()) > told + every:
                told = now
                note(progress(done, count, now - began, work.next))
    except KeyboardInterrupt:
        note("ended before its end")
    finally:
        signal.signal(signal.SIGTERM, before)
    seconds = time.monotonic() - began
    if as_json:
        show_json(told_of(first, done, work.next, seconds, sums, violated))
    else:
        show(done, seconds, sums)
    if violated is not None:
        seed, mode, text = violated
        note(f"seed {seed} ({mode}): VIOLATED: {text}\n  again: {again_of(seed)}")
    if violated is not None or done < count:
        left = first + count - work.next
        note(f"  to go on: gureum sim campaign {left} --from {work.next}")
        raise typer.Exit(1)


def again_of(seed: int) -> str:
    from gureum.cli.sim import again
    from gureum.sim.modes import MODES, mode

    return again(seed, MODES[mode(seed)])


def progress(done: int, count: int, seconds: float, following: int) -> str:
    rate = done / seconds
    left = (count - done) / rate
    hours = f"{left / 3600:.1f} h" if left > 7200 else f"{left / 60:.0f} min"
    return (
        f"{done} of {count} runs without a violation, {rate:.1f} a second, {hours} to go; next: {following}"
    )


def _total(sums: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in sums.values()) for name in SUMS}


def show(done: int, seconds: float, sums: Mapping[str, Mapping[str, float]]) -> None:
    rows = []
    for mode, each in [*sums.items(), ("all", _total(sums))]:
        hours, cpu = each["VirtualSeconds"] / 3600, each["CpuSeconds"]
        pace = hours / (cpu / 60) if cpu else 0.0
        counts = (f"{each[name]:.0f}" for name in ("Runs", "Calls", "Faults", "Writes"))
        rows.append((mode, *counts, f"{hours:.1f}", f"{each['Seconds']:.0f}", f"{cpu:.0f}", f"{pace:.1f}"))
    heads = ("mode", "runs", "calls", "faults", "writes", "hours", "seconds", "CPU", "hours a CPU minute")
    print(table(heads, rows))
    print(f"{counted(done, 'run')} in {seconds:.0f} s")


def told_of(
    first: int,
    done: int,
    following: int,
    seconds: float,
    sums: Mapping[str, Mapping[str, float]],
    violated: tuple[int, str, str] | None,
) -> dict[str, Any]:
    found = None
    if violated is not None:
        seed, mode, text = violated
        found = {"Seed": seed, "Mode": mode, "Message": text, "Again": again_of(seed)}
    return {
        "Runs": done,
        "From": first,
        "Next": following,
        "Seconds": seconds,
        "Violation": found,
        "Modes": {mode: dict(each) for mode, each in sums.items()},
        "All": _total(sums),
    }
