"""`gureum instance resize ...`: running instances that get another type, by the Fleet API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.host import call, show
from gureum.cli.instance import app
from gureum.cli.options import AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, followed, note, table

PAGE_MAX = 100
UNDER_WAY = ("waiting", "resizing", "moving")

Instance = Annotated[str, typer.Argument(metavar="INSTANCE", help="A running instance's id.")]


@app.command(
    "resize",
    short_help="Give a running instance another type.",
    help="Give a running instance another type: its guest gets that one's vCPUs and memory, or gives up what "
    "is too much, and goes on meanwhile. Where its host has no room it migrates to one that has.",
    epilog="Exit code 1 if it cannot have the type, or with --wait if its guest does not go along.",
)
def resize(
    instance: Instance,
    type: Annotated[str, typer.Option("--type", metavar="TYPE", help="The type that it gets.")],
    move: Annotated[bool, typer.Option("--move/--no-move", help="Whether it may go to another host.")] = True,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when it has the size.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    answer = call(state_dir, "resize_instance", InstanceId=instance, InstanceType=type, MoveIfFull=move)
    found: dict[str, Any] = answer["InstanceSize"]
    if wait:
        found = _settled(state_dir, found)
    if as_json:
        show(found)
    else:
        print(f"{found['InstanceId']}: {_words(found)}")
        if found["State"] in UNDER_WAY:
            note("how far it is: gureum instance sizes")
    if wait and (found["State"] != "settled" or found["InstanceType"] != type):
        if found["InstanceType"] != type:
            note("it did not become what was asked for; why: gureum events")
        raise typer.Exit(FAILED)


@app.command("sizes", help="Show what instances have of vCPUs and memory, and what they can have.")
def sizes(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    from gureum.cli import api

    pages = api.pages(cloud_at(state_dir), "fleet", "describe_instance_sizes", MaxResults=PAGE_MAX)
    found = [each for page in pages for each in page["InstanceSizes"]]
    if as_json:
        show({"InstanceSizes": found})
        return
    print(table(("instance", "type", "state", "vcpus", "MiB", "at most", ""), [_row(each) for each in found]))


def _settled(state_dir: Path | None, size: dict[str, Any]) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        answer = call(state_dir, "describe_instance_sizes", InstanceIds=[size["InstanceId"]])
        found: dict[str, Any]
        [found] = answer["InstanceSizes"]
        return found

    def words(found: dict[str, Any]) -> str:
        return f"{found['InstanceId']}: {_words(found)}"

    return followed(size, lambda found: found["State"] in UNDER_WAY, words, look)


def _words(size: dict[str, Any]) -> str:
    has = f"{size['VCpus']} vCPUs and {size['MemoryMiB']} MiB" if "VCpus" in size else "a size not known"
    if size["State"] == "moving":
        return f"migrates to become a {size['TargetInstanceType']} ({size['MigrationId']})"
    if size["State"] == "waiting":
        return f"is to become a {size['TargetInstanceType']}{_reason(size)}"
    if size["State"] == "settled":
        return f"a {size['InstanceType']}, with {has}"
    return f"becomes a {size['InstanceType']}, and has {has}{_reason(size)}"


def _reason(size: dict[str, Any]) -> str:
    return f": {size['Message']}" if size.get("Message") else ""


def _row(size: dict[str, Any]) -> tuple[object, ...]:
    known = "VCpus" in size
    return (
        size["InstanceId"],
        size["InstanceType"],
        size["State"],
        f"{size['VCpus']} of {size['TypeVCpus']}" if known else size["TypeVCpus"],
        f"{size['MemoryMiB']} of {size['TypeMemoryMiB']}" if known else size["TypeMemoryMiB"],
        f"{size['VCpusMax']}, {size['MemoryMiBMax']} MiB" if known else "-",
        size.get("Message", ""),
    )
