"""`gureum san ...`: the storage of a cloud."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import typer

from gureum.cli.commands import COMMANDS
from gureum.cli.options import MARKUP, AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, NOT_RUNNING, CliError, human_bytes, show_json, table

app = typer.Typer(help=COMMANDS["san"].help, no_args_is_help=True, rich_markup_mode=MARKUP)

BLOCK_BYTES = 512


@app.callback()
def san() -> None:
    """A group also with a single command in it."""


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
