"""`gureum volume ...`: volumes that go from one pool to another, by the Fleet API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.commands import COMMANDS
from gureum.cli.host import call, show
from gureum.cli.options import MARKUP, AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, CliError, followed, human_bytes, note, table

app = typer.Typer(help=COMMANDS["volume"].help, no_args_is_help=True, rich_markup_mode=MARKUP)

PAGE_MAX = 100

Volume = Annotated[str, typer.Argument(metavar="VOLUME", help="A volume's id.")]


@app.command(
    "move",
    short_help="Move a volume to another pool, also while a guest writes to it.",
    help="Move a volume to another pool: local, which is each host's own, or one of the storage cluster's. "
    "A guest that has it open goes on meanwhile. What is begun goes on by itself, also if the cloud is "
    "restarted.",
    epilog="Exit code 1 if it cannot be moved, or with --wait if it was not.",
)
def move(
    volume: Volume,
    pool: Annotated[
        str, typer.Argument(metavar="POOL", help="local, or one of the cluster's: `gureum san status`.")
    ],
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Whose own pool, for a volume that no instance has."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when it is there.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    wanted = {"VolumeId": volume, "PoolName": pool, **({"HostId": host} if host else {})}
    found: dict[str, Any] = call(state_dir, "move_volume", **wanted)["VolumeMove"]
    if wait:
        found = ended(state_dir, found)
    report(found, as_json=as_json)
    if found["State"] == "moving" and not as_json:
        note("how far it is: gureum volume moves")
    if found["State"] not in ("moving", "completed"):
        raise typer.Exit(FAILED)


@app.command(
    "cancel-move",
    help="Let a volume stay where it is. A guest that has it open goes on; what was copied is removed.",
)
def cancel_move(volume: Volume, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    report(call(state_dir, "cancel_volume_move", VolumeId=volume)["VolumeMove"], as_json=as_json)


@app.command("moves", help="Show the volumes that move between pools, and those that did or could not.")
def moves(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    from gureum.cli import api

    pages = api.pages(cloud_at(state_dir), "fleet", "describe_volume_moves", MaxResults=PAGE_MAX)
    found = [each for page in pages for each in page["VolumeMoves"]]
    if as_json:
        show({"VolumeMoves": found})
        return
    header = ("volume", "from", "to", "state", "copied", "")
    print(table(header, [row(each) for each in found]))


def ended(state_dir: Path | None, move: dict[str, Any]) -> dict[str, Any]:
    """As it is once it has ended."""

    def look() -> dict[str, Any]:
        shown = call(state_dir, "describe_volume_moves", VolumeIds=[move["VolumeId"]])["VolumeMoves"]
        if not shown:
            raise CliError(f"{move['VolumeId']} is gone")
        found: dict[str, Any] = shown[0]
        return found

    return followed(
        move,
        lambda found: found["State"] == "moving",
        lambda found: f"{found['VolumeId']}: {share(found)}",
        look,
    )


def report(move: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show(move)
        return
    words = {
        "moving": f"on its way from {move.get('SourcePoolName')} to {move.get('TargetPoolName')}",
        "completed": f"in {move['PoolName']}",
    }.get(move["State"], f"stays in {move['PoolName']}: {move.get('Message', move['State'])}")
    print(f"{move['VolumeId']}: {words}")


def row(move: dict[str, Any]) -> tuple[object, ...]:
    remark = move.get("Message", "")
    if cleaning := move.get("Cleaning"):
        remark = remark or f"its copy in {', '.join(cleaning)} is being removed"
    names = (move["SourcePoolName"], move["TargetPoolName"])
    return move["VolumeId"], *names, move["State"], share(move), remark


def share(move: dict[str, Any]) -> str:
    """How much of it is copied."""
    done, total = move.get("DoneBytes", 0), move.get("TotalBytes", 0)
    if move["State"] != "moving":
        return "-"
    return f"{human_bytes(done)} of {human_bytes(total)}" if total else "begins"
