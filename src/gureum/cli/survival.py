"""What there is room for: `gureum host survive`, `gureum host loss`, `gureum host capacity`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gureum.cli.host import Host, app, call, show
from gureum.cli.losses import hosts, line
from gureum.cli.options import AsJson, StateDir
from gureum.cli.output import FAILED, note, table

NAMED_MAX = 5
TYPES = ("t3.nano", "t3.micro", "t3.medium", "m5.large", "m5.2xlarge")
"""Of which it is told if none is named."""
OUTCOMES = {
    "restarts": "starts there",
    "no-room": "finds no room",
    "waits": "waits",
    "stops": "is stopped",
    "terminates": "is terminated",
}


@app.command(
    "survive",
    short_help="Show or set the loss of how many hosts is to be survived, and what would find no room.",
    help="Show or set the loss of how many hosts of a zone is to be survived: so much room is kept for what "
    "ran there, and launches and starts that would take it are refused. 0: none is kept.",
    epilog="Exit code 1 if it would not be survived now.",
)
def survive(
    count: Annotated[
        int | None, typer.Argument(metavar="[COUNT]", help="How many hosts.", show_default=False, min=0)
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    if count is not None:
        call(state_dir, "modify_fleet_settings", Survive=count)
    found = call(state_dir, "describe_survival")
    if as_json:
        show(found)
    else:
        tell(found)
    if not all(domain["Holds"] for domain in found["Domains"]):
        raise typer.Exit(FAILED)


def tell(found: dict[str, Any]) -> None:
    if not found["Recovers"]:
        note("nothing starts elsewhere when its host is lost: volumes are on the hosts' own disks")
        return
    kept = f"is kept for the loss of {hosts(found['Survive'])}" if found["Survive"] else "is kept for no loss"
    print(f"room {kept} in each zone")
    for domain in found["Domains"]:
        print(line(domain, found["Survive"]))
        for loss in domain["Losses"]:
            print(f"  {loss['HostId']} lost: no room for {_instances(loss)}")
        if (more := domain["LossCount"] - len(domain["Losses"])) > 0:
            print(f"  and {more} other hosts")


def _instances(loss: dict[str, Any]) -> str:
    named = [f"{each['InstanceId']} ({each['InstanceType']})" for each in loss["Homeless"][:NAMED_MAX]]
    more = loss["Count"] - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


@app.command(
    "loss",
    short_help="Tell what would become of what runs on a host if it was lost now.",
    help="Tell what would become of what runs on a host if it was lost now: where each instance would start, "
    "in this order, or why not. Nothing is changed.",
    epilog="Exit code 1 if something would find no room.",
)
def loss(host: Host, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    found = call(state_dir, "explain_host_loss", HostId=host)["Instances"]
    if as_json:
        show({"Instances": found})
    elif found:
        rows = [
            (
                each["InstanceId"],
                each["InstanceType"],
                OUTCOMES.get(each["Outcome"], each["Outcome"]),
                each.get("HostId", "-"),
                each.get("Message", ""),
            )
            for each in found
        ]
        print(table(("instance", "type", "", "host", ""), rows))
    else:
        note(f"nothing runs on {host}")
    if any(each["Outcome"] == "no-room" for each in found):
        raise typer.Exit(FAILED)


@app.command(
    "capacity",
    short_help="Tell how many more instances of a type could be launched.",
    help="Tell how many more instances of each type could be launched in each zone, if all were of that "
    "type.",
)
def capacity(
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="An instance type.", show_default=False)
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Only in this zone.", show_default=False)] = None,
    why: Annotated[bool, typer.Option("--why", help="Say why not more.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    wanted: dict[str, Any] = {"InstanceTypes": type_ or list(TYPES)}
    if zone:
        wanted["Zone"] = zone
    found = call(state_dir, "describe_launch_capacity", **wanted)["Capacities"]
    if as_json:
        show({"Capacities": found})
        return
    rows = [(each["Zone"], each["InstanceType"], each["Count"]) for each in found]
    print(table(("zone", "type", "more"), rows))
    for each in found if why else ():
        if message := each.get("Message"):
            note(f"{each['Zone']}, {each['InstanceType']}: {message}")
