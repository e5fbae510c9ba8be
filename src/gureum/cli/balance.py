"""`gureum host balance`: how busy the hosts of a cloud are, and what should move, by the Fleet API."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gureum.cli.host import app, call, show
from gureum.cli.options import AsJson, StateDir
from gureum.cli.output import USAGE, CliError, human_bytes, note, table

MODES = ("off", "recommend", "automatic")
SAID = {
    "off": "nothing is looked for that should move",
    "recommend": "it is only said what should move",
    "automatic": "what should move does so by itself",
}


@app.command(
    "balance",
    short_help="Show how busy hosts are, and what should move; or let it move.",
    help="Show how busy hosts are, and which instances should move so that they are about equally so, with "
    "the reasons. --mode says whether what is recommended is done.",
)
def balance(
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="off: nothing is recommended. recommend: it is said what should move. automatic: it moves.",
            show_default=False,
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Move what is recommended, once.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    if mode not in (None, *MODES):
        raise CliError(f"{mode!r} is no mode", f"one of: {', '.join(MODES)}", exit_code=USAGE)
    if mode is not None:
        call(state_dir, "modify_fleet_settings", BalanceMode=mode)
    found = call(state_dir, "rebalance" if now else "describe_recommendations")
    if as_json:
        show(found)
        return
    print(table(("host", "cpu", "memory", "cpu waits", "memory waits", ""), map(row, found["HostLoads"])))
    moves = found["Recommendations"]
    if moves:
        print()
        print(table(("instance", "from", "to", "copies", "pays back", "why"), map(move_row, moves)))
    empties = False
    if hosts := found["HostsToEmpty"]:
        print()
        print(table(("could be emptied", "copies", "pays back", "why"), map(host_row, hosts)))
        settings = call(state_dir, "describe_fleet_settings")["Settings"]
        empties = settings["PowerMode"] == "automatic" and settings["EmptyHosts"]
    for line in remarks(found, empties=empties):
        note(line)


def row(host: dict[str, Any]) -> tuple[str, ...]:
    if not host["Measured"]:
        return host["HostId"], "-", "-", "-", "-", "says nothing of its load"
    shares = (host[f"{name}Percent"] for name in ("Cpu", "Memory", "CpuPressure", "MemoryPressure"))
    hot, reason = host.get("HotSeconds"), host.get("Reason")
    words = [f"hot for {hot} s"] if hot is not None else []
    return (
        host["HostId"],
        *(f"{share:.0f} %" for share in shares),
        "; ".join([*words, *([reason] if reason else [])]),
    )


def move_row(move: dict[str, Any]) -> tuple[str, ...]:
    return (
        move["InstanceId"],
        move["SourceHostId"],
        move["TargetHostId"],
        f"{human_bytes(move['CopyBytes'])} in {move['CopySeconds']:.0f} s",
        f"after {move['PaysBackSeconds']} s",
        move["Reason"],
    )


def host_row(host: dict[str, Any]) -> tuple[str, ...]:
    """Of one that could be emptied, and be off then."""
    return (
        host["HostId"],
        f"{human_bytes(host['CopyBytes'])} in {host['CopySeconds']:.0f} s",
        f"after {host['PaysBackSeconds']} s",
        host["Reason"],
    )


def remarks(found: dict[str, Any], *, empties: bool = False) -> list[str]:
    """What is below the tables, for people. ``empties``: what could be emptied is, by itself."""
    mode, moves = found["BalanceMode"], found["Recommendations"]
    lines = [f"mode {mode}: {SAID[mode]}"]
    if any(host["Measured"] for host in found["HostLoads"]):
        points = found["ImbalancePercent"]
        lines.append(f"the busiest host's processors are {points:.0f} points above the mean of its zone")
    if found["Rebalancing"]:
        lines.append("what should move is being moved, until nothing more should: gureum instance migrations")
    elif not moves and mode != "off":
        lines.append("nothing should move now")
    elif moves and mode != "automatic":
        lines.append("to move them: gureum host balance --now, or --mode automatic")
    if found["HostsToEmpty"] and empties:
        lines.append("hosts are emptied one after the other: gureum host power")
    elif found["HostsToEmpty"]:
        lines.append("to empty and park hosts: gureum host power --mode automatic --empty on")
    if held := found.get("HeldBecause"):
        lines.append(f"nothing is begun now: {held}")
    return lines
