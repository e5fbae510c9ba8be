"""`gureum host upgrade`: all hosts, one after the other, by the cloud's Fleet API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.host import app, call, show
from gureum.cli.options import AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, USAGE, CliError, followed, note, table


@app.command(
    "upgrade",
    short_help="Start the agents of hosts anew, or empty and change hosts, one after the other.",
    help="Let hosts run the gureum that is installed there now: their agents are started anew, one host "
    "after the other, and guests are not touched. With --evacuate each is emptied, changed by the command "
    "hooks/upgrade-host in the cloud's state directory, and waited for. Stops at the first host that does "
    "not come back as it should. Without hosts: how far it is.",
    epilog="Exit code 1 with --wait, or without hosts, if the upgrade failed.",
)
def upgrade(
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="[HOST]...", help="In this order.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All hosts.")] = False,
    evacuate: Annotated[bool, typer.Option("--evacuate", help="Empty each, and call the command.")] = False,
    reboots: Annotated[
        bool, typer.Option("--reboots", help="The command restarts the host: wait for that.")
    ] = False,
    at_once: Annotated[
        int | None, typer.Option("--max", min=1, help="How many hosts at once.", show_default="1")
    ] = None,
    timeout: Annotated[
        int | None, typer.Option(min=10, help="Seconds for each step of a host.", show_default="600")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Begin no further host.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when it has ended.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    if everything and hosts:
        raise CliError("either hosts or --all", exit_code=USAGE)
    if cancel and (everything or hosts):
        raise CliError("--cancel is for the upgrade that is under way: without hosts", exit_code=USAGE)
    if not (everything or hosts) and (evacuate or reboots or at_once or timeout):
        raise CliError("which hosts?", "their names, or --all", exit_code=USAGE)
    names = _names(state_dir) if everything else list(hosts or ())
    if names:
        wanted: dict[str, Any] = {"HostIds": names, "Evacuate": evacuate, "Reboots": reboots}
        given = {"AtOnce": at_once, "WaitSeconds": timeout}
        wanted |= {name: value for name, value in given.items() if value is not None}
        found = call(state_dir, "start_upgrade", **wanted)["Upgrade"]
    else:
        found = _newest(state_dir)
        if found is None:
            raise CliError("no hosts were upgraded yet", "gureum host upgrade --all --wait", exit_code=USAGE)
        if cancel and _runs(found):
            found = call(state_dir, "cancel_upgrade", UpgradeId=found["UpgradeId"])["Upgrade"]
    if wait:
        found = followed(found, _runs, _progress, lambda: _newest(state_dir) or {"State": "forgotten"})
    if as_json:
        show(found)
    else:
        _tell(found)
    if found["State"] == "failed":
        raise typer.Exit(FAILED)


def _names(state_dir: Path | None) -> list[str]:
    from gureum.cli import api

    return [host["HostId"] for host in api.hosts(cloud_at(state_dir))]


def _newest(state_dir: Path | None) -> dict[str, Any] | None:
    found: list[dict[str, Any]] = call(state_dir, "describe_upgrades")["Upgrades"]
    return found[0] if found else None


def _runs(upgrade: dict[str, Any]) -> bool:
    return bool(upgrade["State"] == "running")


def _progress(upgrade: dict[str, Any]) -> str:
    done = sum(each["Step"] == "done" for each in upgrade["Hosts"])
    under_way = [
        f"{each['HostId']} {each['Step']}" + (f" ({each['Message']})" if each.get("Message") else "")
        for each in upgrade["Hosts"]
        if each["Step"] not in ("waiting", "done")
    ]
    return "; ".join([f"{done} of {len(upgrade['Hosts'])} hosts are done", *under_way])


def _tell(upgrade: dict[str, Any]) -> None:
    rows = [(each["HostId"], each["Step"], each.get("Message") or "") for each in upgrade.get("Hosts", ())]
    print(table(("host", "step", ""), rows))
    print(f"the upgrade is {upgrade['State']}")
    if upgrade.get("StateMessage"):
        note(upgrade["StateMessage"])
    if _runs(upgrade):
        note("it goes on by itself; how far it is: gureum host upgrade --wait")
