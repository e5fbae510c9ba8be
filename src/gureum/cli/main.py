"""The command line: what each command takes and says. What a command does is in the module that it imports.

Those imports are inside the commands, so that `gureum --help` and shell completion start at once.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import gureum
from gureum.cli import autosize as autosize_commands  # noqa: F401  (its command is instance_commands.app's)
from gureum.cli import balance as balance_commands  # noqa: F401  (its command is host_commands.app's)
from gureum.cli import events as event_commands
from gureum.cli import host as host_commands
from gureum.cli import instance as instance_commands
from gureum.cli import manager as manager_commands
from gureum.cli import migrations as migration_commands  # noqa: F401  (the same)
from gureum.cli import net as net_commands
from gureum.cli import placement as placement_commands  # noqa: F401  (its commands are instance_commands.app's)
from gureum.cli import power as power_commands  # noqa: F401
from gureum.cli import san as san_commands
from gureum.cli import sim as sim_commands
from gureum.cli import sizes as sizes
from gureum.cli import survival as survival_commands  # noqa: F401  (its commands are host_commands.app's)
from gureum.cli import upgrades as upgrade_commands  # noqa: F401  (its command is host_commands.app's)
from gureum.cli import volume as volume_commands
from gureum.cli.commands import COMMANDS, exit_code_help
from gureum.cli.options import MARKUP, AsJson, StateDir, attend, cloud_at
from gureum.cli.output import MISSING, USAGE, CliError, as_typed, counted, note, show_error, show_json, table

CHECKOUT = Path(__file__).resolve().parents[3]

app = typer.Typer(
    name="gureum",
    help="Linux machines become a cloud with real virtual machines, behind the AWS API.",
    epilog=exit_code_help(),
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
image_app = typer.Typer(help=COMMANDS["image"].help, no_args_is_help=True, rich_markup_mode=MARKUP)
app.add_typer(image_app, name="image")
app.add_typer(host_commands.app, name="host")
app.add_typer(instance_commands.app, name="instance")
app.add_typer(manager_commands.app, name="manager")
app.add_typer(net_commands.app, name="net")
app.add_typer(san_commands.app, name="san")
app.add_typer(sim_commands.app, name="sim")
app.add_typer(volume_commands.app, name="volume")

PASS_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(name: str, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return app.command(name, help=COMMANDS[name].help, **settings)


command("events")(event_commands.events)


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"gureum {gureum.__version__}")
        raise typer.Exit


@app.callback()
def options(
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Agree to installing the Debian packages that the launcher names."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Hypervisors run as users of their own and read what is made here. What is secret has its own mode.
    os.umask(0o022)
    if yes:
        # The launcher has read it; a launcher that this command starts should know too.
        os.environ["GUREUM_YES"] = "1"


@command("up")
def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once the cloud answers.")] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 4566.", show_default=False)
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; other than loopback only with TLS. Default: 127.0.0.1.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file.", show_default=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file.", show_default=False)] = None,
    hosts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many compute hosts to run on this machine, each with a network of its own. Default: 1.",
            show_default=False,
        ),
    ] = None,
    zones: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=3,
            help="In how many zones this machine's hosts are, by turns. With 1 each stands for all of them, "
            "and any can take over for any other. Default: 3.",
            show_default=False,
        ),
    ] = None,
    agents_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS:PORT",
            help="Where hosts of other machines connect (`gureum host join`); off: nowhere. Default: off.",
            show_default=False,
        ),
    ] = None,
    encrypt: Annotated[
        bool | None,
        typer.Option(
            "--encrypt/--no-encrypt",
            help="Encrypt what goes from host to host (WireGuard). Default: no.",
            show_default=False,
        ),
    ] = None,
    ipv6_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="An IPv6 network that your router leads to this machine (or to the network between hosts): "
            "VPCs get theirs from it. off: they get private ones, hidden behind the machine. Default: off.",
            show_default=False,
        ),
    ] = None,
    san: Annotated[
        str | None,
        typer.Option(
            metavar="local|ceph|ceph:CONF[,pool=NAME][,user=NAME]",
            help="Where disks are: on the hosts, in a Ceph cluster of the cloud's own, or in one that is "
            "there. Chosen once. Default: local.",
            show_default=False,
        ),
    ] = None,
    san_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Of each of three OSDs with --san ceph, as 8G; takes only what is written. "
            "Default: a third of what is free, at most 32G.",
            show_default=False,
        ),
    ] = None,
    san_device: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DEVICE",
            help="A block device for an OSD, instead of a file; three or more of them.",
            show_default=False,
        ),
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            "--volume-types",
            metavar="TYPE=POOL,...|off",
            help="In which pool new volumes of a type are: local, or one of the Ceph cluster's, as in "
            "st1=bulk,standard=local. off: all are where --san says. Default: off.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="postgresql://USER@HOST/DATABASE",
            help="Where the cloud's state is, if not in its directory. Chosen once. The password comes from "
            "~/.pgpass, or ?passfile=FILE. Default: store.db in the cloud's directory.",
            show_default=False,
        ),
    ] = None,
    managers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=8,
            help="How many managers to run, to take over from each other. Several need --store. Default: 1.",
            show_default=False,
        ),
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli import ipv6, join, machine_hosts, san_options, storage, volume_types
    from gureum.cli.cloud import require_root
    from gureum.cli.config import naming
    from gureum.cli.store import setting as store_setting

    require_root()
    cloud = cloud_at(state_dir)
    if (joined := cloud.joined()) is not None and not cloud.exists:
        others = (agents_address, encrypt, ipv6_prefix, san, san_size, san_device, types, store, managers)
        if any((port, host, tls_cert, tls_key, hosts, zones, *others)):
            raise CliError(
                f"this machine is host {joined.host} of cloud {joined.cloud}, which has these settings",
                "gureum up without them starts its agent",
                exit_code=USAGE,
            )
        started = cloud.start(None, note)
        if as_json:
            show_json({"host": joined.host, "state_dir": str(cloud.state_dir), "started": started})
        else:
            print(f"host {joined.host} of cloud {joined.cloud}{'' if started else '  (ran already)'}")
        if not detach:
            attend(cloud.state_dir)
        return
    agents = join.agents_settings(agents_address)
    choice = san_options.parse(san, san_size, san_device or ())
    pools = volume_types.parse(types)
    if (hosts, zones) != (None, None):
        machine_hosts.change(cloud, hosts, zones)
    before = cloud.config() if cloud.exists else None
    if encrypt:
        machine_hosts.check_encryption(cloud)
    config = cloud.configure(
        **agents,
        store=store_setting(store, before),
        managers=managers,
        encrypted=encrypt,
        ipv6_prefix=ipv6.prefix_setting(ipv6_prefix),
        hosts=hosts,
        host_zones=zones,
        port=port,
        host=host,
        tls_cert=str(tls_cert.absolute()) if tls_cert else None,
        tls_key=str(tls_key.absolute()) if tls_key else None,
    )
    if before is not None and before != config and cloud.is_running():
        before.save(cloud.state_dir)
        raise CliError(
            "the cloud runs already, with other settings", "gureum down, then up with the new ones"
        )
    if config.agents:
        join.ensure_authority(cloud, config)
    storage.choose(cloud, choice, pools)
    storage.prepare(cloud, config, note)
    started = cloud.start(config, note)
    storage.settle(cloud, note)
    if started and choice is not None and choice.kind == "ceph":
        storage.wait_reached(cloud, note)
    if choice is not None and choice.kind == "ceph" and 1 < config.hosts <= config.host_zones:
        note("each zone has one host, for which its instances would wait; see --zones 1")
    if as_json:
        show_json({"endpoint": config.endpoint, "state_dir": str(cloud.state_dir), "started": started})
    else:
        option = naming(cloud.state_dir)
        ran = "" if started else "  (ran already)"
        print(f"{config.endpoint}  {config.region}  state in {cloud.state_dir}{ran}")
        ways = f'  eval "$(gureum env{option})"    then: aws ec2 describe-images, aws ec2 run-instances ...\n'
        ways += f"  gureum status{option}    gureum logs -f{option}    gureum down{option}"
        print(as_typed(ways), flush=True)
    if not detach:
        attend(cloud.state_dir)


@command("down")
def down(
    keep_guests: Annotated[bool, typer.Option("--keep-guests", help="Leave the guests running.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    cloud = cloud_at(state_dir)
    cloud.require()
    with cloud.transition():
        was_running = cloud.is_running()
        guests = cloud.guests()
        killed = cloud.stop_processes()
        if killed:
            note(f"{len(killed)} processes did not stop in time and were killed")
        if guests and not keep_guests:
            note(f"powering off {counted(len(guests), 'guest')} ...")
        daemons = cloud.running_daemons()
        if not keep_guests and (was_running or guests or daemons or cloud.has_fabric()):
            cloud.evacuate()
        elif not guests:
            cloud.stop_wardens()
            cloud.stop_daemons()
    left = cloud.guests()
    if as_json:
        show_json({"was_running": was_running, "guests_running": left})
        return
    print("stopped" if was_running else "was not running")
    if left:
        todo = "`gureum up` takes them over; `gureum down` powers them off"
        print(as_typed(f"still running: {', '.join(left)}\n  {todo}"))
    elif guests:
        off = f"off: {counted(len(guests), 'guest')}; `gureum up` starts those their owners did not stop"
        print(as_typed(off))


@command("status")
def status(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    from gureum.cli import status as overview

    raise typer.Exit(overview.run(cloud_at(state_dir), as_json=as_json))


@command("env")
def env(
    style: Annotated[str, typer.Option("--format", "-f", help="shell, fish or json.")] = "shell",
    state_dir: StateDir = None,
) -> None:
    from gureum.cli.exports import render

    print(render(cloud_at(state_dir).config(), style))


@command("console")
def console(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="An instance id.")],
    state_dir: StateDir = None,
) -> None:
    from gureum.cli import console as serial

    cloud = cloud_at(state_dir)
    cloud.require()
    stream = serial.connect(serial.console_path(cloud.host_run_dirs(), instance))
    note(f"connected to {instance}; Ctrl-] leaves")
    with stream, serial.raw_terminal(sys.stdin.fileno()):
        ended = serial.relay(stream, sys.stdin.fileno(), sys.stdout.fileno())
    note(f"\n{ended}")


@command("logs")
def logs(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[supervisor|manager|agent|agent-K|warden|warden-K]...",
            help="Default: all.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many from the end of each.")] = 50,
    state_dir: StateDir = None,
) -> None:
    from gureum.cli import logs as reader

    cloud = cloud_at(state_dir)
    cloud.require()
    known = ("supervisor", *cloud.roles, *cloud.daemons)
    chosen = names or list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise CliError(f"there is no log {unknown[0]!r}", f"choose from: {', '.join(known)}", exit_code=USAGE)

    def write(line: str) -> None:
        print(line, flush=follow)

    (reader.follow if follow else reader.show)(cloud.log_dir, chosen, lines, write)


@image_app.command("build", help="Build an image; a running cloud shows it as an AMI at once.")
def image_build(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="tiny: boots in seconds, from Debian packages.")
    ] = "tiny",
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask apt for newer packages first.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli import images

    cloud = cloud_at(state_dir)
    cloud.configure()
    built = images.build(cloud.state_dir / "images", name, refresh=refresh)
    if cloud.supervisor() is not None:
        images.wait_until_shown(cloud, built["ImageId"])
    if as_json:
        show_json(built)
    else:
        print(f"{built['ImageId']}  {built['Name']}  {built['Directory']}")


@image_app.command("list", help="List the AMIs of a running cloud.")
def image_list(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    from gureum.cli import api

    images = api.call(cloud_at(state_dir), "ec2", "describe_images", Owners=["self"]).get("Images", [])
    images.sort(key=lambda image: image.get("CreationDate", ""), reverse=True)
    if as_json:
        show_json(images)
    else:
        columns = ("ImageId", "Name", "State", "Architecture", "CreationDate")
        print(table(columns, [[image.get(column, "-") for column in columns] for image in images]))


@command("doctor")
def doctor(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    import msgspec

    from gureum.cli import doctor as surgery
    from gureum.cli.config import DEFAULT_HOST, DEFAULT_PORT

    cloud = cloud_at(state_dir)
    config = cloud.config() if cloud.exists else None
    host, port = (config.host, config.port) if config else (DEFAULT_HOST, DEFAULT_PORT)
    findings = []
    for finding in surgery.examine(cloud.state_dir, host, port, config):
        findings.append(finding)
        if not as_json:
            print(f"{finding.status:<4}  {finding.name:<10}  {finding.why}")
            if finding.todo:
                print(f"{'':<18}-> {finding.todo}", flush=True)
    if as_json:
        show_json(msgspec.to_builtins(findings))
    if any(finding.status == surgery.FAIL for finding in findings):
        raise typer.Exit(1)


@command("demo")
def demo(
    hosts: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="With --san ceph: so many hosts, of which one is lost.",
            show_default=False,
        ),
    ] = None,
    san: Annotated[
        str | None,
        typer.Option(metavar="ceph", help="With --hosts: disks in a storage cluster.", show_default=False),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's cloud running at the end.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli.cloud import require_root

    require_root()
    story = importlib.import_module("gureum.cli.demo")
    raise typer.Exit(story.run(state_dir, hosts, san, keep=keep, as_json=as_json))


@command("bench", context_settings=PASS_ON)
def bench(
    context: typer.Context,
    minutes: Annotated[
        float | None, typer.Option(help="Of chaos: how long things die. Default: 60.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of chaos: which things die, and when.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli.cloud import require_root

    require_root()
    if "chaos" in context.args:
        if context.args != ["chaos"]:
            raise CliError("chaos runs alone", "gureum bench chaos --minutes 60", exit_code=USAGE)
        raise typer.Exit(importlib.import_module("gureum.cli.chaos").run(minutes, seed, as_json=as_json))
    if (minutes, seed) != (None, None):
        raise CliError("--minutes and --seed are of gureum bench chaos alone", exit_code=USAGE)
    measurements = importlib.import_module("gureum.cli.bench")
    raise typer.Exit(measurements.run(context.args, as_json=as_json))


@command("test", context_settings=PASS_ON)
def test(context: typer.Context) -> None:
    from gureum.cli import layers

    raise typer.Exit(layers.run(CHECKOUT, context.args))


@command("version")
def version(as_json: AsJson = False) -> None:
    if as_json:
        show_json({"version": gureum.__version__})
    else:
        print(f"gureum {gureum.__version__}")


def main() -> int:
    """Runs the command line. No error of any kind shows a traceback, unless $GUREUM_DEBUG asks for it."""
    debug = os.environ.get("GUREUM_DEBUG") == "1"
    try:
        code = app(prog_name="gureum", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CliError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return show_unexpected(error, debug=debug)


def show_unexpected(error: Exception, *, debug: bool) -> int:
    """Usage errors and aborts, as click words them; anything else is a defect and says how to see more."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
        code = getattr(error, "exit_code", USAGE)
        return code if isinstance(code, int) else USAGE
    if type(error).__name__ == "Abort":
        return 130
    if isinstance(error, PermissionError):
        show_error(
            CliError(
                f"{error.filename}: permission denied", "run the same command with sudo", exit_code=MISSING
            )
        )
        return MISSING
    if debug:
        raise error
    show_error(
        CliError(
            f"unexpected {type(error).__name__}: {error}", "run it again with GUREUM_DEBUG=1 to see where"
        )
    )
    return 1
