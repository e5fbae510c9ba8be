"""`gureum san osd ...`: the OSDs of a cloud's own storage cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gureum.cli.options import MARKUP, AsJson, StateDir, cloud_at
from gureum.cli.output import NOT_RUNNING, USAGE, CliError, note, show_json

if TYPE_CHECKING:
    from gureum.cli.cloud import Cloud
    from gureum.san.ceph.cluster import Cluster, Disk
    from gureum.san.ceph.health import Recovery
    from gureum.san.ceph.osds import Change

app = typer.Typer(
    help="List, add, remove and replace the OSDs of a cloud's own storage cluster.",
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
)

RELOAD_TIMEOUT_S = 20.0
POLL_S = 0.05
SAID_EACH_S = 5.0

Number = Annotated[
    str, typer.Argument(metavar="ID", help="An OSD's number, as `list` shows it.", show_default=False)
]
Device = Annotated[
    Path | None,
    typer.Option("--device", help="A whole disk with nothing on it.", show_default=False),
]
Size = Annotated[
    str | None,
    typer.Option("--size", help="Of a sparse file. Default: as large as the others.", show_default=False),
]


@app.command("list", help="List the OSDs: state, room, disk, and what is to become of them.")
def list_osds(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    from gureum.cli import ceph

    cloud = cloud_at(state_dir)
    cluster = own_cluster(cloud)
    with told():
        found = ceph.look(cloud, cluster.settings())
    if as_json:
        import msgspec

        from gureum.san.ceph.cluster import USED

        changes = {disk.name: disk.state for disk in cluster.disks() if disk.state != USED}
        rows = [{**msgspec.to_builtins(each), "change": changes.get(each.name, "")} for each in found.osds]
        show_json({"osds": rows})
        return
    print(ceph.osd_table(found))
    for finding in ceph.half_done(cluster):
        note(f"{finding.text}: {finding.todo}")


@app.command("add", help="Add an OSD, and wait until its copies are made. Interrupted, the same goes on.")
def add(
    device: Device = None, size: Size = None, state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    cloud = cloud_at(state_dir)
    with change(cloud) as asked:
        bytes, path = chosen(asked.cluster, device, size, None)
        made = asked.add(bytes, path)
    done(cloud, made, f"{made.name} is added", as_json=as_json)


@app.command(
    "replace",
    help="Make an OSD anew whose disk is lost, on the same or another disk, and wait until its copies are "
    "made. Interrupted, the same goes on.",
)
def replace(
    number: Number,
    device: Device = None,
    size: Size = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also one that runs, if the others have copies of all it has.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    cloud = cloud_at(state_dir)
    with change(cloud) as asked:
        before = asked.disk(read_number(number))
        bytes, path = chosen(asked.cluster, device, size, before)
        made = asked.replace(before.number, bytes, path, force=force)
    done(cloud, made, f"{made.name} is replaced", as_json=as_json)


@app.command(
    "remove",
    help="Copy what is on an OSD to the others, and take it away. Interrupted, the same goes on.",
)
def remove(
    number: Number,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Keep it after all: what was copied away comes back.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    cloud = cloud_at(state_dir)
    with change(cloud) as asked:
        disk = asked.disk(read_number(number))
        if cancel:
            asked.keep(disk.number)
        else:
            asked.remove(disk.number)
    done(cloud, disk, f"{disk.name} {'stays' if cancel else 'is removed'}", as_json=as_json)


# ---- what they have in common


def own_cluster(cloud: Cloud) -> Cluster:
    """Raises CliError where the cloud has none."""
    from gureum.errors import ConfigError
    from gureum.san.ceph.cluster import Cluster

    cloud.config()
    try:
        found = Cluster.of(cloud.state_dir)
    except ConfigError as error:
        raise CliError(str(error)) from error
    if found is None:
        raise CliError(
            "this cloud has no storage cluster of its own",
            "its storage: gureum san status. OSDs of another cluster are changed by that one's own tools",
        )
    return found


def not_running(cloud: Cloud) -> CliError:
    from gureum.cli.config import naming

    todo = f"gureum up -d{naming(cloud.state_dir)}"
    return CliError("the cloud is not running", todo, exit_code=NOT_RUNNING)


@contextlib.contextmanager
def change(cloud: Cloud) -> Iterator[Change]:
    """For one change of the cloud's OSDs. Raises CliError."""
    from gureum.san.ceph.osds import Change, Means, changing

    cluster = own_cluster(cloud)
    if cloud.supervisor() is None:
        raise not_running(cloud)
    with told(), changing(cluster):
        yield Change(cluster, Means(lambda: supervise(cloud), note, teller()))


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors of the storage as those of a command."""
    from gureum.errors import GureumError, PoolUnavailable
    from gureum.san.ceph.osds import Refused

    try:
        yield
    except Refused as error:
        raise CliError(str(error), error.todo) from error
    except PoolUnavailable as error:
        raise CliError(
            f"the storage cluster does not answer: {error}",
            "gureum san status; once it does, the same command goes on",
            exit_code=NOT_RUNNING,
        ) from error
    except (GureumError, OSError) as error:
        raise CliError(str(error), "gureum san status; the same command goes on") from error


def read_number(text: str) -> int:
    """Of "1" or "osd.1". Raises CliError."""
    number = text.removeprefix("osd.")
    if not number.isdecimal() or len(number) > 4:
        raise CliError(f"{text!r} is no OSD", "a number, as gureum san osd list shows it", exit_code=USAGE)
    return int(number)


def chosen(cluster: Cluster, device: Path | None, size: str | None, before: Disk | None) -> tuple[int, str]:
    """Bytes of a file, or a device: what was asked for, else as ``before``, else as the others.

    Raises CliError.
    """
    from gureum.cli import storage
    from gureum.cli.san_options import parse_size
    from gureum.san.ceph.making import labels
    from gureum.san.ceph.osds import half_done

    if device is not None and size is not None:
        raise CliError("--device uses a device whole: no --size with it", exit_code=USAGE)
    like = before or half_done(cluster)
    path = str(device.absolute()) if device else ""
    if not device and not size and like is not None:
        path = like.device
    if path:
        used = {disk.device: disk for disk in cluster.disks() if disk.device}
        if (user := used.get(path)) is not None and user != like:
            raise CliError(f"{path} is that of {user.name}")
        storage.check_device(path, labels(cluster, like) if like is not None else ())
        return 0, path
    if size:
        return parse_size(size), ""
    sizes = [disk.bytes for disk in ([like] if like else cluster.disks()) if disk.bytes]
    if not sizes:
        raise CliError("the cluster's OSDs have devices", "say which: --device DEVICE, or --size SIZE")
    return max(sizes), ""


def supervise(cloud: Cloud) -> None:
    """Lets the supervisor run exactly the daemons that are to run, and ends others. Raises CliError."""
    from gureum.cli.cloud import DAEMON_STOP_TIMEOUT_S
    from gureum.cli.config import naming
    from gureum.cli.processes import send, stop, write_whole
    from gureum.cli.supervisor import daemons_file

    which = naming(cloud.state_dir)
    with cloud.transition():
        wanted = cloud.daemons
        before = cloud.running_daemons()
        supervising = cloud.supervisor()
        file = daemons_file(str(cloud.state_dir))
        write_whole(file, "\n".join(wanted))
        if supervising is None or not send(supervising, signal.SIGHUP):
            raise not_running(cloud)
        deadline = time.monotonic() + RELOAD_TIMEOUT_S
        while os.path.exists(file):
            if time.monotonic() > deadline:
                raise CliError(
                    "the supervisor does not answer",
                    f"gureum down --keep-guests{which}; gureum up -d{which}; then the same",
                )
            time.sleep(POLL_S)
        # Only now: until it was told, the supervisor may have started one again.
        running = {*before.items(), *cloud.running_daemons().items()}
        stop([each for name, each in running if name not in wanted], DAEMON_STOP_TIMEOUT_S)


def teller() -> Callable[[Recovery], None]:
    """Says how far it is, when that is other than before and not too often."""
    from gureum.cli import ceph

    said_at, said = 0.0, ""

    def tell(recovery: Recovery) -> None:
        nonlocal said_at, said
        text = ceph.recovery(recovery)
        if text != said and time.monotonic() - said_at >= SAID_EACH_S:
            said_at, said = time.monotonic(), text
            note(f"  {text}")

    return tell


def done(cloud: Cloud, disk: Disk, text: str, *, as_json: bool) -> None:
    from gureum.cli import ceph

    cluster = own_cluster(cloud)
    with told():
        health = ceph.look(cloud, cluster.settings()).health
    if as_json:
        show_json({"osd": disk.name, "health": health.status})
        return
    print(f"{text}; storage: {ceph.WORDS[health.status]}")
    for finding in health.findings:
        note(f"  {finding.severity:<7}  {finding.text}  [{finding.code}]")
