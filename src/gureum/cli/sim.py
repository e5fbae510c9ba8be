"""`gureum sim ...`: the cloud on virtual time: seeded runs, and named situations."""

import difflib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.campaign import campaign
from gureum.cli.commands import COMMANDS
from gureum.cli.options import MARKUP, AsJson
from gureum.cli.output import USAGE, CliError, counted, note, show_json, table

app = typer.Typer(help=COMMANDS["sim"].help, no_args_is_help=True, rich_markup_mode=MARKUP)

SCENARIOS = Path(__file__).resolve().parents[3] / "tests" / "sim" / "scenarios"
PROGRESS_SECONDS = 5.0

Hosts = Annotated[int, typer.Option(min=1, help="How many hosts the cloud has.")]
Shared = Annotated[bool, typer.Option("--shared", help="With a shared pool, as Ceph is; needs 2 hosts.")]
Networks = Annotated[bool, typer.Option("--networks", help="Most calls are about VPCs.")]
Several = Annotated[
    bool, typer.Option("--several", help="Many calls are about volumes that several instances have.")
]
Ha = Annotated[
    bool, typer.Option("--ha", help="With a shared pool; what ran on a host that is lost runs elsewhere.")
]
Migrating = Annotated[
    bool, typer.Option("--migrating", help="With a shared pool; many calls migrate and resize instances.")
]
OwnDisks = Annotated[
    bool, typer.Option("--own-disks", help="With a shared pool; most volumes are in hosts' own pools.")
]
Balancing = Annotated[
    bool, typer.Option("--balancing", help="With a shared pool; guests are busy, and hosts are relieved.")
]
Autosizing = Annotated[
    bool,
    typer.Option("--autosizing", help="With a shared pool; guests want more and less, and grow and shrink."),
]
Parking = Annotated[
    bool, typer.Option("--parking", help="With a shared pool; hosts are switched off, and on when needed.")
]
Pools = Annotated[
    bool, typer.Option("--pools", help="With --ha; there are two shared pools, and one may be away.")
]
Operated = Annotated[
    bool, typer.Option("--operated", help="With --ha; an operator drains, fences and upgrades hosts.")
]
Steps = Annotated[int, typer.Option(min=1, help="API calls in a run.")]
Pace = Annotated[
    float, typer.Option(min=0.01, metavar="SECONDS", help="From call to call, in the mean; 60: quiet hours.")
]
CrashAt = Annotated[
    str | None,
    typer.Option(
        metavar="POINT",
        help="The only fault: who reaches this crash point first dies there.",
        show_default=False,
    ),
]


def options(
    hosts: int,
    shared: bool,
    networks: bool,
    several: bool,
    ha: bool,
    migrating: bool,
    own_disks: bool,
    balancing: bool,
    autosizing: bool,
    operated: bool,
    parking: bool,
    pools: bool,
    steps: int,
    pace: float,
    crash_at: str | None,
) -> dict[str, Any]:
    """As ``simulate`` takes them."""
    ha = ha or operated or pools
    shared = shared or several or ha or migrating or own_disks or balancing or autosizing or parking
    if shared and hosts < 2:
        raise CliError("a shared pool is for two hosts and more", "add --hosts 3", exit_code=USAGE)
    return {
        "steps": steps,
        "hosts": hosts,
        "shared": shared,
        "networks": networks,
        "several": several,
        "ha": ha,
        "migrating": migrating,
        "own_disks": own_disks,
        "balancing": balancing,
        "autosizing": autosizing,
        "operated": operated,
        "parking": parking,
        "pools": pools,
        "pace": pace,
        "crash_at": crash_at or "",
    }


def again(seed: int, chosen: Mapping[str, Any]) -> str:
    """The command that replays this run."""
    words = [f"gureum sim run {seed}"]
    defaults = {"steps": 60, "hosts": 1, "pace": 0.7, "crash_at": ""}
    for name, value in chosen.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not False and value != defaults[name]:
            words.append(f"{option} {value:g}" if name == "pace" else f"{option} {value}")
    return " ".join(words)


def simulated(seed: int, chosen: dict[str, Any]) -> tuple[Any, str]:
    """What came out, and what was violated, "" for nothing."""
    from gureum.sim.run import simulate

    try:
        return simulate(seed, **chosen), ""
    except Exception as error:
        # A violation says all that there is to say; of anything else its kind is news.
        said = str(error)
        return None, said if isinstance(error, AssertionError) and said else repr(error)


@app.command("run", help="Run one seed, the same each time, and print what happens in it.")
def run(
    seed: Annotated[int, typer.Argument(metavar="SEED")],
    hosts: Hosts = 1,
    shared: Shared = False,
    networks: Networks = False,
    several: Several = False,
    ha: Ha = False,
    migrating: Migrating = False,
    own_disks: OwnDisks = False,
    balancing: Balancing = False,
    autosizing: Autosizing = False,
    operated: Operated = False,
    parking: Parking = False,
    pools: Pools = False,
    steps: Steps = 60,
    pace: Pace = 0.7,
    crash_at: CrashAt = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.")] = False,
    as_json: AsJson = False,
) -> None:
    from gureum.sim.timeline import Timeline

    chosen = options(
        hosts,
        shared,
        networks,
        several,
        ha,
        migrating,
        own_disks,
        balancing,
        autosizing,
        operated,
        parking,
        pools,
        steps,
        pace,
        crash_at,
    )
    logging.getLogger("gureum").propagate = False
    if quiet:
        timeline = None
        outcome, violated = simulated(seed, chosen)
    else:
        timeline = Timeline()
        with timeline:
            outcome, violated = simulated(seed, chosen)
        violated = timeline.named(violated)
    lines = list(timeline.lines()) if timeline is not None else []
    if as_json:
        found = (
            {
                "VirtualSeconds": outcome.virtual_seconds,
                "Digest": outcome.digest,
                "Answers": dict(outcome.answers),
                "Faults": dict(outcome.faults),
                "Crashes": dict(outcome.crashes),
            }
            if outcome is not None
            else {}
        )
        show_json({"Seed": seed, "Violation": violated, **found, "Timeline": lines})
    else:
        for line in lines:
            print(line)
        if outcome is not None:
            calls = counted(outcome.answers.total(), "call")
            faults = counted(outcome.faults.total() + outcome.crashes.total(), "fault")
            print(f"seed {seed}: {calls}, {faults}, {outcome.virtual_seconds:.0f} s, all as it must be")
            print(f"digest {outcome.digest}")
        else:
            print(f"seed {seed}: VIOLATED: {violated}")
    if violated:
        raise typer.Exit(1)


@app.command("runs", help="Run many seeds, and tell of those in which something was violated.")
def runs(
    count: Annotated[int, typer.Argument(metavar="COUNT", min=1)],
    first: Annotated[int, typer.Option("--from", metavar="SEED", help="The first one.")] = 0,
    hosts: Hosts = 1,
    shared: Shared = False,
    networks: Networks = False,
    several: Several = False,
    ha: Ha = False,
    migrating: Migrating = False,
    own_disks: OwnDisks = False,
    balancing: Balancing = False,
    autosizing: Autosizing = False,
    operated: Operated = False,
    parking: Parking = False,
    pools: Pools = False,
    steps: Steps = 60,
    pace: Pace = 0.7,
    crash_at: CrashAt = None,
    as_json: AsJson = False,
) -> None:
    from gureum.sim.run import hurry

    chosen = options(
        hosts,
        shared,
        networks,
        several,
        ha,
        migrating,
        own_disks,
        balancing,
        autosizing,
        operated,
        parking,
        pools,
        steps,
        pace,
        crash_at,
    )
    logging.getLogger("gureum").propagate = False
    hurry()
    violations: dict[int, str] = {}
    virtual, began, told, cpu = 0.0, time.monotonic(), time.monotonic(), time.process_time()
    for done, seed in enumerate(range(first, first + count), 1):
        outcome, violated = simulated(seed, chosen)
        if outcome is None:
            violations[seed] = violated
            note(f"seed {seed}: VIOLATED: {violated}\n  again: {again(seed, chosen)}")
        else:
            virtual += outcome.virtual_seconds
        if (now := time.monotonic()) > told + PROGRESS_SECONDS and done < count:
            told = now
            left = (now - began) / done * (count - done)
            note(f"{done} of {count} runs, {counted(len(violations), 'violation')}, {left:.0f} s to go")
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    hours_a_minute = virtual / 3600 / (cpu / 60)
    if as_json:
        show_json(
            {
                "Runs": count,
                "From": first,
                "Violations": [{"Seed": seed, "Message": text} for seed, text in violations.items()],
                "VirtualSeconds": virtual,
                "Seconds": seconds,
                "CpuSeconds": cpu,
                "VirtualHoursPerCpuMinute": hours_a_minute,
            }
        )
    else:
        print(f"{counted(count, 'run')}, {counted(len(violations), 'violation')}")
        print(
            f"{virtual / 3600:.1f} simulated hours in {seconds:.1f} s, {hours_a_minute:.1f} a minute of CPU"
        )
        for seed in violations:
            print(f"again: {again(seed, chosen)}")
    if violations:
        raise typer.Exit(1)


app.command("campaign", help="Run very many seeds, of all modes, up to the first violation.")(campaign)


@app.command("list", help="List the named situations, and what each shows.")
def list_scenarios(
    commands: Annotated[
        bool, typer.Option("--commands", help="What situations are made of, instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    from gureum.sim import scenario
    from gureum.sim.acts import ACTS

    if commands:
        if as_json:
            show_json([{"Command": each.pattern, "Help": each.help} for each in ACTS])
        else:
            print(table(("command", ""), [(each.pattern, each.help) for each in ACTS]))
        return
    found = [understood(folder) for folder in scenario.folders(SCENARIOS)]
    if as_json:
        show_json(
            [
                {"Name": each.name, "About": each.about, "Hosts": each.hosts, "Shared": each.shared}
                for each in found
            ]
        )
    else:
        print(table(("situation", "what it shows"), [(each.name, each.about) for each in found]))


def understood(folder: Path) -> Any:
    from gureum.sim import scenario

    try:
        return scenario.read(folder)
    except scenario.ScenarioError as error:
        raise CliError(
            str(error), "gureum sim list --commands shows what there is", exit_code=USAGE
        ) from error


def chosen_folders(name: str | None) -> list[Path]:
    from gureum.sim import scenario

    if name is None:
        found = list(scenario.folders(SCENARIOS))
        if not found:
            raise CliError(
                "this installation has no scenarios", "gureum sim scenario FOLDER plays one of yours"
            )
        return found
    for folder in (SCENARIOS / name, Path(name)):
        if (folder / scenario.COMMANDS).is_file():
            return [folder.resolve()]
    near = difflib.get_close_matches(name, [each.name for each in scenario.folders(SCENARIOS)], 1)
    hint = f"is it {near[0]}?" if near else "gureum sim list shows those that there are"
    raise CliError(f"there is no situation {name!r}, and no folder with commands", hint, exit_code=USAGE)


@app.command("scenario", help="Play a named situation, or all, and compare with the log that was kept.")
def play_scenario(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FOLDER", help="Its log is printed, too. Default: all.", show_default=False
        ),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Keep what happens as the log from now on. Read it first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    from gureum.sim import scenario

    folders = chosen_folders(name)
    results = []
    for folder in folders:
        played = scenario.play(understood(folder))
        if name is not None and not as_json:
            print(played.log, end="")
        wrong = played.failure or differing(scenario.golden(folder), played.log, update)
        if update and not played.failure:
            (folder / scenario.LOG).write_text(played.log)
        results.append({"Name": folder.name, "Failure": wrong, "VirtualSeconds": played.virtual_seconds})
        if not as_json:
            print(f"{folder.name}: {wrong or 'as it must be'}", flush=True)
    if as_json:
        show_json(results)
    if any(each["Failure"] for each in results):
        raise typer.Exit(1)


def differing(kept: str, log: str, update: bool) -> str:
    """In words, "" if the log is the one that was kept."""
    if update or kept == log:
        return ""
    if not kept:
        return "no log was kept; read what happens, then: --update"
    lines = difflib.unified_diff(kept.splitlines(), log.splitlines(), "kept", "now", lineterm="", n=2)
    return "something else happens:\n" + "\n".join(lines)
