"""`gureum host power`, `gureum host park`, `gureum host wake`: hosts are off while nothing needs them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.host import Host, app, call, seconds, show
from gureum.cli.options import AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, USAGE, CliError, as_typed, note, table

TEST_SECONDS = 30.0
"""Fence agents ask several times."""
MODES = ("off", "recommend", "automatic")
FENCES = ("none", "off", "reboot")
SWITCH = ("off", "on")


@app.command(
    "power",
    short_help="Show or set how hosts are switched on and off, and whether that is done.",
    help="Show which hosts are off, or could be; say how HOST is switched, by a fence agent; and whether "
    "hosts that nothing needs are switched off.",
    epilog="Exit code 1 with --test if the fence agent does not tell whether the host is on.",
)
def power(
    host: Annotated[
        str | None, typer.Argument(metavar="[HOST]", help="A host's name.", show_default=False)
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="HOST's fence agent: fence_redfish, fence_ipmilan, ..., your own in STATE/hooks/power,"
            " or machine-host for one of several hosts of the manager's machine.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What the agent is told.", show_default=False),
    ] = None,
    secrets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With lines KEY=VALUE that it is told besides, as password=...; - for standard input.",
            show_default=False,
        ),
    ] = None,
    wakes_in: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long HOST may take to report: 5m.", show_default=False),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Forget how HOST is switched.")] = False,
    test: Annotated[bool, typer.Option("--test", help="Ask the agent whether HOST is on.")] = False,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="off: no host is parked. recommend: it is said which could be. automatic: they are, and "
            "woken on need.",
            show_default=False,
        ),
    ] = None,
    rest: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How long a host is empty until it is parked: 15m.", show_default=False
        ),
    ] = None,
    awake: Annotated[
        int | None, typer.Option(metavar="COUNT", help="Hosts of a zone that stay on.", show_default=False)
    ] = None,
    headroom: Annotated[
        int | None,
        typer.Option(
            metavar="PERCENT", help="What is to be free of a zone's hosts then.", show_default=False
        ),
    ] = None,
    empty: Annotated[
        str | None,
        typer.Option(
            metavar="on|off",
            help="Whether hosts are emptied by migrations to be parked, in the mode automatic; if not, it is "
            "said which could be.",
            show_default=False,
        ),
    ] = None,
    fence: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What is done besides with a host that is fenced: none, off (until it is woken), or reboot.",
            show_default=False,
        ),
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    for given, known in ((mode, MODES), (fence, FENCES), (empty, SWITCH)):
        if given not in (None, *known):
            raise CliError(f"{given!r} is unknown", f"one of: {', '.join(known)}", exit_code=USAGE)
    fleet = {
        "PowerMode": mode,
        "RestSeconds": seconds(rest) if rest else None,
        "AwakeHosts": awake,
        "HeadroomPercent": headroom,
        "FencePower": fence,
        "EmptyHosts": empty == "on" if empty else None,
    }
    own: dict[str, Any] = {
        "Agent": agent,
        "Options": pairs(option) if option is not None else None,
        "Secrets": pairs(lines(secrets)) if secrets is not None else None,
        "WakeSeconds": seconds(wakes_in) if wakes_in else None,
        "Remove": forget or None,
    }
    fleet, own = ({key: value for key, value in each.items() if value is not None} for each in (fleet, own))
    if (own or test) and host is None:
        raise CliError("of which host?", "gureum host power HOST ...", exit_code=USAGE)
    if fleet:
        call(state_dir, "modify_fleet_settings", **fleet)
    if own:
        call(state_dir, "modify_host_power", HostId=host, **own)
    if test:
        from gureum.cli import api

        answer = api.long_call(cloud_at(state_dir), "fleet", "test_host_power", TEST_SECONDS, HostId=host)
        tell_test(answer, str(host), as_json=as_json)
        return
    found = powers(state_dir, host)
    settings = call(state_dir, "describe_fleet_settings")["Settings"]
    if as_json:
        show({"HostPowers": found, "Settings": settings})
        return
    print(table(("host", "power", "since", "agent", "options", ""), map(row, found)))
    for line in remarks(settings, found):
        note(line)


def remarks(settings: dict[str, Any], found: list[dict[str, Any]]) -> list[str]:
    """What is below the table, for people: what is done by itself."""
    mode, awake, minutes = settings["PowerMode"], settings["AwakeHosts"], settings["RestSeconds"] / 60
    rest = "a minute" if minutes == 1 else f"{minutes:g} minutes"
    parked = (
        f"parked after {rest} without anything on it, if {awake} of its zone "
        f"{'stays' if awake == 1 else 'stay'} on and {settings['HeadroomPercent']} % of what "
        f"{'that gives' if awake == 1 else 'those give'} away is free"
    )
    automatic = mode == "automatic"
    said = {
        "off": "no host is parked or woken by itself",
        "recommend": f"it is only said which host could be {parked}",
        "automatic": f"a host is {parked}, and woken on need",
    }
    lines = [f"mode {mode}: {said[mode]}"]
    if settings["EmptyHosts"]:
        lines.append("hosts are emptied for that" + ("" if automatic else " in the mode automatic only"))
    elif automatic:
        lines.append("no host is emptied for that: --empty on")
    if (fence := settings["FencePower"]) != "none":
        how = "off, until somebody wakes it" if fence == "off" else "off and on"
        lines.append(f"a host that is fenced is switched {how}")
    if not any(each.get("Agent") for each in found):
        lines.append("how hosts are switched is not known: gureum host power HOST --agent NAME ...")
    return lines


def powers(state_dir: Path | None, host: str | None) -> list[dict[str, Any]]:
    if host is not None:
        answer: dict[str, Any] = call(state_dir, "describe_host_power", HostIds=[host])
        return list(answer["HostPowers"])
    from gureum.cli import api

    found = api.pages(cloud_at(state_dir), "fleet", "describe_host_power")
    return [power for page in found for power in page["HostPowers"]]


def pairs(texts: list[str]) -> dict[str, str]:
    """Raises CliError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CliError("an option of a fence agent is KEY=VALUE", exit_code=USAGE)
        found[key] = value
    return found


def lines(path: Path) -> list[str]:
    """Those of a file that are not empty. Raises CliError."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", exit_code=USAGE) from error
    return [line for line in text.splitlines() if line.strip()]


def row(power: dict[str, Any]) -> tuple[str, ...]:
    words = [power.get("Reason") or ("could be parked" if power["CouldBeParked"] else "")]
    if power["CouldBeEmptied"]:
        words.insert(0, "could be emptied and parked")
    if power["Failures"]:
        times = "once" if power["Failures"] == 1 else f"{power['Failures']} times"
        words.append(f"did not come {times} when it was woken")
    if at := power.get("NextTry"):
        words.append(f"to be tried again after {at.astimezone(UTC):%H:%M:%S} UTC")
    since = power.get("Since")
    options = [f"{key}={value}" for key, value in power["Options"].items()]
    return (
        power["HostId"],
        power["PowerState"],
        ago(since) if since else "-",
        power.get("Agent") or "-",
        " ".join([*options, *(["(and secrets)"] if power["HasSecrets"] else [])]) or "-",
        "; ".join(filter(None, words)),
    )


def ago(since: datetime) -> str:
    minutes = max(0, int((datetime.now(UTC) - since).total_seconds() // 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def tell_test(found: dict[str, Any], host: str, *, as_json: bool) -> None:
    """Raises typer.Exit if the agent did not tell."""
    if as_json:
        show(found)
    elif "On" in found:
        print(f"{host} is {'on' if found['On'] else 'off'}")
    else:
        note(f"it is not known whether {host} is on: {found.get('Message', '')}")
    if "On" not in found:
        raise typer.Exit(FAILED)


@app.command(
    "park",
    help="Switch an empty host off now, if what is to be left is left without it. It is woken by gureum host "
    "wake; in the mode automatic also on need.",
)
def park(host: Host, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    _switch(state_dir, "park_host", host, as_json)


@app.command("wake", help="Switch a parked host on, or let one that is being emptied be.")
def wake(host: Host, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    _switch(state_dir, "wake_host", host, as_json)


def _switch(state_dir: Path | None, operation: str, host: str, as_json: bool) -> None:
    changed = call(state_dir, operation, HostId=host)["Host"]
    if as_json:
        show(changed)
    else:
        state = changed["PowerState"]
        print(as_typed(f"{host} is {state}; what comes of it: gureum events --host {host} --follow"))
