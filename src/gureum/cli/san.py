"""`gureum san ...`: the storage of a cloud."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli import san_backup, san_osd
from gureum.cli.commands import COMMANDS
from gureum.cli.options import MARKUP, AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, NOT_RUNNING, CliError, as_typed, counted, human_bytes, show_json, table

app = typer.Typer(help=COMMANDS["san"].help, no_args_is_help=True, rich_markup_mode=MARKUP)
app.add_typer(san_osd.app, name="osd")

BLOCK_BYTES = 512


@app.command(
    "status",
    short_help="Show room, copies, health and disks.",
    help="Show the room in a cloud's storage, its copies, its health and what to do about it, and its disks.",
    epilog="Exit code 0 if all is well or nearly so, 1 if something cannot be read or written, "
    "4 if the cluster does not answer.",
)
def status(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    from gureum.errors import ConfigError
    from gureum.san.settings import SanSettings

    cloud = cloud_at(state_dir)
    cloud.config()
    try:
        settings = SanSettings.load(cloud.state_dir)
    except ConfigError as error:
        raise CliError(str(error)) from error
    if settings.kind == "local":
        show_local(cloud.state_dir, as_json=as_json)
    else:
        raise typer.Exit(show_ceph(cloud, settings, as_json=as_json))


# ---- local pools


def local_pools(state_dir: Path) -> list[dict[str, Any]]:
    """Of each of the machine's hosts: where its pool is, what its volumes take, what their disk has left."""
    directories = [state_dir / "pool", *sorted(state_dir.glob("hosts/*/pool"))]
    return [local_pool(directory) for directory in directories if directory.is_dir()]


def local_pool(directory: Path) -> dict[str, Any]:
    disk = shutil.disk_usage(directory)
    files = [path.stat() for path in (directory / "layers").glob("*") if path.is_file()]
    volumes = len([*(directory / "records").glob("vol-*")])
    used = sum(file.st_blocks for file in files) * BLOCK_BYTES
    return {
        "directory": str(directory),
        "volumes": volumes,
        "used": used,
        "free": disk.free,
        "size": disk.total,
    }


def show_local(state_dir: Path, *, as_json: bool) -> None:
    pools = local_pools(state_dir)
    if as_json:
        show_json({"kind": "local", "pools": pools})
        return
    print("local: each host has a pool on a disk of its own; one copy of everything\n")
    rows = [
        (pool["directory"], pool["volumes"], *(human_bytes(pool[key]) for key in ("used", "free", "size")))
        for pool in pools
    ]
    print(table(("pool", "volumes", "they take", "free on disk", "disk"), rows))


# ---- Ceph


def show_ceph(cloud: Any, settings: Any, *, as_json: bool) -> int:
    """Prints it. Returns the exit code."""
    import msgspec

    from gureum.cli import ceph
    from gureum.errors import PoolError, PoolUnavailable
    from gureum.san.ceph.health import ERROR

    try:
        found = ceph.look(cloud, settings)
    except PoolUnavailable as error:
        todo = f"gureum status --state-dir {cloud.state_dir}; gureum logs mon.a" if cloud.daemons else ""
        raise CliError(
            f"the storage cluster does not answer: {error}", todo, exit_code=NOT_RUNNING
        ) from error
    except PoolError as error:
        raise CliError(f"the storage cluster cannot be examined: {error}") from error
    if as_json:
        show_json({"kind": "ceph", "conf": str(settings.conf), **msgspec.to_builtins(found)})
    else:
        print("\n".join(ceph.lines(found)))
    return FAILED if found.health.status == ERROR else 0


# ---- what is in the pools


@app.command(
    "check",
    short_help="Compare what is in the pools with what the cloud says.",
    help="Compare what is in the pools of a running cloud with what it says of its volumes and snapshots: "
    "what nobody needs, what is missing, who has what open. Changes nothing without --repair.",
    epilog="Exit code 0 if all is as it should be, or is now; 1 if something is not.",
)
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what nobody needs; at a terminal it asks first.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    cloud = cloud_at(state_dir)
    found = [(pool, finding) for pool in pools(cloud) for finding in findings(cloud, pool)]
    repaired: list[dict[str, Any]] = []
    repairable = [(pool, finding) for pool, finding in found if finding.get("FindingId")]
    if not as_json:
        print(
            "\n".join(check_lines(found)) or "nothing is in a pool that should not be, and nothing is missing"
        )
    if repair and repairable and (as_json or agreed(repairable)):
        repaired = mend(cloud, repairable)
        for finding in repaired if not as_json else ():
            print(f"done: {finding['ResourceId']}: {finding['Repair']}")
    problems = {(pool["HostId"], each["Message"]) for pool, each in found if each["Problem"]}
    left = len(problems) - len(repaired)
    if as_json:
        rows = [{**pool, **each} for pool, each in found]
        show_json({"Clean": left <= 0, "Findings": rows, "Repaired": repaired})
    elif repairable and not repair:
        print(as_typed(f"\n{counted(len(repairable), 'thing')} can be repaired: gureum san check --repair"))
    if left > 0:
        raise typer.Exit(FAILED)


def pools(cloud: Any) -> list[dict[str, Any]]:
    from gureum.cli import api

    found: list[dict[str, Any]] = api.call(cloud, "fleet", "describe_pools")["Pools"]
    return found


def findings(cloud: Any, pool: dict[str, Any]) -> list[dict[str, Any]]:
    from gureum.cli import api

    asked = {"PoolName": pool["PoolName"], "HostId": pool["HostId"]}
    pages = api.pages(cloud, "fleet", "check_pool", **asked)
    return [each for page in pages for each in page["Findings"]]


def check_lines(found: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """A line for each finding, and one for what --repair would do."""
    lines = []
    for pool, each in found:
        where = pool["PoolName"] if pool["Shared"] else f"{pool['PoolName']} of host {pool['HostId']}"
        lines.append(f"{'PROBLEM' if each['Problem'] else 'note   '}  {where}: {each['Message']}")
        if each.get("Repair"):
            lines.append(f"         -> --repair: {each['Repair']} ({each['ResourceId']})")
        elif each["Problem"]:
            lines.append("         -> nothing repairs this by itself")
    return lines


def agreed(repairable: list[tuple[dict[str, Any], dict[str, Any]]]) -> bool:
    if not sys.stdin.isatty():
        return True
    return typer.confirm(
        f"Do that to {counted(len(repairable), 'thing')}? What is removed cannot be had back"
    )


def mend(cloud: Any, repairable: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """One at a time: each may take some seconds."""
    from gureum.cli import api

    done: list[dict[str, Any]] = []
    for pool, each in repairable:
        asked = {key: pool[key] for key in ("PoolName", "HostId")}
        done += api.call(cloud, "fleet", "repair_pool", **asked, FindingIds=[each["FindingId"]])["Repaired"]
    return done


# ---- backup

app.command(
    "backup",
    short_help="Write a snapshot to files: all of it, or what changed since the last time.",
    help="Write a snapshot, or a new one of a volume, to a directory: at first all of it, later what changed "
    "since the snapshot before. It uses the API, so the cloud may be any, also AWS. Interrupted, the same "
    "command goes on. With --key-file the files are encrypted, as those of an encrypted volume have to be.",
)(san_backup.backup)
app.command(
    "restore",
    short_help="Make a snapshot of a backup, in this cloud or another.",
    help="Make a snapshot of what `gureum san backup` wrote, in this cloud or another, and print its id. All "
    "checksums are checked first. Interrupted, the same command goes on.",
)(san_backup.restore)
