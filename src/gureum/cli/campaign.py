"""`gureum sim campaign`: very many seeded runs, of all modes, on several processors."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gureum import __version__
from gureum.cli.options import AsJson
from gureum.cli.output import CliError, counted, note, show_json, table

if TYPE_CHECKING:
    from gureum.sim.campaign import Campaign
    from gureum.sim.campaign_ledger import Build, CampaignLedger, Session

CHECKOUT = Path(__file__).resolve().parents[3]
GIT_SECONDS_MAX = 30.0
TOLD_SECONDS = 5.0
TOLD_IN_A_LOG_SECONDS = 60.0
SAVED_SECONDS = 5.0
VIOLATIONS_MAX, OF_A_LEDGER_MAX = 1, 10
INTERRUPTED = 130
SUMS = ("Runs", "VirtualSeconds", "Seconds", "CpuSeconds", "Calls", "Faults", "Writes")
"""Of each mode; seconds are those of its runs, on whatever processor."""


def campaign(
    count: Annotated[int, typer.Argument(metavar="COUNT", min=1, help="Runs, with those of the ledger.")],
    first: Annotated[
        int,
        typer.Option("--from", metavar="SEED", min=0, help="The first seed; each has a run of each mode."),
    ] = 0,
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keeps what was done. What it has already is not done again.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Only tell what the ledger has.")] = False,
    violations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=f"End after so many. Default: {VIOLATIONS_MAX}; {OF_A_LEDGER_MAX} with a ledger.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes. Default: one for each processor.", show_default=False),
    ] = None,
    nice: Annotated[int, typer.Option(min=0, max=19, help="Of these processes: 19 gives way to all.")] = 10,
    as_json: AsJson = False,
) -> None:
    from gureum.sim import campaign as running
    from gureum.sim.campaign_ledger import Session
    from gureum.sim.modes import runs

    kept, made, interrupted = read(ledger), build(), False
    if not show:
        with written(kept):
            jobs = jobs or len(os.sched_getaffinity(0))
            todo = list(kept.left(runs(first, count), made))
            session = Session(
                command=shlex.join(["gureum", *sys.argv[1:]]),
                version=made.version,
                commit=made.commit,
                jobs=jobs,
                nice=nice,
                began=_utc(),
            )
            most = violations or (VIOLATIONS_MAX if ledger is None else OF_A_LEDGER_MAX)
            work = running.Campaign(todo, jobs, nice)
            if todo:
                interrupted = _work(work, kept, made, session, most, count, len(todo))
    done = sum(map(kept.has, runs(first, count)))
    following = next((run.seed for run in runs(first, count) if not kept.has(run)), None)
    if as_json:
        show_json(told_of(kept, count, done, following))
    else:
        show_all(kept, count, done)
    for each in kept.open_violations():
        note(f"seed {each.seed} ({each.mode}): VIOLATED: {each.message}\n  again: {each.again}")
    if ledger is None and following is not None:
        note(f"  to go on: gureum sim campaign {count - (following - first) * _modes()} --from {following}")
    if done < count or next(kept.open_violations(), None) is not None:
        raise typer.Exit(INTERRUPTED if interrupted else 1)


def _modes() -> int:
    from gureum.sim.modes import MODES

    return len(MODES)


def read(path: Path | None) -> "CampaignLedger":
    from gureum.sim.campaign_ledger import CampaignLedger, LedgerError

    try:
        return CampaignLedger(path)
    except (LedgerError, OSError) as error:
        raise CliError(str(error), "name another file with --ledger") from error


@contextmanager
def written(kept: "CampaignLedger") -> Iterator[None]:
    """While it is ours, and cannot be another's."""
    from gureum.sim.campaign_ledger import LedgerError

    try:
        kept.open()
    except (LedgerError, OSError) as error:
        raise CliError(str(error), "--show tells what is done; or name another file with --ledger") from error
    try:
        yield
    finally:
        kept.close()


def build() -> "Build":
    """Which code this is: of a checkout, the commit."""
    from gureum.sim.campaign_ledger import CHANGED, Build

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_SECONDS_MAX,
        )
        return done.stdout.strip()

    if not (CHECKOUT / ".git").exists():
        return Build(__version__, "")
    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return Build(__version__, commit + CHANGED * bool(git("status", "--porcelain", "--", "src")))
    except (OSError, subprocess.SubprocessError):
        return Build(__version__, "")


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def stopped_by_signals(work: "Campaign") -> Iterator[list[int]]:
    """SIGINT and SIGTERM end it when the runs under way have ended; a second one at once. Yields those."""
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        work.stop()

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(
    work: "Campaign",
    kept: "CampaignLedger",
    made: "Build",
    session: "Session",
    most: int,
    count: int,
    left: int,
) -> bool:
    """Do the runs that are left of ``count``, up to ``most`` violations. Whether it was interrupted."""
    began = told = saved = time.monotonic()
    every = TOLD_SECONDS if sys.stderr.isatty() else TOLD_IN_A_LOG_SECONDS
    found = 0

    def save() -> None:
        session.ended, session.seconds = _utc(), time.monotonic() - began
        kept.save()

    kept.begin(session)
    save()
    with stopped_by_signals(work) as signals:
        try:
            for run in work.run():
                session.runs += 1
                session.cpu_seconds += run.cpu_seconds
                kept.add(run, made, again_of(run.mode, run.seed))
                if run.violation:
                    found += 1
                    note(f"seed {run.seed} ({run.mode}): VIOLATED: {run.violation}")
                    if found == most:
                        work.stop()
                now = time.monotonic()
                if now > saved + SAVED_SECONDS:
                    saved = now
                    save()
                if now > told + every:
                    told = now
                    note(progress(session.runs, left, count, now - began, found))
        finally:
            save()
    if signals:
        note("ended before its end")
    return bool(signals)


def again_of(mode: str, seed: int) -> str:
    from gureum.cli.sim import again
    from gureum.sim.modes import MODES

    return again(seed, MODES[mode])


def progress(done: int, left: int, count: int, seconds: float, found: int) -> str:
    """``done`` of those that were ``left`` of ``count`` at the beginning, in so many seconds."""
    rate = done / seconds
    rest = (left - done) / rate
    hours = f"{rest / 3600:.1f} h" if rest > 7200 else f"{rest / 60:.0f} min"
    whole = count - left + done
    return (
        f"{whole} of {count} runs ({whole / count:.1%}), {counted(found, 'violation')}, "
        f"{rate:.1f} a second, {hours} to go"
    )


def sums_of(kept: "CampaignLedger") -> dict[str, dict[str, float]]:
    """By mode, of all builds."""
    from gureum.sim.modes import MODES

    found = {mode: dict.fromkeys(SUMS, 0.0) for mode in [*MODES, *kept.book.modes]}
    for mode, tallies in kept.book.modes.items():
        for each in tallies:
            values = (
                *(each.runs, each.virtual_seconds, each.seconds, each.cpu_seconds),
                *(each.calls, each.faults, each.writes),
            )
            for name, value in zip(SUMS, values, strict=True):
                found[mode][name] += value
    return found


def builds_of(kept: "CampaignLedger") -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for tallies in kept.book.modes.values():
        for each in tallies:
            sums = found.setdefault(f"{each.version} {each.commit}".rstrip(), {"Runs": 0, "CpuSeconds": 0.0})
            sums["Runs"] += each.runs
            sums["CpuSeconds"] += each.cpu_seconds
    return found


def _total(sums: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in sums.values()) for name in SUMS}


def _seconds(kept: "CampaignLedger") -> float:
    return sum(session.seconds for session in kept.book.sessions)


def show_all(kept: "CampaignLedger", count: int, done: int) -> None:
    sums, rows = sums_of(kept), []
    for mode, each in [*sums.items(), ("all", _total(sums))]:
        hours, cpu = each["VirtualSeconds"] / 3600, each["CpuSeconds"]
        pace = hours / (cpu / 60) if cpu else 0.0
        counts = (f"{each[name]:.0f}" for name in ("Runs", "Calls", "Faults", "Writes"))
        rows.append((mode, *counts, f"{hours:.1f}", f"{each['Seconds']:.0f}", f"{cpu:.0f}", f"{pace:.1f}"))
    heads = ("mode", "runs", "calls", "faults", "writes", "hours", "seconds", "CPU", "hours a CPU minute")
    print(table(heads, rows))
    for code, each in builds_of(kept).items():
        print(f"{code}: {counted(int(each['Runs']), 'run')}, {each['CpuSeconds']:.0f} s of processor time")
    sessions = counted(len(kept.book.sessions), "session")
    print(f"{done} of {counted(count, 'run')} in {_seconds(kept):.0f} s, {sessions}")


def told_of(kept: "CampaignLedger", count: int, done: int, following: int | None) -> dict[str, Any]:
    import msgspec

    sums = sums_of(kept)
    return {
        "Count": count,
        "Done": done,
        "Next": following,
        "Seconds": _seconds(kept),
        "Violations": [msgspec.to_builtins(each) for each in kept.book.violations],
        "Modes": sums,
        "All": _total(sums),
        "Builds": builds_of(kept),
        "Sessions": [msgspec.to_builtins(each) for each in kept.book.sessions],
    }
