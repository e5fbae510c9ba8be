"""`gureum host ...`: the hosts of a cloud, by its Fleet API; and joining the cloud of another machine."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.commands import COMMANDS
from gureum.cli.options import MARKUP, AsJson, StateDir, attend, cloud_at, unseen
from gureum.cli.output import FAILED, USAGE, CliError, as_typed, followed, human_bytes, note, show_json, table

app = typer.Typer(help=COMMANDS["host"].help, no_args_is_help=True, rich_markup_mode=MARKUP)

Host = Annotated[str, typer.Argument(metavar="HOST", help="A host's name, as `gureum host list` shows it.")]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """30m, 1h, 7d, or a number of seconds. Raises CliError."""
    found = re.fullmatch(r"(\d+)([smhd]?)", text)
    if not found:
        raise CliError(f"{text!r} is no time", "for example: 90s, 30m, 1h, 7d", exit_code=USAGE)
    return int(found[1]) * UNITS[found[2] or "s"]


def call(state_dir: Path | None, operation: str, **parameters: Any) -> dict[str, Any]:
    from gureum.cli import api

    answer = api.call(cloud_at(state_dir), "fleet", operation, **parameters)
    answer.pop("ResponseMetadata", None)
    return answer


def show(value: dict[str, Any]) -> None:
    """As JSON, with times as AWS's command line writes them."""
    import json

    show_json(json.loads(json.dumps(value, default=lambda time: time.isoformat())))


@app.command("list", help="List the hosts of a running cloud.")
def list_hosts(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    from gureum.cli import api, losses

    cloud = cloud_at(state_dir)
    hosts = list(api.hosts(cloud))
    if as_json:
        show({"Hosts": hosts})
        return
    header = (
        *("host", "state", "zone", "address", "cpus", "memory", "free vcpus", "free memory", "disk free"),
        *("instances", "volumes", "gureum", ""),
    )
    print(table(header, [row(host) for host in hosts]))
    for host in hosts:
        if reason := host.get("StateReason"):
            note(f"{host['HostId']}: {reason}")
        for problem in host.get("Problems", ()):
            note(f"{host['HostId']}: {problem}")
    for line in losses.lines(api.survival(cloud)):
        note(line)


def row(host: dict[str, Any]) -> tuple[object, ...]:
    state = "revoked" if host.get("Certificate", {}).get("Revoked") else host["State"]
    state = state if host["PowerState"] == "awake" else host["PowerState"]
    remarks = ["draining"] if host["Draining"] else []
    certificate = host.get("Certificate")
    if certificate and not certificate["Revoked"]:
        days = (certificate["Expires"] - datetime.now(UTC)).days
        remarks.append(f"certificate for {days} days")
    if labels := label_text(host):
        remarks.append(labels)
    if gateways := host.get("NatGatewayIds"):
        remarks.append(f"{len(gateways)} NAT gateway{'s' if len(gateways) > 1 else ''}")
    if problems := host.get("Problems"):
        remarks.append(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    return (
        host["HostId"],
        state,
        host.get("Zone", "all"),
        host.get("Address", "-"),
        host["Cpus"],
        human_bytes(host["MemoryBytes"]),
        host["Capacity"]["FreeVcpus"],
        human_bytes(host["Capacity"]["FreeMemoryBytes"]),
        human_bytes(host["PoolFreeBytes"]),
        len(host["InstanceIds"]),
        len(host["VolumeIds"]),
        host.get("Version") or "-",
        ", ".join(remarks),
    )


@app.command("token", help="Make a token with which one other machine can join, once.")
def token(
    zone: Annotated[
        str | None, typer.Option(help="Its zone. Default: the one with the fewest hosts.", show_default=False)
    ] = None,
    ttl: Annotated[str, typer.Option(help="For how long it can be used: 30m, 1h, 7d.")] = "1h",
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    wanted: dict[str, Any] = {"TtlSeconds": seconds(ttl)}
    if zone:
        wanted["Zone"] = zone
    made = call(state_dir, "create_host_token", **wanted)
    if as_json:
        show(made)
        return
    print(made["Token"])
    note(
        f"good for one machine in {made['Zone']}, until {made['Expires']:%Y-%m-%d %H:%M} UTC; there, as root:"
    )
    note(f"  gureum host join {made['Url']} --token -")


@app.command(
    "label",
    help="Set labels of a host, KEY=VALUE, or remove them, KEY-. The label rack says where it stands.",
)
def label(
    host: Host,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="What is changed.")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    added, removed = labels_of(labels)
    changed = call(state_dir, "modify_host", HostId=host, Labels=added, RemoveLabels=removed)["Host"]
    if as_json:
        show(changed)
    else:
        print(f"{host}: {label_text(changed) or 'no labels'}")


def labels_of(texts: list[str]) -> tuple[dict[str, str], list[str]]:
    """What is to be set, and what is to be removed. Raises CliError."""
    gone = [text for text in texts if "=" not in text]
    for text in gone:
        if not text.endswith("-") or len(text) == 1:
            raise CliError(f"{text!r} is no label", "KEY=VALUE sets one, KEY- removes it", exit_code=USAGE)
    removed = [text[:-1] for text in gone]
    added = labels_set([text for text in texts if "=" in text])
    if twice := sorted(added.keys() & set(removed)):
        raise CliError(f"{twice[0]} is to be set and removed", "one of both", exit_code=USAGE)
    return added, removed


def labels_set(texts: list[str]) -> dict[str, str]:
    """By KEY=VALUE. Raises CliError."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CliError(f"{text!r} is no label", "KEY=VALUE, for example: rack=r1", exit_code=USAGE)
        if found.setdefault(key, value) != value:
            raise CliError(f"{key} has two values: {found[key]} and {value}", "one of them", exit_code=USAGE)
    return found


def label_text(host: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in host.get("Labels", {}).items())


@app.command(
    "overcommit",
    short_help="Show or set how much of their processors and memory hosts give away.",
    help="Show or set how much of its processors and memory a host gives away, as a multiple of what it has: "
    "of HOST, or of all of which nothing else is said.",
)
def overcommit(
    host: Annotated[
        str | None, typer.Argument(metavar="[HOST]", help="A host's name.", show_default=False)
    ] = None,
    cpu: Annotated[
        float | None, typer.Option(help="vCPUs for each processor; 0: as all.", show_default=False)
    ] = None,
    memory: Annotated[float | None, typer.Option(help="Likewise of its memory.", show_default=False)] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    given = {"CpuOvercommit": cpu, "MemoryOvercommit": memory}
    wanted = {name: value for name, value in given.items() if value is not None}
    if host is not None:
        if wanted:
            shown = call(state_dir, "modify_host", HostId=host, **wanted)["Host"]
        else:
            [shown] = call(state_dir, "describe_hosts", HostIds=[host])["Hosts"]
    else:
        operation = "modify_fleet_settings" if wanted else "describe_fleet_settings"
        shown = call(state_dir, operation, **wanted)["Settings"]
    if as_json:
        show(shown)
        return
    print(
        f"{host or 'all hosts'}: {shown['CpuOvercommit']:g} vCPUs for each processor, "
        f"{shown['MemoryOvercommit']:g} times its memory"
    )


@app.command(
    "cpu",
    short_help="Show or set which CPU new instances see.",
    help="Show or set which CPU instances see that are placed from now on: host (their host's own), baseline "
    "(the highest level that all hosts of their zone offer) or a model's name. With a model they migrate "
    "between hosts with different CPUs of one maker.",
)
def cpu(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="host, baseline, or a name.", show_default=False)
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli import api

    if model is not None:
        settings = call(state_dir, "modify_fleet_settings", CpuModel=model)["Settings"]
    else:
        settings = call(state_dir, "describe_fleet_settings")["Settings"]
    members = ("HostId", "Zone", "Cpu", "CpuModels")
    hosts = [{name: host.get(name) for name in members} for host in api.hosts(cloud_at(state_dir))]
    if as_json:
        show({"CpuModel": settings["CpuModel"], "Hosts": hosts})
        return
    print(f"instances that are placed from now on have the CPU model: {settings['CpuModel']}")
    rows = [
        (host["HostId"], host["Zone"] or "all", host["Cpu"] or "?", " ".join(host["CpuModels"] or ()) or "?")
        for host in hosts
    ]
    print(table(("host", "zone", "cpu", "models"), rows))


@app.command(
    "drain",
    short_help="Let a host take no more instances, and those on it go elsewhere.",
    help="Let a host take no more instances. Those that run there migrate to other hosts, a few at a time, "
    "as far as their volumes are in pools of the storage cluster; the others stay, and it is said why.",
    epilog="Exit code 1 with --wait if instances are left that run there.",
)
def drain(
    host: Host,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when all is gone that can go.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    answer = call(state_dir, "drain_host", HostId=host)
    if message := answer.get("Message"):
        note(message)
    changed = answer["Host"]
    if wait:
        changed = emptied(state_dir, changed)
    staying = changed.get("StayingInstances", [])
    if as_json:
        show(changed)
    else:
        tell_drained(changed)
    if wait and staying:
        raise typer.Exit(FAILED)


def emptied(state_dir: Path | None, host: dict[str, Any]) -> dict[str, Any]:
    """As it is when what runs there has left, or stays."""

    def words(found: dict[str, Any]) -> str:
        count = len(leaving_from(found))
        return f"{count} instance{'s' if count > 1 else ''} to leave {host['HostId']}"

    def look() -> dict[str, Any]:
        found: dict[str, Any] = call(state_dir, "describe_hosts", HostIds=[host["HostId"]])["Hosts"][0]
        return found

    return followed(host, lambda found: bool(leaving_from(found)), words, look)


def leaving_from(host: dict[str, Any]) -> list[str]:
    """What runs there and will leave, or is about to."""
    staying = {each["InstanceId"] for each in host.get("StayingInstances", [])}
    migrating = set(host.get("MigratingInstanceIds", []))
    return sorted((set(host.get("RunningInstanceIds", [])) - staying) | migrating)


def tell_drained(host: dict[str, Any]) -> None:
    print(f"{host['HostId']} takes no more instances")
    if leaving := leaving_from(host):
        print(f"leaving for other hosts: {', '.join(leaving)}")
        note("how far they are: gureum instance migrations")
    kinds = ("InstanceIds", "VolumeIds", "SnapshotIds", "NatGatewayIds")
    left = [id for kind in kinds for id in host[kind] if id not in leaving]
    if left:
        print(f"still there: {', '.join(left)}")
    for each in host.get("StayingInstances", []):
        note(f"{each['InstanceId']} stays: {each['Reason']}")


@app.command("activate", help="Let a drained host take instances again.")
def activate(host: Host, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    changed = call(state_dir, "activate_host", HostId=host)["Host"]
    if as_json:
        show(changed)
    else:
        print(f"{host} takes instances")


@app.command("remove", help="Remove a drained, empty host from the cloud.")
def remove(
    host: Host,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is on it. Only if it is down, and for good.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    call(state_dir, "remove_host", HostId=host, Force=force)
    if as_json:
        show({"HostId": host})
    else:
        print(f"{host} is removed")


@app.command(
    "fence",
    help="Give a host up that is down: what ran on it runs elsewhere. For when most hosts fell silent at "
    "once, and the cloud does not do so by itself.",
)
def fence(
    host: Host,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    if not yes and not sys.stdin.isatty():
        raise CliError("nobody to ask", "--yes, if what still runs on it is to be ended", exit_code=USAGE)
    if not yes and not typer.confirm(f"What still runs on {host} is ended, and runs elsewhere. Go on?"):
        raise typer.Abort
    changed = call(state_dir, "fence_host", HostId=host)["Host"]
    if as_json:
        show(changed)
    else:
        print(as_typed(f"{host} is given up; what comes of it: gureum events --host {host} --follow"))


@app.command("revoke", help="Refuse a machine that joined, and end its link.")
def revoke(host: Host, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    changed = call(state_dir, "revoke_host", HostId=host)["Host"]
    if as_json:
        show(changed)
    else:
        print(f"{host} is refused from now on; what is on it stays known until it is removed")


@app.command("join", help="Make this machine a host of the cloud at URL.")
def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="ADDRESS:PORT, as `gureum host token` says.")],
    secret: Annotated[
        str,
        typer.Option(
            "--token",
            help="From `gureum host token`; - reads it from the standard input.",
            envvar="GUREUM_TOKEN",
            callback=unseen,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Its name in the cloud. Default: this machine's.", show_default=False)
    ] = None,
    uplink: Annotated[
        str | None,
        typer.Option(
            help="The device towards the other hosts. Default: the one that leads to URL.", show_default=False
        ),
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Only if the token is for this zone.", show_default=False)
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once the agent runs.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli.cloud import require_root
    from gureum.cli.join import join as join_cloud

    require_root()
    cloud = cloud_at(state_dir)
    joined = join_cloud(cloud, url, secret, name=name, uplink=uplink, zone=zone, progress=note)
    if as_json:
        show_json(joined)
    else:
        print(f"{joined['host']} in {joined['zone']} of cloud {joined['cloud']}, by {joined['uplink']}")
    if not detach:
        attend(cloud.state_dir)
