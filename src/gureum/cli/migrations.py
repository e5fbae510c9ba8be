"""`gureum instance migrate ...`: running instances that go from one host to another, by the Fleet API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.host import call, show
from gureum.cli.instance import app
from gureum.cli.options import AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, USAGE, CliError, followed, human_bytes, note, table

PAGE_MAX = 100
ENDED = ("completed", "failed", "cancelled")

Instance = Annotated[str, typer.Argument(metavar="INSTANCE", help="An instance's id.")]


@app.command(
    "migrate",
    short_help="Move a running instance to another host.",
    help="Move a running instance to another host, with its memory, addresses and open connections. Its "
    "volumes in pools of the storage cluster stay where they are. Those in its host's own pool are copied "
    "before its memory, in full: for each GiB of data count ten seconds on a network of 1 Gbit/s. What is "
    "begun goes on by itself, also if the cloud is restarted.",
    epilog="Exit code 1 if it cannot be migrated, or with --wait if it was not.",
)
def migrate(
    instance: Instance,
    to: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Where to. Default: the host with the most free memory."),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(metavar="MIB", help="Copy so many MiB a second at most. Default: as many as go."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when it is there.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    if rate is not None and rate <= 0:
        raise CliError("--rate has to be above 0", exit_code=USAGE)
    wanted: dict[str, Any] = {"InstanceId": instance}
    if to:
        wanted["HostId"] = to
    if rate:
        wanted["BytesPerSecond"] = rate << 20
    found: dict[str, Any] = call(state_dir, "migrate_instance", **wanted)["InstanceMigration"]
    if wait:
        found = ended(state_dir, found)
    report(found, as_json=as_json)
    if found["State"] not in ENDED and not as_json:
        note("how far it is: gureum instance migrations")
    if found["State"] in ("failed", "cancelled"):
        raise typer.Exit(FAILED)


@app.command("cancel-migration", help="Let an instance stay where it is. Its guest goes on.")
def cancel_migration(instance: Instance, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    answer = call(state_dir, "cancel_instance_migration", InstanceId=instance)
    report(answer["InstanceMigration"], as_json=as_json)


@app.command(
    "migrations", help="Show the instances that are on their way, and those of the last day that were."
)
def list_migrations(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    from gureum.cli import api

    pages = api.pages(cloud_at(state_dir), "fleet", "describe_instance_migrations", MaxResults=PAGE_MAX)
    found = [each for page in pages for each in page["InstanceMigrations"]]
    found.sort(key=lambda each: each["StartTime"])
    if as_json:
        show({"InstanceMigrations": found})
        return
    header = ("instance", "from", "to", "state", "copied", "held", "")
    print(table(header, [row(each) for each in found]))


def ended(state_dir: Path | None, migration: dict[str, Any]) -> dict[str, Any]:
    """As it is once it has ended."""

    def look() -> dict[str, Any]:
        ids = [migration["MigrationId"]]
        answer = call(state_dir, "describe_instance_migrations", MigrationIds=ids)
        found: dict[str, Any]
        [found] = answer["InstanceMigrations"]
        return found

    return followed(
        migration,
        lambda found: found["State"] not in ENDED,
        lambda found: f"{found['InstanceId']}: {found['State']}, {share(found)}",
        look,
    )


def report(migration: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show(migration)
        return
    source, target = migration["SourceHostId"], migration["TargetHostId"]
    state, message = migration["State"], migration.get("Message", migration["State"])
    if state == "completed":
        how_long = held(migration)
        words = f"on {target}" + (f", and was held for {how_long} to get there" if how_long else "")
    elif state in ("failed", "cancelled", "aborting"):
        words = f"stays on {source}: {message}"
    else:
        words = f"on its way from {source} to {target}"
    print(f"{migration['InstanceId']}: {words}")


def held(migration: dict[str, Any]) -> str:
    """For how long its guest was; "" if its host has not said that."""
    milliseconds = migration.get("DowntimeMilliseconds")
    return f"{milliseconds} ms" if milliseconds is not None else ""


def row(migration: dict[str, Any]) -> tuple[object, ...]:
    return (
        migration["InstanceId"],
        migration["SourceHostId"],
        migration["TargetHostId"],
        migration["State"],
        share(migration),
        held(migration) or "-",
        migration.get("Message", "the host is being drained" if migration["Draining"] else ""),
    )


def share(migration: dict[str, Any]) -> str:
    """How much of it is copied, and how long the rest takes: its disks first, if they are copied too."""
    disk, disks = migration.get("DiskCopiedBytes"), migration.get("DiskTotalBytes")
    if disks and disk is not None and disk < disks:
        return f"disks {human_bytes(disk)} of {human_bytes(disks)}"
    if disk and not disks:
        return f"{human_bytes(migration.get('CopiedBytes') or 0)}, disks {human_bytes(disk)}"
    copied, total = migration.get("CopiedBytes"), migration.get("TotalBytes")
    if not total:
        return human_bytes(copied) if copied else "-"
    # Of what is zero nothing is sent, and what is written meanwhile is sent again: it adds up to no share.
    left = migration.get("RemainingSeconds")
    ends = f", {left} s left" if left is not None else ""
    rest = human_bytes(migration.get("RemainingBytes") or 0)
    return f"{human_bytes(copied or 0)} sent, {rest} of {human_bytes(total)} to go{ends}"
