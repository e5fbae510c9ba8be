"""`gureum instance ...`: instances as the cloud's owner sees them, with their hosts, by the Fleet API."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gureum.cli.host import call, labels_set, show
from gureum.cli.instance import app
from gureum.cli.options import AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, USAGE, CliError, human_bytes, note, table

MEMORY = "free memory"
ENDED = "terminated"


@app.command("list", help="List the instances of a running cloud, with their hosts.")
def list_instances(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Also terminated ones.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli import api

    cloud = cloud_at(state_dir)
    hosts = {id: host["HostId"] for host in api.hosts(cloud) for id in host["InstanceIds"]}
    found = [each for each in api.instances(cloud) if all_ or each["State"]["Name"] != ENDED]
    rows = [row(each, hosts.get(each["InstanceId"], "-")) for each in found]
    if as_json:
        keys = ("InstanceId", "Name", "State", "InstanceType", "HostId", "Zone", "PrivateIp", "PublicIp")
        show({"Instances": [dict(zip(keys, each, strict=True)) for each in rows]})
        return
    header = ("instance", "name", "state", "type", "host", "zone", "address", "public address")
    print(table(header, rows))


def row(instance: dict[str, Any], host: str) -> tuple[str, ...]:
    names = [tag["Value"] for tag in instance.get("Tags", ()) if tag["Key"] == "Name"]
    return (
        instance["InstanceId"],
        names[0] if names else "",
        instance["State"]["Name"],
        instance["InstanceType"],
        host,
        instance["Placement"]["AvailabilityZone"],
        instance.get("PrivateIpAddress", "-"),
        instance.get("PublicIpAddress", "-"),
    )


@app.command(
    "place",
    short_help="Tell on which host an instance would be placed, and why.",
    help="Tell on which host an instance would be placed now: one that there is, or one that could be "
    "launched, with --type. Nothing is changed.",
    epilog="Exit code 1 if no host can have it.",
)
def place(
    instance: Annotated[
        str | None, typer.Argument(metavar="[INSTANCE]", help="An instance's id.", show_default=False)
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="The type of one that could be launched.", show_default=False)
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Its zone.", show_default=False)] = None,
    group: Annotated[str | None, typer.Option(help="Its placement group.", show_default=False)] = None,
    partition: Annotated[int | None, typer.Option(help="Its partition of that.", show_default=False)] = None,
    dedicated: Annotated[
        bool, typer.Option("--dedicated", help="It shares its host with nobody else's.")
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A label that its host must have.", show_default=False),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show every host, with what keeps it from being the one.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    asked: dict[str, Any] = {
        "InstanceId": instance,
        "InstanceType": type_,
        "Zone": zone,
        "GroupName": group,
        "PartitionNumber": partition,
        "Tenancy": "dedicated" if dedicated else None,
        "RequiredLabels": labels_set(label or []) or None,
    }
    if (instance is None) == (type_ is None):
        raise CliError(
            "which instance?", "gureum instance place INSTANCE, or --type t3.micro", exit_code=USAGE
        )
    given = {name: value for name, value in asked.items() if value is not None}
    answer = call(state_dir, "explain_placement", **given)
    best = next((host for host in answer["Hosts"] if host["Chosen"]), None)
    if as_json:
        show(answer)
    else:
        tell(answer, best, explain=explain)
    if best is None:
        raise typer.Exit(FAILED)


def tell(answer: dict[str, Any], best: dict[str, Any] | None, *, explain: bool) -> None:
    if explain and answer["Hosts"]:
        print(table(("host", "", "free memory", "near", "why not"), map(verdict_row, answer["Hosts"])))
    elif best is not None:
        print(best["HostId"])
    if best is None:
        note(answer.get("Message", "no host can have it"))
        for host in () if explain else answer["Hosts"]:
            note(f"  {host['HostId']} {host['Reasons'][0]['Message']}")
    if (now := answer.get("HostId")) and (explain or best is None):
        note(f"it is on {now} now")


def verdict_row(host: dict[str, Any]) -> tuple[str, ...]:
    weights = {weight["Name"]: weight["Value"] for weight in host["Weights"]}
    memory = weights.pop(MEMORY, 0.0)
    near = "+".join(f"{value:g}" for value in weights.values()) or "-"
    word = "chosen" if host["Chosen"] else "fits" if host["Fits"] else "out"
    reasons = "; ".join(f"{each['Filter']}: {each['Message']}" for each in host["Reasons"])
    return host["HostId"], word, human_bytes(max(0, int(memory))), near, reasons
