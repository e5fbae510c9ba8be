"""`gureum san backup` and `restore`: snapshots to files and back, by the EBS direct APIs of any cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gureum.cli.options import AsJson, StateDir
from gureum.cli.output import USAGE, CliError, human_bytes, show_json

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        help="Another cloud than the one of --state-dir: the address of its API, or `aws` for AWS itself, "
        "with credentials and region as AWS's tools find them.",
        show_default=False,
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What the backup's files are encrypted with. `backup` makes it if there is none: keep copies of "
        "it, apart from the backup.",
        show_default=False,
    ),
]
Place = Annotated[Path, typer.Argument(metavar="DIR", help="The backup's directory.", show_default=False)]


def backup(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SNAPSHOT|VOLUME",
            help="A completed snapshot, or a volume, of which a snapshot is taken.",
            show_default=False,
        ),
    ],
    directory: Place,
    key_file: KeyFile = None,
    clear: Annotated[
        bool,
        typer.Option(
            "--clear", help="Of an encrypted volume or snapshot, write files that are not encrypted."
        ),
    ] = False,
    endpoint_url: Endpoint = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli.backup_files import BLOCK_BYTES, Directory
    from gureum.cli.backups import Api, Backup, reported

    if clear and key_file is not None:
        raise CliError("--clear and --key-file exclude each other", exit_code=USAGE)
    with reported(), Directory(directory) as files:
        point, bytes_read = Backup(Api(endpoint_url, state_dir), files, key_file, clear).run(source)
        size = point.data_blocks * BLOCK_BYTES
        answer = {
            "SnapshotId": point.snapshot,
            "Directory": str(directory),
            "Parent": point.parent or None,
            "Blocks": point.data_blocks,
            "Bytes": size,
            "BytesRead": bytes_read,
            "Encrypted": files.seal is not None,
        }
    if as_json:
        show_json(answer)
    else:
        what = f"what changed since {point.parent}" if point.parent else "all of it"
        print(f"{point.snapshot}: {what}, {human_bytes(size)}, is in {directory}")


def restore(
    directory: Place,
    snapshot: Annotated[
        str | None,
        typer.Option(help="Which of the backup's snapshots. Default: the last.", show_default=False),
    ] = None,
    key_file: KeyFile = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Of an encrypted snapshot, make one that is not encrypted.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only read the backup, and check that it is whole.")
    ] = False,
    endpoint_url: Endpoint = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli.backup_files import BLOCK_BYTES, Directory
    from gureum.cli.backups import Api, reported
    from gureum.cli.restores import Restore

    if not directory.is_dir():
        raise CliError(f"{directory} is no directory")
    with reported(), Directory(directory) as files:
        plan = Restore(files, snapshot or "")
        if key_file is not None or not verify:
            plan.unlock(key_file)
        plan.verify()
        if verify:
            answer = {"Snapshot": plan.point.snapshot, "Blocks": len(plan.where), "Whole": True}
        else:
            id = plan.run(Api(endpoint_url, state_dir), clear)
            answer = {"SnapshotId": id, "RestoredFrom": plan.point.snapshot, "Blocks": len(plan.where)}
    if as_json:
        show_json(answer)
    elif verify:
        print(f"{plan.point.snapshot} is whole: {human_bytes(len(plan.where) * BLOCK_BYTES)} of data")
    else:
        print(answer["SnapshotId"])
